"""The shrinker: the smallest input that still shows a mismatch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mxcheck.conformance.verifier import Comparison, compare
from mxcheck.formats.spec import CastSpec, resolve_axis, scales_shape
from mxcheck.kernels.api import Kernel

#: What one counterexample may cost: calls of the implementation, and elements in all of them.
_MOST_CALLS, _MOST_ELEMENTS = 600, 1 << 24
# Significand bits kept when values are made plainer, coarsest first.
_KEPT_BITS = (0, 1, 2, 3, 4, 7, 10, 15, 20)
_FRACTION_BITS = {torch.float32: 23, torch.bfloat16: 7, torch.float16: 10}
_SAME_SIZE_INT = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counterexample:
    """The smallest input found that shows a mismatch of a kind: one block, unless it takes more.

    Attributes:
        kind: of `verifier.KINDS`.
        x: the input, in the dtype that was used.
        spec: the cast.
        comparison: what came of it.
        note: what the input alone does not tell; empty mostly.
    """

    kind: str
    x: Tensor
    spec: CastSpec
    comparison: Comparison
    note: str = ""

    @property
    def single_block(self) -> bool:
        """Whether x has one scale."""
        return math.prod(scales_shape(tuple(self.x.shape), self.spec)) == 1


def shrink(kernel: Kernel, x: Tensor, spec: CastSpec, kind: str, place: tuple[int, ...]) -> Counterexample:
    """Shrink a mismatch that `compare(kernel, x, spec)` found at `place`.

    First the one block that holds it, alone; where that is not enough (a scale of the whole tensor, blocks
    that run along another axis), the whole input. Then slices go that are not needed, elements become zeros,
    and the others plainer, as long as a mismatch of the kind remains; of another kind, where the block alone
    shows another one. What a contiguous copy does not show is left as it is, with a note.
    """
    search = _Search(kernel=kernel, kind=kind)
    block, block_spec = one_block(x, spec, place)
    if not search.shows(block, block_spec):
        if search.last.counts:
            search.kind = next(iter(search.last.counts))
        else:
            block, block_spec = x.contiguous(), spec
            if not search.shows(block, block_spec):
                return _as_it_is(search, x, spec)
            block, block_spec = search.smaller(block, block_spec)
    if block_spec.block_size is None:
        block, block_spec = search.smaller(block, block_spec)
    smallest = search.plainer(search.fewer(block, block_spec), block_spec)
    comparison = compare(kernel, smallest, block_spec)
    if search.kind not in comparison.counts:
        return _as_it_is(search, x, spec)
    return Counterexample(kind=search.kind, x=smallest, spec=block_spec, comparison=comparison)


def _as_it_is(search: _Search, x: Tensor, spec: CastSpec) -> Counterexample:
    """The input that the mismatch was found with: nothing smaller shows it."""
    comparison = compare(search.kernel, x, spec)
    note = "it did not show again: the implementation does not always give the same"
    if search.kind in comparison.counts:
        note = f"a contiguous copy does not show it: strides {tuple(x.stride())}"
    return Counterexample(kind=search.kind, x=x, spec=spec, comparison=comparison, note=note)


def one_block(x: Tensor, spec: CastSpec, place: tuple[int, ...]) -> tuple[Tensor, CastSpec]:
    """The block that `place` lies in, as a tensor of as many dimensions, and its cast."""
    axis = resolve_axis(x.dim(), spec.axis)
    parts = []
    for at, (index, size) in enumerate(zip(place, x.shape, strict=True)):
        if spec.block.whole_tensor or (at == axis and spec.block_size is None):
            parts.append(slice(0, size))
        elif at == axis and spec.block_size is not None:
            start = index // spec.block_size * spec.block_size
            parts.append(slice(start, min(start + spec.block_size, size)))
        else:
            parts.append(slice(index, index + 1))
    where = tuple(parts)
    random = None if spec.random is None else spec.random[where].contiguous()
    return x[where].contiguous(), replace(spec, random=random)


@dataclass(slots=True, kw_only=True)
class _Search:
    kernel: Kernel
    kind: str
    calls: int = 0
    elements: int = 0
    last: Comparison = field(default_factory=Comparison)

    def shows(self, x: Tensor, spec: CastSpec) -> bool:
        """Whether the mismatch is there; no more after too much work."""
        self.calls += 1
        self.elements += x.numel()
        if self.calls > _MOST_CALLS or self.elements > max(_MOST_ELEMENTS, 4 * x.numel()):
            return False
        self.last = compare(self.kernel, x, spec)
        return self.kind in self.last.counts

    def smaller(self, x: Tensor, spec: CastSpec) -> tuple[Tensor, CastSpec]:
        """x without slices that are not needed: along each axis, whole blocks of it along the cast's."""
        block_axis = resolve_axis(x.dim(), spec.axis)
        for axis in range(x.dim()):
            unit = spec.block_size or 1 if axis == block_axis else 1
            stretch = -(-x.shape[axis] // unit // 2) * unit
            while stretch >= unit:
                start = 0
                while start < x.shape[axis] and x.shape[axis] > stretch:
                    kept = [i for i in range(x.shape[axis]) if not start <= i < start + stretch]
                    shorter, shorter_spec = _selected(x, spec, axis, kept)
                    if (_bits(shorter).any() or not _bits(x).any()) and self.shows(shorter, shorter_spec):
                        x, spec = shorter, shorter_spec
                    else:
                        start += stretch
                if stretch == unit:
                    break
                stretch = max(unit, stretch // 2 // unit * unit)
        return x, spec

    def fewer(self, x: Tensor, spec: CastSpec) -> Tensor:
        """x with as many zeros as can be, by halves, quarters, … and one by one. A mismatch of a zero input
        is often another one, so the last number stays."""
        x = x.clone().contiguous()
        flat = x.view(-1)
        stretch = flat.numel()
        while stretch:
            for start in range(0, flat.numel(), stretch):
                kept = flat[start : start + stretch].clone()
                if not _bits(kept).any():
                    continue
                flat[start : start + stretch] = 0
                if not _bits(flat).any() or not self.shows(x, spec):
                    flat[start : start + stretch] = kept
            stretch //= 2
        return x

    def plainer(self, x: Tensor, spec: CastSpec) -> Tensor:
        """x with fewer signs and fewer significand bits. A NaN is no plainer Inf: it stays."""
        flat = _bits(x.view(-1))  # shares x's memory
        for at in (flat.ne(0) & x.view(-1).isfinite()).nonzero().flatten().tolist():
            kept = int(flat[at])
            for candidate in _plainer_values(kept, x.dtype):
                flat[at] = candidate
                if self.shows(x, spec):
                    kept = candidate
                    break
                flat[at] = kept
        return x


def _selected(x: Tensor, spec: CastSpec, axis: int, kept: list[int]) -> tuple[Tensor, CastSpec]:
    index = torch.tensor(kept)
    random = None if spec.random is None else spec.random.index_select(axis, index)
    return x.index_select(axis, index), replace(spec, random=random)


def _plainer_values(bits: int, dtype: torch.dtype) -> list[int]:
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


def _bits(values: Tensor) -> Any:
    return values.view(_SAME_SIZE_INT[values.dtype])
