"""Reduce a large input to one block of it among equal numbers, in as few rows and blocks as still show a
mismatch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor

from mxcheck.formats.spec import CastSpec, resolve_axis

#: Returns whether the mismatch still shows.
Shows = Callable[[Tensor, CastSpec], bool]

# Rows, and blocks per row, that are tried, fewest first: sizes where fast paths begin and end. The range
# between the first that shows the mismatch and the one before it is bisected.
_SIZES = (1, 2, 3, 4, 8, 16, 17, 31, 32, 33, 64, 127, 128, 129, 256, 384, 512, 1024, 4096, 65_536)
# Fill around the block. Zeros are the shortest to write; 1.5 serves where a zero itself goes wrong.
_AROUND = (0.0, 1.5)
# Bisect only up to this many elements per call.
_WORTH_HALVING = 1 << 19
# Position of a block in a shorter axis.
_SAME, _FIRST, _LAST = "same", "first", "last"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lone:
    """A block at a corner of a tensor that is filled with one number. `units` are the units in which the axes
    may be cut; `tail`: the last block of the cast's axis is partial."""

    block: Tensor
    spec: CastSpec
    corner: tuple[int, ...]
    shape: tuple[int, ...]
    units: tuple[int, ...]
    around: float

    def cast(self) -> tuple[Tensor, CastSpec]:
        """Return the tensor and its cast; random integers outside of the block are 0."""
        where = tuple(slice(at, at + size) for at, size in zip(self.corner, self.block.shape, strict=True))
        x = torch.full(self.shape, self.around, dtype=self.block.dtype)
        x[where] = self.block
        if self.spec.random is None:
            return x, self.spec
        random = torch.zeros(self.shape, dtype=torch.int64)
        random[where] = self.spec.random
        return x, replace(self.spec, random=random)

    def shorter(self, axis: int, length: int, to: str) -> Lone | None:
        """Return the same in a tensor of another length; None where the block does not lie in it that way."""
        size, unit = self.block.shape[axis], self.units[axis]
        last = length - size if size < unit else (length - size) // unit * unit
        at = {_SAME: self.corner[axis], _FIRST: 0, _LAST: last}[to]
        if at < 0 or at % unit or at + size > length:
            return None
        if size < unit and at + size != length:
            return None  # a ragged tail must stay one
        corner, shape = list(self.corner), list(self.shape)
        corner[axis], shape[axis] = at, length
        return replace(self, corner=tuple(corner), shape=tuple(shape))


def alone_among_equals(x: Tensor, spec: CastSpec, place: tuple[int, ...], shows: Shows) -> Lone | None:
    """Return the block around `place` among equal numbers, or its row, if that shows the mismatch."""
    axis = resolve_axis(x.dim(), spec.axis)
    row = x.shape[axis]
    for unit, around in product(dict.fromkeys([spec.block_size or row, row]), _AROUND):
        units = [1] * x.dim()
        units[axis] = unit
        corner = tuple(index // size * size for index, size in zip(place, units, strict=True))
        where = tuple(slice(at, at + size) for at, size in zip(corner, units, strict=True))
        random: Any = None if spec.random is None else spec.random[where].contiguous()
        one = Lone(
            block=x[where].contiguous(),
            spec=replace(spec, random=random),
            corner=corner,
            shape=tuple(x.shape),
            units=tuple(units),
            around=around,
        )
        if shows(*one.cast()):
            return one
    return None


def least_shape(one: Lone, shows: Shows) -> Lone:
    """Return as few rows and blocks as show the mismatch: of `_SIZES`, and what lies between them. Twice
    along each axis, as one may need the other."""
    for _ in range(2):
        before = one.shape
        for axis in range(len(one.shape)):
            one = _shortest(one, axis, shows)
        if one.shape == before:
            break
    return one


def shorter_rows(x: Tensor, spec: CastSpec, shows: Shows) -> tuple[Tensor, CastSpec]:
    """Keep the first or the last blocks of each row: as few of those tried as show it."""
    axis = resolve_axis(x.dim(), spec.axis)
    unit = spec.block_size or x.shape[axis]
    for length in [count * unit for count in _SIZES if count * unit < x.shape[axis]]:
        for start in (0, (x.shape[axis] - length) // unit * unit):
            random = None if spec.random is None else spec.random.narrow(axis, start, length)
            part, part_spec = x.narrow(axis, start, length).contiguous(), replace(spec, random=random)
            if shows(part, part_spec):
                return part, part_spec
    return x, spec


def _shortest(one: Lone, axis: int, shows: Shows) -> Lone:
    unit, now = one.units[axis], one.shape[axis]
    tails = [now % unit] if one.block.shape[axis] < unit else sorted({0, now % unit})
    for tail in tails:
        too_short = 0
        for length in [count * unit + tail for count in (0, *_SIZES)]:
            if not 0 < length < now:
                continue
            for to in (_SAME, _FIRST, _LAST):
                shorter = one.shorter(axis, length, to)
                if shorter is not None and shows(*shorter.cast()):
                    return _between(shorter, axis, too_short, to, shows)
            too_short = length
    return _between(one, axis, too_short, _SAME, shows)


def _between(one: Lone, axis: int, too_short: int, to: str, shows: Shows) -> Lone:
    """Bisect, in whole units, between a length that does not show it and that of `one`."""
    unit = one.units[axis]
    while (steps := (one.shape[axis] - too_short) // unit) > 1:
        middle = one.shape[axis] - steps // 2 * unit
        if math.prod(one.shape) // one.shape[axis] * middle > _WORTH_HALVING:
            break
        ways = (one.shorter(axis, middle, to), one.shorter(axis, middle, _LAST))
        shorter = next((way for way in ways if way is not None and shows(*way.cast())), None)
        if shorter is None:
            too_short = middle
        else:
            one = shorter
    return one
