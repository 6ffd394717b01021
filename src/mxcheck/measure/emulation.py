"""Emulate a recipe: convert the model, measure it, and restore it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from mxcheck.evaluation.cast_counts import counters, counting, expert_rows
from mxcheck.evaluation.layer_states import TOKENS, LayerStates, run
from mxcheck.evaluation.measure import Measurement, evaluate
from mxcheck.evaluation.spent import spent_on
from mxcheck.evaluation.sublayer_errors import SublayerErrors, sublayer_errors
from mxcheck.kernels.grown import as_it_is, growing
from mxcheck.measure.memory_choice import memory_of
from mxcheck.measure.steady_casts import SteadyCasts
from mxcheck.models.conversion.convert import Conversion

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mxcheck.evaluation.metrics import Metric
    from mxcheck.gate.counters import Absent, Counters, OperandCounts, Operands
    from mxcheck.gate.row_groups import Digests
    from mxcheck.models.recipes.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Emulated:
    """Results of a model under a recipe: the conversion and its figures. `dtype` is that of the converted
    model: a recipe may change it. `memory`: where its quantized weights were (`convert`). `unsteady`: modules
    whose casts changed, and how; `refused`: kinds of input that the kernel refuses, and why."""

    result: Measurement
    dtype: torch.dtype
    digests: Digests
    memory: str
    unsteady: dict[str, str]
    refused: dict[str, str]
    sublayers: SublayerErrors | None
    counters: Counters
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
    states: LayerStates | None,
    *,
    batch_size: int,
    metrics: Sequence[Metric] = (),
    begin: Callable[[], Callable[[int], None] | None] = lambda: None,
    held: set[Hashable] | None = None,
    memory: str = "kept",
) -> Emulated:
    """Convert `model` by `recipe`, measure it on tokens [sequences, length], and restore it bit for bit.

    `states` are the start states for the errors of decoder layers; None: these are not measured. `begin` is
    called when the model is converted; the function it returns is called for each batch. `held` holds the
    keys of casts' code that was tested before (`SteadyCasts`). `memory` is `auto`, `kept` or `lean`
    (`memory_choice.memory_of`).

    Raises ValueError as `convert` and `evaluate` do, UnavailableError where the recipe's library cannot run
    here or on this model.
    """
    with spent_on("convert"):
        casts = SteadyCasts(model, recipe, held, memory=memory_of(memory, model, recipe))
    conversion = casts.conversion
    try:
        with growing():  # except for the text, only probes and passes of few tokens follow
            with spent_on("digests"):
                digests = casts.first()
            # before any other forward pass: a library may fix its scales by its first input
            with casts.measuring(), as_it_is():
                result = evaluate(
                    model,
                    tokens,
                    reference=reference,
                    batch_size=batch_size,
                    metrics=metrics,
                    progress=begin(),
                )
            conversion.note_what_ran()
            rows = expert_rows(conversion)  # of the tokens: later passes add rows of their own
            with spent_on("layers"):
                layers, activations = _layers(conversion, tokens, states)
            dtype = next(model.parameters()).dtype
            with spent_on("digests"):
                casts.last(tokens.shape[1])
    finally:
        conversion.undo()
    return Emulated(
        result=result,
        dtype=dtype,
        digests=digests,
        memory=conversion.memory,
        unsteady=casts.wrong,
        refused=casts.refused,
        sublayers=layers,
        counters=counters(conversion, activations, rows),
        changes_bits=conversion.changes_bits,
        replaced=conversion.replaced,
        unconverted=conversion.unconverted,
        weight_bytes=conversion.weight_bytes,
        original_bytes=conversion.original_bytes,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Repeated:
    """What other arithmetic may change of a model under a recipe, and what it must not: the digests.
    `unsteady`: modules with a wrong cast, and how."""

    result: Measurement
    digests: Digests
    unsteady: dict[str, str]
    sublayers: SublayerErrors | None


def repeat(
    model: nn.Module,
    recipe: Recipe,
    tokens: Tensor,
    reference: Measurement,
    states: LayerStates | None,
    *,
    batch_size: int,
    held: set[Hashable] | None = None,
    memory: str = "kept",
) -> Repeated:
    """Measure under other arithmetic what `emulate` measured: the same figures, of the same passes. The casts
    are tested as there, since other instructions may take another path through them; nothing is counted.

    Arguments and errors are those of `emulate`.
    """
    casts = SteadyCasts(model, recipe, held, memory=memory_of(memory, model, recipe))
    try:
        with growing():
            digests = casts.first()
            with casts.measuring(), as_it_is():
                result = evaluate(model, tokens, reference=reference, batch_size=batch_size)
            layers = None if states is None else sublayer_errors(casts.conversion, states)
            casts.last(tokens.shape[1])
    finally:
        casts.conversion.undo()
    return Repeated(result=result, digests=digests, unsteady=casts.wrong, sublayers=layers)


def _layers(
    conversion: Conversion, tokens: Tensor, states: LayerStates | None
) -> tuple[SublayerErrors | None, Operands]:
    """Measure the layers, and count what the casts of activations do in the pass in which each layer starts
    from its state; without states, in one of its own over the first tokens."""
    if states is None:
        with torch.inference_mode(), counting(conversion) as found:
            run(conversion.model, tokens[:1, :TOKENS])
        return None, found
    counts: dict[str, Mapping[str, OperandCounts | Absent]] = {}

    @contextmanager
    def counted() -> Iterator[None]:
        with counting(conversion) as found:
            yield
        counts.update(found)

    return sublayer_errors(conversion, states, beside=counted()), counts
