"""A recipe on trial: the model converted by it, what it then computes, and the model put back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mxcheck.evaluation.measure import Measurement, evaluate
from mxcheck.evaluation.sqnr import local_sqnr
from mxcheck.models.convert import convert
from mxcheck.models.probe import digests

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mxcheck.evaluation.metrics import Metric
    from mxcheck.models.recipe import Recipe

#: Sequences that the local SQNR is taken on: it finds a place, it does not judge.
SQNR_SEQUENCES = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Emulated:
    """What became of a model under a recipe: what was converted, and what that computes."""

    result: Measurement
    digests: dict[str, dict[str, str]]
    sqnr: dict[str, float]
    changes_bits: bool | None
    replaced: dict[str, str]
    unconverted: dict[str, str]
    weight_bytes: int
    original_bytes: int


def emulate(
    model: nn.Module,
    recipe: Recipe,
    tokens: Tensor,
    reference: Measurement,
    *,
    batch_size: int,
    metrics: Sequence[Metric] = (),
    begin: Callable[[], Callable[[int], None] | None] = lambda: None,
) -> Emulated:
    """Convert `model` by `recipe`, measure it on tokens [sequences, length], and put it back bit for bit.

    `begin` is called when the model is converted; what it returns hears of each batch.

    Raises ValueError as `convert` and `evaluate` do, UnavailableError where the recipe's library cannot run
    here or on this model.
    """
    conversion = convert(model, recipe)
    try:
        # before anything else runs: a library may fix its scales by what it sees first
        result = evaluate(
            model, tokens, reference=reference, batch_size=batch_size, metrics=metrics, progress=begin()
        )
        conversion.note_what_ran()
        bits = digests(conversion)
        sqnr = local_sqnr(conversion, tokens[:SQNR_SEQUENCES], batch_size=batch_size)
    finally:
        conversion.undo()
    return Emulated(
        result=result,
        digests=bits,
        sqnr=sqnr,
        changes_bits=conversion.changes_bits,
        replaced=conversion.replaced,
        unconverted=conversion.unconverted,
        weight_bytes=conversion.weight_bytes,
        original_bytes=conversion.original_bytes,
    )
