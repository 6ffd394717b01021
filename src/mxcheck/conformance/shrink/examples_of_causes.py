"""Find one counterexample for each cause of a cell's mismatches: the smallest input, and no cause twice.

A fault that does not depend on the numbers shows many causes: a code one up or one down, a NaN, a wrong sign
of zero, in each dtype and layout. So an example that is wrong for any number stands for all causes that need
as much of the call, or more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mxcheck.conformance.shrink.counterexample import Counterexample, cut_out
from mxcheck.conformance.shrink.only_shape import only_in_its_shape
from mxcheck.conformance.shrink.shrinker import Sought, shrink
from mxcheck.conformance.shrink.simpler_inputs import bits, laid_out_like
from mxcheck.conformance.verify.causes_of_mismatches import (
    KEPT_RESULTS,
    Cause,
    explains,
    that_show_in_one_row,
)
from mxcheck.conformance.verify.conditions import OF_CALL, Condition, Sighting, is_open
from mxcheck.conformance.verify.sightings import sightings
from mxcheck.conformance.verify.verifier import Comparison, compare, expected_parts, expected_values
from mxcheck.formats.spec import CastSpec, resolve_axis
from mxcheck.kernels.api import Kernel

# Most causes that are shrunk: some turn out to be known already.
_MOST_SHRUNK = 24
# Values that are codes of every format, under different scales. A result taken from elsewhere may be right
# for one of them.
_NUMBERS = (1.0, 1.5 * 2.0**10, -(2.0**-10))
#: Surroundings that are part of the input: a wrong result there is wrong against the oracle too.
_OF_THE_INPUT = ("batch", "huge", "storage_offset")
_STATE = "asked_again"
#: Pairs of groups of which the first explains the second: a result that a later call overwrites is
#: overwritten by another caller too.
_SAYS_WHY = {(KEPT_RESULTS, "two_callers")}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Shown:
    """An example, the effects of its cause, whether it is wrong for any number, and `counts` of the
    mismatches it stands for, by effect."""

    group: str
    example: Counterexample
    effects: frozenset[str]
    whatever: bool
    counts: Mapping[str, int]


def examples_of(
    kernel: Kernel, of_cell: Sequence[Cause], *, most: int, calls: int
) -> list[tuple[str, Counterexample]]:
    """Return (group, smallest input) for at most `most` of these causes, each with all that it explains.
    `calls` is the number of the cell's inputs that were compared; 0 where unknown."""
    found: list[_Shown] = []
    shrunk = 0
    kept_state = any(_group(cause) == _STATE for cause in of_cell)
    for cause in of_cell:
        at = _known(kernel, cause, found)
        if at is None:
            if len(found) == most or shrunk == _MOST_SHRUNK:
                break
            shrunk += 1
            one = _smallest(kernel, cause, of_cell, calls)
            if kept_state and not one.surroundings and cause.mismatch.call > 1:
                one = replace(one, note=_with_note(one, f"{_seen(cause, calls)}; {_CHANGES}"))
            at = next((i for i, other in enumerate(found) if _alike(kernel, other, one)), None)
        effect = cause.mismatch.sighting.effect
        if at is None:
            shown = _Shown(
                group=_group(cause),
                example=one,
                effects=cause.effects,
                whatever=_of_call(kernel, one),
                counts={effect: cause.count},
            )
            found.append(shown)
        else:
            found[at] = _with(found[at], effect, cause.count)
    return [(one.group, _with_effects(one)) for one in found]


def _with(shown: _Shown, effect: str, count: int) -> _Shown:
    """Return the example with more mismatches that it stands for."""
    counts = {**shown.counts, effect: shown.counts.get(effect, 0) + count}
    example = replace(shown.example, count=shown.example.count + count)
    return replace(shown, example=example, counts=counts)


def _with_effects(shown: _Shown) -> Counterexample:
    """Return the counterexample, with the other effects of its cause noted."""
    one = shown.example
    if one.surroundings or not shown.counts.keys() <= _SIZES.keys() or len(shown.counts) == 1:
        return one
    by_count = sorted(shown.counts.items(), key=lambda counted: (counted[0] == "other", -counted[1]))
    told = ", ".join(f"{count:,} {_SIZES[effect]}" for effect, count in by_count)
    return replace(one, note=_with_note(one, f"of these {told}"))


#: Words for effects that one fault may have together.
_SIZES = {
    "one up": "one code up",
    "one down": "one code down",
    "to zero": "to zero",
    "other": "in another way",
}


_CHANGES = "the kernel gives other bits when asked again, so a new process may not show it"


def _seen(cause: Cause, calls: int) -> str:
    return f"seen in call {cause.mismatch.call:,}" + (f" of {calls:,}" if calls else "")


def _with_note(one: Counterexample, note: str) -> str:
    return f"{one.note}; {note}" if one.note else note


def _group(cause: Cause) -> str:
    return cause.mismatch.example.group


def _smallest(kernel: Kernel, cause: Cause, others: Sequence[Cause], calls: int) -> Counterexample:
    one = cause.mismatch
    x, spec = one.example.x, one.example.spec
    if one.surroundings:
        found = _in_surroundings(kernel, cause)
        shown = found.sighting or one.sighting
        return replace(
            found, sighting=shown, count=cause.count, open=found.sighting is not None and is_open(shown, spec)
        )
    other_ones = that_show_in_one_row(cause, others)
    in_one_row = (
        Condition(0) if any(_needs_one_row(kernel, other) for other in other_ones) else Condition.ONE_ROW
    )
    sought = Sought(
        place=one.sighting.place,
        effects=cause.effects,
        allowed=one.sighting.conditions | in_one_row,
        avoided=cause.avoided,
    )
    found = shrink(kernel, x, spec, one.kind, one.seen, sought=sought)
    if found.surroundings:
        again = f"{_seen(cause, calls)}, {found.surroundings}"
        found = replace(found, note=found.note.replace(found.surroundings, again))
    # A single row is reported only where it is a condition, not where it is merely all that is left.
    shown = found.sighting or one.sighting
    shown = replace(shown, conditions=shown.conditions & one.sighting.conditions)
    still_open = cause.open and (found.sighting is None or is_open(shown, spec))
    found = replace(found, sighting=shown, count=cause.count, open=still_open)
    return replace(found, only_shape=only_in_its_shape(kernel, found))


def _needs_one_row(kernel: Kernel, cause: Cause) -> bool:
    """Return whether a mismatch that shows in one row does not show in two equal ones."""
    one = cause.mismatch
    x, spec, place = one.example.x, one.example.spec, one.sighting.place
    random = spec.random
    if x.dim() == 1:
        x, place = x[None], (0, *place)
        random = None if random is None else random[None]
        spec = replace(spec, axis=-1)
    across = 1 if resolve_axis(x.dim(), spec.axis) == 0 else 0
    spec = replace(spec, random=None if random is None else torch.cat([random] * 2, across))
    twice = compare(kernel, torch.cat([x] * 2, across), spec)
    return one.kind not in twice.found or not twice.found[one.kind][place]


def _in_surroundings(kernel: Kernel, cause: Cause) -> Counterexample:
    """Return the example of a cause that needs surroundings; shrunk as usual if the oracle finds it wrong
    too."""
    one = cause.mismatch
    x, spec = one.example.x, one.example.spec
    plain = _plainly(kernel, cause)
    if plain is None:
        seen = replace(one.seen, oracle=expected_parts(x, spec)) if one.seen.got else one.seen
        return cut_out(x, spec, one.kind, seen, one.surroundings)
    sighting, seen = plain
    sought = Sought(place=sighting.place, allowed=sighting.conditions | Condition.ONE_ROW)
    return shrink(kernel, x, spec, one.kind, seen, sought=sought)


def _plainly(kernel: Kernel, cause: Cause) -> tuple[Sighting, Comparison] | None:
    """Compare an input whose size is its surroundings with the oracle; None if that shows nothing of the
    kind."""
    one = cause.mismatch
    if _group(cause) not in _OF_THE_INPUT:
        return None
    seen = compare(kernel, one.example.x, one.example.spec)
    for sighting in sightings(one.example.x, one.example.spec, seen):
        if sighting.kind == one.kind:
            return sighting, seen
    return None


# What is known already


def _known(kernel: Kernel, cause: Cause, found: Sequence[_Shown]) -> int | None:
    """Return the index of the example that explains a cause, or None."""
    one = cause.mismatch
    if one.surroundings:
        return _known_in_surroundings(kernel, cause, found)
    for at, other in enumerate(found):
        if _explained(kernel, other, one.sighting, one.example.x, one.example.spec):
            return at
    return None


def _known_in_surroundings(kernel: Kernel, cause: Cause, found: Sequence[_Shown]) -> int | None:
    """Return the index of an example with the same surroundings, or of one of the two compared calls if the
    oracle finds that wrong as well."""
    one = cause.mismatch
    of_input = _group(cause) in _OF_THE_INPUT
    for at, other in enumerate(found):
        if not other.example.surroundings:
            continue
        errors = (other.example.kind == "error") + (one.kind == "error")
        # A fault of the call that affects a scale affects elements too.
        alike = _class(other.example.kind) == _class(one.kind) if of_input else errors != 1
        if (other.group == _group(cause) and alike) or (other.group, _group(cause)) in _SAYS_WHY:
            return at
    if not of_input:
        return None
    x, spec = one.example.x, one.example.spec
    plain = _plainly(kernel, cause)
    if plain is not None:
        explained = (i for i, other in enumerate(found) if _explained(kernel, other, plain[0], x, spec))
        return next(explained, None)
    if _is_wrong(one.seen, x, spec):
        of_kind = (i for i, other in enumerate(found) if _class(other.example.kind) == _class(one.kind))
        return next(of_kind, None)
    return None


def _is_wrong(seen: Comparison, x: Tensor, spec: CastSpec) -> bool:
    """Return whether the answer that a call was compared with is wrong itself."""
    parts = expected_parts(x, spec)
    if len(seen.expected) == len(parts):
        return any(bool((a != b).any()) for a, b in zip(seen.expected, parts, strict=True))
    if len(seen.expected) != 1:
        return False
    values = expected_values(parts, x.dtype, spec).float()
    return not torch.equal(values.nan_to_num(), torch.from_numpy(seen.expected[0]).nan_to_num())


def _alike(kernel: Kernel, shown: _Shown, one: Counterexample) -> bool:
    """Return whether two examples have one cause."""
    other = shown.example
    if other.surroundings or one.surroundings:
        same = _class(other.kind) == _class(one.kind)
        return bool(other.surroundings and one.surroundings) and same
    assert one.sighting is not None
    return (
        _same_title(shown, one)
        or _same_input(other, one)
        or _explained(kernel, shown, one.sighting, one.x, one.spec)
    )


def _same_title(shown: _Shown, one: Counterexample) -> bool:
    """Return whether two examples differ in nothing but the size of the difference."""
    known, other = shown.example.sighting, one.sighting
    return (
        known is not None
        and other is not None
        and (known.kind, known.conditions) == (other.kind, other.conditions)
        and {known.effect, other.effect} <= _SIZES.keys()
    )


def _same_input(one: Counterexample, other: Counterexample) -> bool:
    """Return whether two examples have the same input and cast, whatever is wrong."""
    return (
        (one.x.dtype, one.x.shape, _class(one.kind)) == (other.x.dtype, other.x.shape, _class(other.kind))
        and torch.equal(bits(one.x.contiguous()), bits(other.x.contiguous()))
        and replace(one.spec, random=None) == replace(other.spec, random=None)
    )


def _explained(kernel: Kernel, shown: _Shown, sighting: Sighting, x: Tensor, spec: CastSpec) -> bool:
    """Return whether an example explains a sighting in x: the same effect under no more conditions, or the
    same call where the numbers do not matter in either."""
    known = shown.example.sighting
    if shown.example.surroundings or known is None:
        return False
    effects = [known.effect] if known.kind == "error" else [known.effect, *shown.effects]
    if any(explains(replace(known, effect=one), replace(sighting, codes=known.codes)) for one in effects):
        return True
    return (
        shown.whatever
        and _class(known.kind) == _class(sighting.kind)
        and known.conditions in sighting.conditions
        and wrong_whatever_the_number(kernel, sighting.kind, x, spec, sighting.place)
    )


def _of_call(kernel: Kernel, one: Counterexample) -> bool:
    if one.surroundings or one.sighting is None or one.kind == "error":
        return False
    return one.sighting.conditions in OF_CALL and wrong_whatever_the_number(
        kernel, one.kind, one.x, one.spec, one.sighting.place
    )


def wrong_whatever_the_number(
    kernel: Kernel, kind: str, x: Tensor, spec: CastSpec, place: tuple[int, ...]
) -> bool:
    """Return whether an element (for the kind `scale` its scale) is wrong for at least two of three plain
    numbers put in its place, alone in its block."""
    if kind == "error":
        return False
    axis = resolve_axis(x.dim(), spec.axis)
    unit = spec.block_size or x.shape[axis]
    where = [slice(index, index + 1) for index in place]
    where[axis] = slice(place[axis] // unit * unit, place[axis] // unit * unit + unit)
    wrong = 0
    for number in _NUMBERS:
        other = x.contiguous().clone()
        other[tuple(where)] = 0
        other[place] = number
        found = compare(kernel, laid_out_like(x, other), spec).found
        wrong += any(_class(one) == _class(kind) and bool(mask[place]) for one, mask in found.items())
    return wrong >= len(_NUMBERS) - 1


def _class(kind: str) -> str:
    """Merge the kinds in which an element may be wrong."""
    return kind if kind in ("scale", "error") else "element"
