"""Check whether a fault shows in one shape only: then the conditions that the shape meets are not its cause.

The wrong block is repeated over the whole shape, and over shapes around it: a row, a block and a tile more
and less. A fault that such an input does not show, because it needs certain places or neighbours, is not
checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from mxcheck.conformance.shrink.counterexample import Counterexample
from mxcheck.conformance.verify.conditions import OF_SHAPE
from mxcheck.conformance.verify.verifier import Comparison, compare
from mxcheck.formats.spec import CastSpec, resolve_axis
from mxcheck.kernels.api import Kernel

_TILE = 128
_MOST_ELEMENTS = 1 << 21


def only_in_its_shape(kernel: Kernel, one: Counterexample) -> bool:
    """Return whether the kernel is right in all shapes around an example's that it supports."""
    sighting = one.sighting
    if sighting is None or one.surroundings or one.strided or one.x.dim() != 2 or one.single_block:
        return False
    if one.kind == "error" or not sighting.conditions & OF_SHAPE or one.spec.random is not None:
        return False
    axis = resolve_axis(2, one.spec.axis)
    unit = one.spec.block_size or one.x.shape[axis]
    where = [slice(index, index + 1) for index in sighting.place]
    start = sighting.place[axis] // unit * unit
    where[axis] = slice(start, start + unit)
    block = one.x[tuple(where)]
    if not _is_wrong(_filled(kernel, block, tuple(one.x.shape), one.spec), one.kind):
        return False
    around = [
        seen
        for shape in _around(tuple(one.x.shape), axis, unit)
        if (seen := _filled(kernel, block, shape, one.spec)).unsupported is None
    ]
    return bool(around) and not any(_is_wrong(seen, one.kind) for seen in around)


def _filled(kernel: Kernel, block: Tensor, shape: tuple[int, ...], spec: CastSpec) -> Comparison:
    """Compare the cast of a matrix filled with one block."""
    times = [-(-wanted // has) for wanted, has in zip(shape, block.shape, strict=True)]
    x = block.repeat(times)[: shape[0], : shape[1]].contiguous()
    return compare(kernel, x, replace(spec, random=None))


def _around(shape: tuple[int, ...], axis: int, unit: int) -> Iterator[tuple[int, ...]]:
    along = max(_TILE // unit, 1) * unit
    steps = [(1, 0), (0, unit), (_TILE, 0), (0, along), (_TILE, along)]
    for rows, columns in [*steps, *((-rows, -columns) for rows, columns in steps)]:
        sizes = [shape[1 - axis] + rows, shape[axis] + columns]
        if min(sizes) > 0 and sizes[0] * sizes[1] <= _MOST_ELEMENTS:
            yield (sizes[0], sizes[1]) if axis == 1 else (sizes[1], sizes[0])


def _is_wrong(seen: Comparison, kind: str) -> bool:
    return "scale" in seen.counts if kind == "scale" else bool(seen.counts)
