"""The shrinker: find the smallest input that still shows a mismatch of the same kind and cause."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product

import torch
from torch import Tensor

from mxcheck.conformance.shrink.counterexample import Counterexample, cut_out
from mxcheck.conformance.shrink.fewer_conditions import OTHER_CASTS, SAME_LAYOUT, Way, a_plain_number
from mxcheck.conformance.shrink.simpler_inputs import (
    bits,
    orders,
    plainer_values,
    shifted,
    unit_along,
    without,
)
from mxcheck.conformance.shrink.smaller_shapes import alone_among_equals, least_shape, shorter_rows
from mxcheck.conformance.verify.conditions import Condition, Sighting
from mxcheck.conformance.verify.sightings import sightings
from mxcheck.conformance.verify.verifier import Comparison, compare
from mxcheck.formats.spec import CastSpec, resolve_axis
from mxcheck.kernels.api import Kernel

#: Note on a mismatch that only one call showed.
NOT_AGAIN = "not seen again when asked alone"
__all__ = ["ANY", "NOT_AGAIN", "Counterexample", "Sought", "cut_out", "one_block", "shrink"]

#: Limits of one counterexample: calls of the implementation, and elements in all of them.
_MOST_CALLS, _MOST_ELEMENTS = 600, 1 << 24
# For a very large input the limit is at least this many calls of its size.
_CALLS_OF_ALL = 12
# Most parts of an input that are tried one by one.
_MOST_PARTS = 4096
# Rows, and blocks per row, that are tried where a single block ends in an error.
_ROWS, _BLOCKS = (1, 2, 8, 16, 32, 64, 128), (1, 2, 4, 8)
# Steps of an exponent towards 0, each half of what is left.
_STEPS_TO_ZERO = 8
# Calls with one input that tell whether an implementation is deterministic.
_REPEATS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """The mismatch that the shrinker keeps to: one cause of a kind, as far as it can tell.

    Attributes:
        place: index of the mismatch in the input that it starts from; () for the first of the kind.
        effects: allowed effects; any if empty.
        allowed: conditions under which it may show.
        avoided: expected codes (bit c for code c) that show another cause.
    """

    place: tuple[int, ...] = ()
    effects: frozenset[str] = frozenset()
    allowed: Condition = ~Condition(0)
    avoided: int = 0

    def is_shown_by(self, one: Sighting) -> bool:
        """Return whether a sighting is the one sought."""
        effect = not self.effects or one.effect in self.effects
        return effect and one.conditions in self.allowed and not one.codes & self.avoided


#: Any mismatch of the kind.
ANY = Sought()


def shrink(
    kernel: Kernel,
    x: Tensor,
    spec: CastSpec,
    kind: str,
    seen: Comparison,
    *,
    sought: Sought = ANY,
) -> Counterexample:
    """Shrink a mismatch of a kind that `compare(kernel, x, spec)` has `seen`.

    Try the one block that holds it, alone or, where that ends in an error, among as few others as work; if
    that is not enough (a scale of the whole tensor, blocks along another axis), the whole input. For the
    whole input, first try the block among equal numbers, with fewer rows and blocks. Then remove slices, set
    elements to zero, bring the exponent close to 0, move the wrong element to the front and make numbers
    plainer, as long as the mismatch remains and no other replaces it. A mismatch that a contiguous copy does
    not show is narrowed as a view; one that does not show each time is left as it is, with a note. An example
    of a cause is also cast as plainly as still shows it: in fp32, along the last axis, …

    Args:
        sought: the mismatch of the kind that must remain.
    """
    search = _Search(kernel=kernel, kind=kind, sought=sought)
    block, block_spec = one_block(x, spec, sought.place or seen.places[kind])
    alone = search.alone(block, block_spec, x)
    if alone is None:
        block, block_spec = x.contiguous(), spec
        if not search.shows(block, block_spec):
            if sought.avoided:  # none shows without these codes
                return shrink(kernel, x, spec, kind, seen, sought=replace(sought, avoided=0))
            return _strided(search, x, spec, seen)
        block, block_spec = search.of_least_shape(block, block_spec)
    else:
        block, block_spec = alone
    if block_spec.block_size is None:
        block, block_spec = search.smaller(block, block_spec)
    if sought is not ANY:
        block, block_spec = search.cast_plainly(block, block_spec)
    smallest = search.close_to_one(search.fewer(block, block_spec), block_spec)
    smallest, block_spec = search.to_the_front(smallest, block_spec)
    smallest = search.plainer(smallest, block_spec)
    for candidate in _with_fewer_integers(smallest, block_spec):
        comparison = compare(kernel, smallest, candidate)
        if (own := search.own(smallest, candidate, comparison)) is not None:
            own = replace(own, conditions=own.conditions & ~Condition.ONE_ROW) if sought is ANY else own
            return Counterexample(kind=kind, x=smallest, spec=candidate, comparison=comparison, sighting=own)
    return _unsteady(kernel, x, spec, kind, seen)


def _with_fewer_integers(x: Tensor, spec: CastSpec) -> list[CastSpec]:
    """Return the cast without random integers for zeros, which shortens the command line; and the cast with
    them."""
    if spec.random is None:
        return [spec]
    return [replace(spec, random=spec.random.masked_fill(x == 0, 0)), spec]


def _strided(search: _Search, x: Tensor, spec: CastSpec, seen: Comparison) -> Counterexample:
    """Return a mismatch that a contiguous copy of x does not show: it depends on the strides, or on
    chance."""
    steady = all(search.own(x, spec, compare(search.kernel, x, spec)) is not None for _ in range(_REPEATS))
    if x.is_contiguous() or not steady:
        return _unsteady(search.kernel, x, spec, search.kind, seen)
    view, view_spec = search.under_fewer_conditions(*search.narrowed(x, spec), SAME_LAYOUT)
    comparison = compare(search.kernel, view, view_spec)
    if (own := search.own(view, view_spec, comparison)) is None:
        return _unsteady(search.kernel, x, spec, search.kind, seen)
    return Counterexample(
        kind=search.kind,
        x=view,
        spec=view_spec,
        comparison=comparison,
        note=f"a contiguous copy does not show it: strides {tuple(view.stride())}",
        strided=True,
        sighting=own,
    )


def _unsteady(kernel: Kernel, x: Tensor, spec: CastSpec, kind: str, seen: Comparison) -> Counterexample:
    """Cut out a mismatch that does not show each time, from a call that showed it: if need be, the first
    one."""
    calls = [compare(kernel, x, spec) for _ in range(_REPEATS)]
    wrong = [one for one in calls if one.counts]
    comparison = next((one for one in wrong if kind in one.counts), seen)
    often = f"asked again {len(wrong)} of {_REPEATS} calls differ" if wrong else NOT_AGAIN
    if len(wrong) == _REPEATS:
        often = "no part of it shows the same"
    return cut_out(x, spec, kind, comparison, often)


def one_block(x: Tensor, spec: CastSpec, place: tuple[int, ...]) -> tuple[Tensor, CastSpec]:
    """Return the block around `place`, as a tensor of as many dimensions, and its cast."""
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


def _weight(own: Sighting, x: Tensor) -> tuple[int, int, int]:
    """Measure how much is left to simplify."""
    return int(own.conditions).bit_count(), abs(x.dim() - 2), int(x.count_nonzero())


@dataclass(slots=True, kw_only=True)
class _Search:
    kernel: Kernel
    kind: str
    sought: Sought = ANY
    calls: int = 0
    elements: int = 0
    exhausted: bool = False
    last: Comparison = field(default_factory=Comparison)

    def shows(self, x: Tensor, spec: CastSpec) -> bool:
        """Return whether the mismatch shows; False once the limits are reached."""
        self.calls += 1
        self.elements += x.numel()
        most = max(_MOST_ELEMENTS, _CALLS_OF_ALL * x.numel())
        self.exhausted = self.exhausted or self.calls > _MOST_CALLS or self.elements > most
        if self.exhausted:
            return False
        self.last = compare(self.kernel, x, spec)
        return self.own(x, spec, self.last) is not None

    def own(self, x: Tensor, spec: CastSpec, comparison: Comparison) -> Sighting | None:
        """Return a comparison's sighting of the cause that is sought."""
        if self.kind not in comparison.counts:
            return None
        for one in sightings(x, spec, comparison):
            if one.kind == self.kind and self.sought.is_shown_by(one):
                return one
        return None

    def alone(self, block: Tensor, spec: CastSpec, x: Tensor) -> tuple[Tensor, CastSpec] | None:
        """Return the block, if it shows the mismatch without the rest of x; if it ends in an error or is
        refused, repeated, as a kernel may require; else None."""
        if self.shows(block, spec):
            return block, spec
        if not (self.last.error or self.last.unsupported) or spec.block.whole_tensor:
            return None
        axis = resolve_axis(x.dim(), spec.axis)
        other = next((at for at in range(x.dim()) if at != axis and x.shape[at] > 1), None)
        rows = [1, *(n for n in _ROWS[1:] if other is not None and n <= x.shape[other])]
        whole = spec.block_size is not None and block.shape[axis] == spec.block_size
        blocks = [1, *(n for n in _BLOCKS[1:] if whole and n * block.shape[axis] <= x.shape[axis])]
        for down, along in sorted(product(rows, blocks), key=lambda size: size[0] * size[1])[1:]:
            times = [1] * x.dim()
            times[axis] = along
            if other is not None:
                times[other] = down
            random = None if spec.random is None else spec.random.repeat(times)
            several, several_spec = block.repeat(times), replace(spec, random=random)
            if self.shows(several, several_spec):
                return several, several_spec
        return None

    def of_least_shape(self, x: Tensor, spec: CastSpec) -> tuple[Tensor, CastSpec]:
        """Return x with fewer rows and blocks that still shows it: one block among equal numbers, or by
        slices."""
        own = self.own(x, spec, self.last)
        assert own is not None
        alone = alone_among_equals(x, spec, own.place, self.shows)
        if alone is None:
            return self.smaller(x, spec)
        x, spec = least_shape(alone, self.shows).cast()
        if alone.block.shape[resolve_axis(x.dim(), spec.axis)] > (spec.block_size or x.numel()):
            x, spec = self.smaller(*shorter_rows(x, spec, self.shows))
        return self.under_fewer_conditions(x, spec, (a_plain_number,))

    def cast_plainly(self, x: Tensor, spec: CastSpec) -> tuple[Tensor, CastSpec]:
        """Return x in another dtype, layout or block size, or with a single plain number, where that has
        fewer conditions. Removed conditions do not come back."""
        x, spec = self.under_fewer_conditions(x, spec, (*OTHER_CASTS, a_plain_number))
        if self.shows(x, spec) and (own := self.own(x, spec, self.last)) is not None:
            self.sought = replace(self.sought, allowed=own.conditions)
        return x, spec

    def under_fewer_conditions(
        self, x: Tensor, spec: CastSpec, ways: Iterable[Way]
    ) -> tuple[Tensor, CastSpec]:
        """Cast x in other ways, as long as its conditions become fewer, or its axes two."""
        if not self.shows(x, spec):
            return x, spec
        own = self.own(x, spec, self.last)
        assert own is not None
        for way in ways:
            for other, other_spec in way(x, spec, own.place):
                if not self.shows(other, other_spec):
                    continue
                again = self.own(other, other_spec, self.last)
                assert again is not None
                if _weight(again, other) < _weight(own, x):
                    x, spec, own = other, other_spec, again
                    break
        return x, spec

    def close_to_one(self, x: Tensor, spec: CastSpec) -> Tensor:
        """Scale x by a power of two: its largest magnitude between 1 and 2, or as close to that as still
        shows it."""
        size = x.double().abs()
        largest = float(torch.where(size.isfinite(), size, 0.0).max())
        if not largest:
            return x
        best, shows, fails = x, 0, 1 - math.frexp(largest)[1]
        by = fails
        for _ in range(_STEPS_TO_ZERO):
            if by == shows:
                break
            moved = shifted(x, by)
            if moved is not None and self.shows(moved, spec):
                best, shows = moved, by
            else:
                fails = by
            by = int((shows + fails) / 2)
        return best

    def to_the_front(self, x: Tensor, spec: CastSpec) -> tuple[Tensor, CastSpec]:
        """Move the wrong block before the others, and in it the wrong element first and zeros last."""
        if self.exhausted or not self.shows(x, spec):
            return x, spec
        own = self.own(x, spec, self.last)
        assert own is not None
        place = list(own.place)
        for axis in range(x.dim()):
            for order in orders(x, spec, axis, place, first_of_scale=self.kind == "scale"):
                if order == list(range(x.shape[axis])):
                    continue
                index = torch.tensor(order)
                random = None if spec.random is None else spec.random.index_select(axis, index)
                other, other_spec = x.index_select(axis, index), replace(spec, random=random)
                if self.shows(other, other_spec):
                    x, spec = other, other_spec
                    place[axis] = order.index(place[axis])
        return x, spec

    def narrowed(self, x: Tensor, spec: CastSpec) -> tuple[Tensor, CastSpec]:
        """Remove halves that are not needed, as a view of x: the strides stay."""
        for axis in range(x.dim()):
            unit = unit_along(x, spec, axis)
            while x.shape[axis] > unit and not self.exhausted:
                half = -(-x.shape[axis] // unit // 2) * unit
                for start, length in ((0, half), (half, x.shape[axis] - half)):
                    random = None if spec.random is None else spec.random.narrow(axis, start, length)
                    view, view_spec = x.narrow(axis, start, length), replace(spec, random=random)
                    if self.shows(view, view_spec):
                        x, spec = view, view_spec
                        break
                else:
                    break
        return x, spec

    def smaller(self, x: Tensor, spec: CastSpec) -> tuple[Tensor, CastSpec]:
        """Remove slices that are not needed: along each axis, in whole blocks along the cast's."""
        for axis in range(x.dim()):
            unit = unit_along(x, spec, axis)
            stretch = -(-x.shape[axis] // unit // 2) * unit
            while stretch >= unit and not self.exhausted:
                start = 0
                while start < x.shape[axis] and x.shape[axis] > stretch and not self.exhausted:
                    shorter, shorter_spec = without(x, spec, axis, start, stretch)
                    if (bits(shorter).any() or not bits(x).any()) and self.shows(shorter, shorter_spec):
                        x, spec = shorter, shorter_spec
                    else:
                        start += stretch
                if stretch == unit:
                    break
                stretch = max(unit, stretch // 2 // unit * unit)
        return x, spec

    def fewer(self, x: Tensor, spec: CastSpec) -> Tensor:
        """Set as many elements to zero as possible: halves, quarters, … and one by one, unless the parts are
        too many. A mismatch of a zero input is often another one, so the last number stays."""
        x = x.clone().contiguous()
        flat = x.view(-1)
        stretch = flat.numel()
        while stretch:
            parts = (bits(flat).nonzero().flatten() // stretch).unique()
            if len(parts) > _MOST_PARTS:
                break
            for start in (parts * stretch).tolist():
                if self.exhausted:
                    return x
                kept = flat[start : start + stretch].clone()
                flat[start : start + stretch] = 0
                if not bits(flat).any() or not self.shows(x, spec):
                    flat[start : start + stretch] = kept
            stretch //= 2
        return x

    def plainer(self, x: Tensor, spec: CastSpec) -> Tensor:
        """Reduce signs and significand bits of x. A NaN stays: Inf is not plainer."""
        flat = bits(x.view(-1))  # shares x's memory
        numbers = (flat.ne(0) & x.view(-1).isfinite()).nonzero().flatten()
        for at in numbers[:_MOST_PARTS].tolist():
            kept = int(flat[at])
            for candidate in plainer_values(kept, x.dtype):
                if self.exhausted:
                    return x
                flat[at] = candidate
                if self.shows(x, spec):
                    kept = candidate
                    break
                flat[at] = kept
        return x
