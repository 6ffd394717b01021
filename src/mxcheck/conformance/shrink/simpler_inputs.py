"""Simplify inputs: reorder, scale by a power of two, remove a slice, make numbers plainer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mxcheck.formats.spec import CastSpec, resolve_axis

# Significand bits to keep in plainer values, fewest first.
_KEPT_BITS = (0, 1, 2, 3, 4, 7, 10, 15, 20)
_FRACTION_BITS = {torch.float32: 23, torch.bfloat16: 7, torch.float16: 10}
_SAME_SIZE_INT = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def orders(
    x: Tensor, spec: CastSpec, axis: int, place: list[int], *, first_of_scale: bool
) -> Iterator[list[int]]:
    """Yield orders of the indices along an axis that bring the block of `place` to the front; then, along the
    blocks, the element itself (for a scale the largest one), followed by nonzero elements. `place` is
    updated."""
    indices = list(range(x.shape[axis]))
    along = axis == resolve_axis(x.dim(), spec.axis)
    if not along:
        yield [place[axis], *(at for at in indices if at != place[axis])]
        return
    unit = spec.block_size or x.shape[axis]
    start = place[axis] // unit * unit
    if start + unit <= x.shape[axis]:
        yield [*indices[start : start + unit], *indices[:start], *indices[start + unit :]]
    start = place[axis] // unit * unit
    block = indices[start : start + unit]
    where: list[Any] = list(place)
    where[axis] = slice(start, start + len(block))
    numbers = x[tuple(where)].double()
    zero = bits(x[tuple(where)]) == 0
    lead = int(torch.where(zero, -1.0, numbers.abs().nan_to_num(torch.inf)).argmax())
    first = start + lead if first_of_scale else place[axis]
    rest = sorted((at for at in block if at != first), key=lambda at: bool(zero[at - start]))
    yield [*indices[:start], first, *rest, *indices[start + len(block) :]]


def laid_out_like(x: Tensor, numbers: Tensor) -> Tensor:
    """Copy numbers into memory with x's strides and offset; contiguous where elements of x share memory."""
    if 0 in x.stride():
        return numbers.contiguous()
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    memory = torch.zeros(x.storage_offset() + last + 1, dtype=numbers.dtype)
    return memory.as_strided(x.shape, x.stride(), x.storage_offset()).copy_(numbers)


def shifted(x: Tensor, by: int) -> Tensor | None:
    """Return x times 2^by; None if that is not exact."""
    moved = (x.double() * 2.0**by).to(x.dtype)
    back = moved.double() * 2.0**-by
    return moved if torch.equal(back.nan_to_num(1.5), x.double().nan_to_num(1.5)) else None


def unit_along(x: Tensor, spec: CastSpec, axis: int) -> int:
    """Return the unit in which x may be cut along an axis: a block along the cast's axis."""
    return (spec.block_size or 1) if axis == resolve_axis(x.dim(), spec.axis) else 1


def without(x: Tensor, spec: CastSpec, axis: int, start: int, length: int) -> tuple[Tensor, CastSpec]:
    """Return x without `length` slices along an axis, from `start` on."""
    index = torch.cat([torch.arange(start), torch.arange(min(start + length, x.shape[axis]), x.shape[axis])])
    random = None if spec.random is None else spec.random.index_select(axis, index)
    return x.index_select(axis, index), replace(spec, random=random)


def plainer_values(bits: int, dtype: torch.dtype) -> list[int]:
    """Return bits of nearby numbers with fewer significand bits, plainest first."""
    width = _FRACTION_BITS[dtype]
    size = torch.iinfo(_SAME_SIZE_INT[dtype]).bits
    unsigned = bits & ((1 << (size - 1)) - 1)
    found = []
    for magnitude in [unsigned >> (width - keep) << (width - keep) for keep in _KEPT_BITS if keep < width]:
        if magnitude:
            found += [magnitude, _signed(magnitude | 1 << (size - 1), size) if bits < 0 else magnitude]
    return [value for value in dict.fromkeys([*found, unsigned]) if value != bits]


def _signed(bits: int, size: int) -> int:
    return bits - (1 << size) if bits >> (size - 1) else bits


def bits(values: Tensor) -> Any:
    """View the bits of these numbers as integers in the same memory."""
    return values.view(_SAME_SIZE_INT[values.dtype])
