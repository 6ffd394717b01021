"""Whether what a case is judged by is measured now: the case again, on other weights and fewer tokens.

Digests that were kept from an earlier run, by model and recipe, are the accepted ones whatever the cast does
today. Equal bits cannot tell; so a row of one weight changes its sign, and its digests have to change, and
those of no other module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from mxcheck.gate.record import Record

if TYPE_CHECKING:
    from torch import nn

    from mxcheck.measure.session import Resident

_SEQUENCES, _LENGTH = 1, 16


def stale(record: Record, bench: Resident, measure: Callable[[Resident], Record]) -> str | None:
    """What of a record was not measured when it should have been, in one line; empty where all was. None: the
    model has no weight to try it on.

    Args:
        record: of the model on the bench.
        bench: its model is changed for as long as this takes, and put back bit for bit.
        measure: measures the same case on a bench.
    """
    from mxcheck.evaluation.measure import evaluate

    if (name := _chosen(record, bench.loaded.model)) is None:
        return None
    tokens = bench.text.tokens[:_SEQUENCES, :_LENGTH].contiguous()
    with _turned(bench.loaded.model, name):
        reference = evaluate(bench.loaded.model, tokens, keep_log_probabilities=True)
        other = replace(
            bench, text=replace(bench.text, tokens=tokens), reference=reference, states="a check needs none"
        )
        found = measure(other)
    changed = {one for one in record.digests if record.digests[one] != found.digests.get(one)}
    parts = {
        "digests": changed != {name},
        "losses": found.sequence_losses[:_SEQUENCES] == record.sequence_losses[:_SEQUENCES],
    }
    wrong = [what for what, same in parts.items() if same]
    if not wrong:
        return ""
    return (
        f"mxcheck does not measure what it shows: one weight of {name} was changed, and {', '.join(wrong)} "
        f"of {record.id} did not follow (other digests: {', '.join(sorted(changed)) or 'none'}); no figure "
        f"of this run counts; remove what is kept from earlier runs, or install mxcheck anew"
    )


def _chosen(record: Record, model: nn.Module) -> str | None:
    """The smallest module whose weights were cast and that shares them with no other."""
    sizes: dict[str, int] = {}
    for name, digests in record.digests.items():
        if name in record.replaced and {"codes", "scales"} <= digests.keys():
            weight = getattr(model.get_submodule(name), "weight", None)
            if weight is None or weight.is_meta or record.replaced[name] == "lm_head":
                continue
            if weight.any():
                sizes[name] = weight.numel()
    return min(sizes, key=lambda name: (sizes[name], name), default=None)


@contextmanager
def _turned(model: nn.Module, name: str) -> Iterator[None]:
    """While the context lasts, the row with a module's largest weight has the other sign."""
    import torch

    weight = model.get_submodule(name).get_parameter("weight")
    with torch.no_grad():
        row = int(weight.abs().amax(-1).argmax())
        rows = weight[row : row + 1]
        before = rows.clone()
        rows.neg_()
    try:
        yield
    finally:
        with torch.no_grad():
            rows.copy_(before)
