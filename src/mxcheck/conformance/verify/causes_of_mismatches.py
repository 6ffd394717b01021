"""Find the causes of a cell's mismatches.

A mismatch that shows under few conditions explains those with the same effect under the same conditions and
more: where plain elements are rounded wrongly, ties and subnormals are too. A mismatch that nothing else
explains is a cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from mxcheck.conformance.cases.generator import Example
from mxcheck.conformance.verify.conditions import KINDS, NOT_FINITE, Condition, Sighting, is_open
from mxcheck.conformance.verify.sightings import sightings
from mxcheck.conformance.verify.verifier import Comparison


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mismatch:
    """All mismatches of a cell that look alike, and the first comparison that has one, which the shrinker
    starts from. `surroundings` name what the call needs for it to show, where the numbers alone are not
    enough; `call` is the number of that comparison in the cell."""

    sighting: Sighting
    example: Example
    seen: Comparison
    surroundings: str = ""
    call: int = 0

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return self.sighting.kind


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cause:
    """One way in which a cell goes wrong.

    Attributes:
        mismatch: the mismatch that shows it under the fewest conditions.
        effects: effects of the mismatches that show it under these conditions.
        count: number of mismatches that it explains.
        open: whether OCP MX v1.0 leaves the right result open there.
        avoided: codes for which the same effect has a cause of its own.
    """

    mismatch: Mismatch
    effects: frozenset[str]
    count: int
    open: bool
    avoided: int = 0


#: Group that explains the group of two callers: a result that a later call overwrites is overwritten by
#: another caller too.
KEPT_RESULTS = "kept_results"
#: Key shared by mismatches that look alike: kind, effect, conditions, surroundings.
_Sort = tuple[str, str, int, str]


@dataclass(slots=True)
class Sightings:
    """The sightings collected from a cell's comparisons so far."""

    calls: int = 0
    _first: dict[_Sort, Mismatch] = field(default_factory=dict)
    _counts: dict[_Sort, int] = field(default_factory=dict)
    _codes: dict[_Sort, int] = field(default_factory=dict)

    def add(self, example: Example, comparison: Comparison, surroundings: str = "") -> None:
        """Add the sightings of a comparison."""
        self.calls += 1
        if not comparison.counts:
            return
        found = (
            _by_kind(comparison, example.group)
            if surroundings
            else sightings(example.x, example.spec, comparison)
        )
        for one in found:
            key = (one.kind, one.effect, int(one.conditions), surroundings)
            if key in self._counts:
                self._counts[key] += one.count
                self._codes[key] |= one.codes
                continue
            self._counts[key], self._codes[key] = one.count, one.codes
            self._first[key] = Mismatch(
                sighting=one, example=example, seen=comparison, surroundings=surroundings, call=self.calls
            )

    def mismatches(self) -> list[Mismatch]:
        """Return each sort of mismatch once, in order of appearance."""
        return [
            replace(one, sighting=replace(one.sighting, count=self._counts[key], codes=self._codes[key]))
            for key, one in self._first.items()
        ]


def _by_kind(comparison: Comparison, group: str) -> Iterable[Sighting]:
    """Merge sightings by kind. Used where a mismatch needs other surroundings: the plain call was right, so
    no number is the cause."""
    for kind, count in comparison.counts.items():
        yield Sighting(
            kind=kind,
            effect=group,
            conditions=Condition(0),
            codes=0,
            count=count,
            place=comparison.places[kind],
        )


def explains(one: Sighting, other: Sighting) -> bool:
    """Return whether two sightings seem to have one cause: the same effect, and `one` under no more
    conditions. A sighting of a single code does not explain those of others."""
    if one.kind == other.kind == "error":
        return one.effect == other.effect  # an error's message names its cause
    # The least code is one step above zero, so for it "one down" is "to zero".
    zeroed = (one.effect, other.effect, other.codes) == ("to zero", "one down", 1 << 1)
    alike = one.kind == other.kind and (one.effect == other.effect or zeroed)
    of_its_code = not _single(one.codes) or one.codes == other.codes
    return alike and one.conditions in other.conditions and of_its_code


def causes(mismatches: Sequence[Mismatch]) -> list[Cause]:
    """Return the causes of a cell's mismatches, sorted: first what OCP fixes, then what it leaves open;
    finite before not finite; by kind; few conditions first."""
    by_conditions = sorted(
        mismatches,
        key=lambda one: (
            int(one.sighting.conditions).bit_count(),
            _GENERAL.get(one.sighting.effect, len(_GENERAL)),
        ),
    )
    found = _clustered(by_conditions)
    leading = [cause[0] for cause in found]
    made = [
        Cause(
            mismatch=cause[0],
            effects=frozenset(
                one.sighting.effect
                for one in cause
                if one.sighting.conditions == cause[0].sighting.conditions
            ),
            count=_count(cause),
            open=not cause[0].surroundings and is_open(cause[0].sighting, cause[0].example.spec),
            avoided=_avoided(cause[0], leading),
        )
        for cause in _merged(found)
    ]
    return sorted(made, key=_order)


def _clustered(by_conditions: Iterable[Mismatch]) -> list[list[Mismatch]]:
    """Group mismatches by cause: the cause's own mismatch first, then those it explains."""
    found: list[list[Mismatch]] = []
    for one in by_conditions:
        known = next((cause for cause in found if _explains(cause[0], one)), None)
        if known is None:
            found.append([one])
        else:
            known.append(one)
    return found


def _explains(one: Mismatch, other: Mismatch) -> bool:
    return one.surroundings == other.surroundings and explains(one.sighting, other.sighting)


def _merged(found: Sequence[list[Mismatch]]) -> list[list[Mismatch]]:
    """Merge causes of arbitrary bits. Arbitrary bits are one code up or down now and then, and a flipped bit
    is both in turn: under the same conditions these are one cause. A mismatch that is rare beside them, and
    shows where they do, is one of them by chance; so it explains no frequent one."""
    kept: list[list[Mismatch]] = []
    for cause in sorted(found, key=lambda cause: _GENERAL.get(cause[0].sighting.effect, len(_GENERAL))):
        into = next((other for other in kept if _is_part_of(cause, other)), None)
        if into is None:
            kept.append(list(cause))
            continue
        by_chance = into[0].sighting.effect == "other"
        frequent = [one for one in cause[1:] if by_chance and _is_frequent(one, cause[0])]
        into.extend(one for one in cause if one not in frequent)
        kept += _clustered(frequent)
    return kept


def _is_frequent(one: Mismatch, beside: Mismatch) -> bool:
    return _RARE * 10 * one.sighting.count > beside.sighting.count


#: Effects that may include others, most general first.
_GENERAL = {"other": 0, "to zero": 1, "one up": 2, "one down": 3}
_RARE = 0.01


def _is_part_of(cause: list[Mismatch], whole: list[Mismatch]) -> bool:
    one, other = whole[0].sighting, cause[0].sighting
    if (
        one.kind != other.kind
        or one.kind == "error"
        or whole[0].surroundings
        or cause[0].surroundings
        or one.conditions not in other.conditions
        or (_single(one.codes) and one.codes != other.codes)
    ):
        return False
    same = one.conditions == other.conditions
    if one.effect == "other":
        return same or _count(cause) < _RARE * _count(whole)
    both = {one.effect, other.effect} == {"one up", "one down"} and one.kind != "scale"
    return same and both and (one.codes == other.codes or not _single(other.codes))


def _count(cause: Iterable[Mismatch]) -> int:
    return sum(one.sighting.count for one in cause)


def _single(codes: int) -> bool:
    return codes.bit_count() == 1


def _avoided(one: Mismatch, others: Iterable[Mismatch]) -> int:
    codes = 0
    for other in others:
        same = (other.kind, other.sighting.effect) == (one.kind, one.sighting.effect)
        if other is not one and same and other.sighting.conditions in one.sighting.conditions:
            codes |= other.sighting.codes
    return codes


def _order(cause: Cause) -> tuple[bool, bool, int, int, int, int]:
    one = cause.mismatch
    return (
        cause.open,
        bool(one.sighting.conditions & NOT_FINITE),
        0 if not one.surroundings else 1 if one.example.group == KEPT_RESULTS else 2,
        KINDS.index(one.kind),
        int(one.sighting.conditions).bit_count(),
        int(one.sighting.conditions),
    )


def that_show_in_one_row(cause: Cause, others: Iterable[Cause]) -> Iterable[Cause]:
    """Return the causes of the same kind that show in a single row, for a cause that does not need one: a
    one-row example of it may be theirs."""
    if Condition.ONE_ROW in cause.mismatch.sighting.conditions:
        return
    for other in others:
        one = other.mismatch
        alike = one.kind == cause.mismatch.kind and other.effects & cause.effects
        if other is not cause and alike and Condition.ONE_ROW in one.sighting.conditions:
            yield other
