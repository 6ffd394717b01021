"""A counterexample: the smallest input that shows a mismatch, or a cut-out where more than the input is
needed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from mxcheck.conformance.verify.conditions import Sighting
from mxcheck.conformance.verify.verifier import Comparison
from mxcheck.formats.oracle import Parts
from mxcheck.formats.spec import CastSpec, resolve_axis, scales_shape


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counterexample:
    """The smallest input found that shows a mismatch of a kind: one block where that is enough.

    Attributes:
        kind: one of `verifier.KINDS`.
        x: the input, in the dtype that was used.
        spec: the cast.
        comparison: its comparison.
        note: what the input alone does not tell; usually empty.
        strided: whether the mismatch needs the strides of x, which a command line cannot give.
        surroundings: what the call needs for the mismatch to show, which a command line cannot give either. x
            is then the block around the first wrong element, cut out.
        sighting: the sighting in x of the cause that it is an example of.
        count: mismatches of the cell that have this cause; 0 where unknown.
        open: whether OCP MX v1.0 leaves the result open.
        cut_from: the comparison that x was cut out of.
        only_shape: whether the kernel is right in the shapes around that of x.
    """

    kind: str
    x: Tensor
    spec: CastSpec
    comparison: Comparison
    note: str = ""
    strided: bool = False
    surroundings: str = ""
    sighting: Sighting | None = None
    count: int = 0
    open: bool = False
    cut_from: Comparison | None = None
    only_shape: bool = False

    @property
    def single_block(self) -> bool:
        """True if x has a single scale."""
        return math.prod(scales_shape(tuple(self.x.shape), self.spec)) == 1


def cut_out(x: Tensor, spec: CastSpec, kind: str, seen: Comparison, surroundings: str) -> Counterexample:
    """Cut out the block around a mismatch that needs more than its numbers (32 elements of a longer one),
    with what was got and expected there."""
    place = seen.places[kind]
    axis = resolve_axis(x.dim(), spec.axis)
    length = spec.block_size or 32
    start = place[axis] // length * length
    box = [slice(index, index + 1) for index in place]
    box[axis] = slice(start, start + length)
    scale = scales_shape(tuple(x.shape), spec)
    of_scale = [
        slice(min(index, size - 1), min(index, size - 1) + 1)
        for index, size in zip(place, scale, strict=False)
    ]
    if spec.block_size is not None:
        of_scale[axis] = slice(start // length, start // length + 1)
    boxes = (tuple(box), tuple(of_scale), ())

    def cut(parts: Parts) -> Parts:
        return tuple(part[where] for part, where in zip(parts, boxes, strict=False))

    random = None if spec.random is None else spec.random[tuple(box)].contiguous()
    return Counterexample(
        kind=kind,
        x=x[tuple(box)].contiguous(),
        spec=replace(spec, random=random),
        comparison=replace(seen, got=cut(seen.got), expected=cut(seen.expected), oracle=cut(seen.oracle)),
        note=f"at {list(place)} of a tensor of shape {tuple(x.shape)}, {surroundings}",
        surroundings=surroundings,
        cut_from=seen,
    )
