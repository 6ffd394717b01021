"""Test that a case is measured now: measure it again, on other weights and fewer tokens.

Digests cached from an earlier run, by model and recipe, would equal the accepted ones whatever the cast does
today. Equal bits cannot reveal that; so one row of a weight changes its sign, which must change the digests
of its module and of no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from mxcheck.gate.record import Record

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mxcheck.measure.model_session import Resident

_SEQUENCES, _LENGTH, _LEAST = 1, 16, 2


def stale(record: Record, resident: Resident, measure: Callable[[Resident], Record]) -> str | None:
    """Return what of a record was not measured when it should have been, in one line; empty if all was. None:
    the model has no weight to try it on.

    Args:
        record: of the resident model.
        resident: its model is changed during the call, and restored bit for bit.
        measure: measures the same case on a resident model.
    """
    from mxcheck.evaluation.measure import evaluate
    from mxcheck.kernels.grown import growing

    if (name := _chosen(record, resident.loaded.model)) is None:
        return None
    whole = resident.text.tokens
    # Fewer tokens than in the record, so that the losses differ even if the changed weights (an expert's,
    # say) are not used.
    length = min(_LENGTH, max(_LEAST, whole.shape[1] - 1))
    tokens = whole[:_SEQUENCES, :length].contiguous()
    with _turned(resident.loaded.model, name):
        reference = evaluate(resident.loaded.model, tokens, keep_log_probabilities=True)
        other = replace(
            resident,
            text=replace(resident.text, tokens=tokens),
            reference=reference,
            states="a check needs none",
        )
        with growing(whatever_comes=True):
            found = measure(other)
    changed = {one for one in record.digests if record.digests[one] != found.digests.get(one)}
    parts = {
        "digests": changed != {name},
        "losses": tokens.shape[1] < whole.shape[1]
        and found.sequence_losses[:_SEQUENCES] == record.sequence_losses[:_SEQUENCES],
    }
    wrong = [what for what, same in parts.items() if same]
    if not wrong:
        return ""
    return (
        f"mxcheck does not measure what it shows: one weight of {name} was changed, and {', '.join(wrong)} "
        f"of {record.id} did not follow (other digests: {', '.join(sorted(changed)) or 'none'}); no figure "
        f"of this run counts; remove results cached from earlier runs, or reinstall mxcheck"
    )


def _chosen(record: Record, model: nn.Module) -> str | None:
    """Return the smallest module whose weights were cast and are shared with no other."""
    sizes: dict[str, int] = {}
    for name, digests in record.digests.items():
        if name in record.replaced and {"codes", "scales"} <= digests.keys():
            weight = getattr(model.get_submodule(name), "weight", None)
            if weight is not None and not weight.is_meta and weight.any():
                sizes[name] = weight.numel()
    places = [
        (other.device, *_memory(other)) for one in model.modules() for other in one.parameters(recurse=False)
    ]

    def shared(name: str) -> bool:
        weight = model.get_submodule(name).get_parameter("weight")
        start, end = _memory(weight)
        return sum(on == weight.device and first < end and start < last for on, first, last in places) > 1

    smallest = sorted(sizes, key=lambda name: (sizes[name], name))
    return next((name for name in smallest if not shared(name)), None)


def _memory(values: Tensor) -> tuple[int, int]:
    """Return the addresses of a tensor's first element and of its end."""
    steps = zip(values.shape, values.stride(), strict=True)
    span = 1 + sum((size - 1) * step for size, step in steps) if values.numel() else 0
    return values.data_ptr(), values.data_ptr() + span * values.element_size()


@contextmanager
def _turned(model: nn.Module, name: str) -> Iterator[None]:
    """Flip the sign of the row with a module's largest weight, within the context."""
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
