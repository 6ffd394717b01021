"""Orderings of precisions by cost, as the reference models show them, and the test of an ordering on two
records. The test is paired and clustered by sequence (docs/gate.md)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mxcheck.gate.case import Case, case_of
from mxcheck.gate.record import Record
from mxcheck.gate.statistics import UPPER_95, differences, mean_and_error, student_quantile

Shown = Literal["holds", "undecided", "reversed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordering:
    """The precision and tier `lower` (`mxfp8_e4m3-A`) has a smaller KL divergence than `higher`, and why."""

    lower: str
    higher: str
    why: str

    @property
    def id(self) -> str:
        return f"{self.lower}-below-{self.higher}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """The comparison that a reference model shows in place of an ordering, and why. `undecided` rules out
    only the reverse."""

    model: str
    lower: str
    higher: str
    shows: Shown
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderingResult:
    """The extra cost of `higher`: mean over sequences of KL(higher) - KL(lower) and its standard
    error, both in nats per token, and the ratio of the mean KLs."""

    difference: float
    error: float
    ratio: float

    @property
    def margin(self) -> float:
        """The difference in standard errors; 0 where nothing differs."""
        if self.error == 0:
            return math.copysign(math.inf, self.difference) if self.difference else 0.0
        return self.difference / self.error

    @property
    def shows(self) -> Shown:
        """One-sided test at 95 %, in either direction."""
        if self.margin > UPPER_95:
            return "holds"
        return "reversed" if self.margin < -UPPER_95 else "undecided"

    def __str__(self) -> str:
        return (
            f"KL {self.ratio:.3g} times as large, paired difference {self.difference:+.3g} "
            f"± {self.error:.2g} nats a token, margin {self.margin:+.1f} standard errors"
        )


def compare_kl(lower: Sequence[float], higher: Sequence[float]) -> OrderingResult:
    """Compare the KLs of the same sequences under two precisions, in nats a token.

    Raises ValueError where the lengths differ, or a figure is not finite.
    """
    change = differences(higher, lower)
    difference, error = mean_and_error(change)
    if math.isnan(difference):
        raise ValueError("a KL that is not finite has no place in an order; accept a baseline that is finite")
    below, above = math.fsum(lower), math.fsum(higher)
    return OrderingResult(difference=difference, error=error, ratio=above / below if below else math.inf)


def compare(lower: Record, higher: Record) -> OrderingResult:
    """Compare two records of one model on the same tokens.

    Raises ValueError, in one line, where model or tokens differ, or one has no KL.
    """
    for what, one, other in (
        ("model", lower.model, higher.model),
        *((key, lower.fingerprints[key], higher.fingerprints[key]) for key in ("weights", "tokens")),
    ):
        if one != other:
            raise ValueError(
                f"{lower.id} and {higher.id} cannot be compared: {what} {one[:12]} against {other[:12]}; "
                f"accept both on the same model and text"
            )
    return compare_kl(lower.exact_kl[1], higher.exact_kl[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The comparison of a record with the model's accepted precisions: their number, and the orderings that
    it contradicts, in words."""

    compared: int = 0
    reversed: tuple[str, ...] = ()


def standing(record: Record, accepted: Callable[[Case], Record | None]) -> Standing:
    """Compare a record with the accepted ones of its model, by the orderings that no reference model
    reverses.

    `accepted` returns the accepted record of another precision, or None where none is readable. Records are
    skipped that have options for which these orderings were not tested, other text or weights, an absent or
    non-finite KL, or fewer than four sequences. Two equal costs are taken for reversed once in a thousand
    comparisons, by Student's t over the sequences.
    """
    if not _tried(record) or not _has_kl(record) or len(record.sequence_losses) < _LEAST_SEQUENCES:
        return Standing()
    compared, found = 0, []
    for one in SHOWN_BY_ALL:
        if record.case.plain not in (one.lower, one.higher):
            continue
        below = record.case.plain == one.lower
        plain = case_of(record.model, one.higher if below else one.lower)
        expected = replace(plain, options=record.case.options)
        other = accepted(expected)
        if other is None or other.id != expected.id or not _has_kl(other) or not _same_inputs(record, other):
            continue
        compared += 1
        shown = compare(record, other) if below else compare(other, record)
        if shown.error > 0 and shown.margin < -student_quantile(CERTAIN, len(record.sequence_losses) - 1):
            found.append(f"{one.lower} costs more than {one.higher} ({one.why}): {shown}")
    return Standing(compared=compared, reversed=tuple(found))


def _tried(record: Record) -> bool:
    """Return whether `rceil` is the only option that changes the recipe: the others choose the text and its
    length."""
    of_the_text = (record.corpus["used"], "rceil")
    return all(one in of_the_text or _SIZE.fullmatch(one) for one in record.case.options)


def _has_kl(record: Record) -> bool:
    return record.kl is not None and math.isfinite(record.kl)


def _same_inputs(one: Record, other: Record) -> bool:
    return all(one.fingerprints[key] == other.fingerprints[key] for key in ("weights", "tokens"))


def deviation(model: str, ordering: Ordering) -> Deviation | None:
    """Return the model's exception from an ordering, or None."""
    for one in EXCEPTIONS:
        if (one.model, one.lower, one.higher) == (model, ordering.lower, ordering.higher):
            return one
    return None


_PRECISION = "fewer significant bits, more damage"
_BY_FORMAT = (
    ("bf16_operands", "mxint8", _PRECISION),
    ("mxint8", "mxfp6_e2m3", _PRECISION),
    ("mxint8", "mxfp8_e4m3", _PRECISION),
    ("mxfp6_e2m3", "mxfp6_e3m2", _PRECISION),
    ("mxfp8_e4m3", "mxfp6_e3m2", _PRECISION),
    ("mxfp8_e4m3", "mxfp8_e5m2", _PRECISION),
    ("fp8_tensor_e4m3", "fp8_tensor_e5m2", _PRECISION),
    ("mxfp6_e3m2", "mxfp4_e2m1", _PRECISION),
    ("mxfp8_e5m2", "mxfp4_e2m1", _PRECISION),
    ("mxfp8_e5m2", "nvfp4", _PRECISION),
    ("nvfp4", "mxfp4_e2m1", "the same elements in smaller blocks, with finer scales"),
    ("mxfp4_e2m1", "mxfp4_e3m0", _PRECISION),
)
_BY_TIER = (
    *("bf16_operands", "fp8_tensor_e4m3", "fp8_tensor_e5m2", "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2"),
    *("mxfp6_e2m3", "mxfp4_e2m1", "mxint8", "mxfp4_e3m0", "nvfp4"),
)
_MIXED = (
    ("mxfp8_e4m3-A", "mixed-C", "C quantizes the attention as well, and the MLP in fewer bits"),
    ("mxfp6_e3m2-A", "mixed-C", "C quantizes the attention as well"),
    ("mixed-C", "mxfp6_e3m2-B", "C has the attention in more significant bits"),
    ("mixed-C", "mixed-D", "D has both in fewer significant bits"),
    ("mxfp4_e2m1-A", "mixed-D", "D quantizes the attention as well"),
    ("mixed-D", "mxfp4_e2m1-B", "D has the attention in more significant bits"),
)

#: Orderings that all trained models show, apart from the exceptions. mxfp6_e3m2 and mxfp8_e5m2, and
#: mxfp6_e2m3 and mxfp8_e4m3, have equal numbers of significant bits: no order is asserted between them.
ORDERINGS: tuple[Ordering, ...] = (
    *(
        Ordering(lower=f"{lower}-{tier}", higher=f"{higher}-{tier}", why=why)
        for tier in "AB"
        for lower, higher, why in _BY_FORMAT
    ),
    *(Ordering(lower=f"{name}-A", higher=f"{name}-B", why="more layers, more damage") for name in _BY_TIER),
    *(Ordering(lower=lower, higher=higher, why=why) for lower, higher, why in _MIXED),
)

#: Confidence with which a first acceptance calls two precisions reversed, and the least number of sequences.
CERTAIN = 0.999
_LEAST_SEQUENCES = 4
_SIZE = re.compile(r"(samples|length)[0-9]+")

_OUTLIERS = (
    "an outlier takes the small elements of its block below the steps of a format with few exponent bits"
)
_SHRINKS = "under floor fp4_e3m0 shrinks what it casts; tier B shrinks the attention's results like the MLP's"
_ROUTING = "a few sequences in which the router chooses other experts carry the mean, and the noise"

EXCEPTIONS: tuple[Deviation, ...] = (
    *(
        Deviation(
            model="outlier-llama",
            lower=f"{lower}-{tier}",
            higher=f"{higher}-{tier}",
            shows="reversed",
            why=_OUTLIERS,
        )
        for lower, higher, tiers in (
            ("mxint8", "mxfp8_e4m3", "AB"),
            ("mxfp6_e2m3", "mxfp6_e3m2", "AB"),
            ("mxfp4_e2m1", "mxfp4_e3m0", "B"),
        )
        for tier in tiers
    ),
    *(
        Deviation(model=model, lower="mxfp4_e3m0-A", higher="mxfp4_e3m0-B", shows="reversed", why=_SHRINKS)
        for model in ("ref-llama", "ref-moe", "outlier-llama")
    ),
    Deviation(
        model="long-llama",
        lower="mxfp4_e3m0-A",
        higher="mxfp4_e3m0-B",
        shows="undecided",
        why=f"{_SHRINKS}; four sequences do not show it beyond their scatter",
    ),
    *(
        Deviation(model="ref-moe", lower=f"{name}-A", higher=f"{name}-B", shows="undecided", why=_ROUTING)
        for name in ("bf16_operands", "mxint8")
    ),
    Deviation(
        model="outlier-llama",
        lower="mxfp4_e2m1-A",
        higher="mixed-D",
        shows="undecided",
        why="the attention in fp6_e3m2, which outliers hardly touch, is little beside the MLP in fp4_e2m1",
    ),
)

#: Orderings that no reference model reverses, under `floor` or `rceil`: expected of any model. mxfp4_e3m0
#: shrinks its input under `floor` only, so that its place depends on the rule.
SHOWN_BY_ALL: tuple[Ordering, ...] = tuple(
    one
    for one in ORDERINGS
    if "mxfp4_e3m0" not in one.id
    and not any((one.lower, one.higher, "reversed") == (e.lower, e.higher, e.shows) for e in EXCEPTIONS)
)


#: Permitted results of a comparison for each expected one. An order that was undecided may become clear.
_ALLOWED: dict[Shown, tuple[Shown, ...]] = {
    "holds": ("holds",),
    "undecided": ("undecided", "holds"),
    "reversed": ("reversed",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOrdering:
    """An ordering on one of the reference models, and this model's exception, if any."""

    model: str
    ordering: Ordering
    exception: Deviation | None

    @property
    def id(self) -> str:
        return f"{self.model}-{self.ordering.id}"

    @property
    def cases(self) -> tuple[Case, Case]:
        lower, higher = (case_of(self.model, name) for name in (self.ordering.lower, self.ordering.higher))
        return lower, higher


def model_orderings(
    models: Iterable[str], precisions: Iterable[str], *, exceptions: bool
) -> list[ModelOrdering]:
    """Return the orderings of each of the reference models between these precisions, whatever the tiers:
    those that hold, or the model's exceptions."""
    named = set(precisions)
    found = [
        ModelOrdering(model=model, ordering=one, exception=deviation(model, one))
        for model in models
        for one in ORDERINGS
    ]
    return [
        one
        for one in found
        if {case.precision for case in one.cases} <= named and (one.exception is not None) == exceptions
    ]


def unexpected_result(one: ModelOrdering, found: OrderingResult) -> str:
    """Return the error in a comparison, in a few lines; empty where the result is expected."""
    expected: Shown = one.exception.shows if one.exception else "holds"
    if found.shows in _ALLOWED[expected]:
        return ""
    lines = [
        f"{one.id}: {found.shows}, expected: {expected} ({(one.exception or one.ordering).why})",
        f"  {found}",
    ]
    if one.exception is not None:
        lines.append(
            "  this model is listed as an exception (mxcheck.gate.orderings.EXCEPTIONS): find out why"
        )
    lines.append(f"  baselines: {', '.join(case.baseline.as_posix() for case in one.cases)}")
    return "\n".join(lines)
