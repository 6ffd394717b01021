"""Examples of a red case's message: the bound of its rise, and its cause."""

from __future__ import annotations

from dataclasses import replace

from mxcheck.gate.cause import cause
from mxcheck.gate.record import Record
from mxcheck.gate.verdict import judge, rise
from validation.known_verdicts.expectation import Expectation, expect
from validation.known_verdicts.healthy import DIGESTS, HEALTHY, WIDE, Q


def _upper_in_errors() -> float:
    """Return the upper bound of the healthy record's rise, in standard errors above its mean."""
    mean, error, upper = rise(HEALTHY)
    return round((upper - mean) / error, 3)


def _cause(record: Record) -> str:
    return cause(judge(record, HEALTHY, WIDE), record, HEALTHY).link


#: Other codes in one module: several rows of the table match, and the first is the cause.
_OTHER_CODES = replace(
    HEALTHY,
    digests={**DIGESTS, Q: {**DIGESTS[Q], "codes": replace(DIGESTS[Q]["codes"], groups=("other", "codes"))}},
)

TOLD: tuple[Expectation, ...] = (
    expect(
        "rise-upper", "the upper 95 % bound of the rise, in standard errors above it", _upper_in_errors, 1.645
    ),
    expect(
        "cause-first",
        "the cause of other codes in one module",
        lambda: _cause(_OTHER_CODES),
        "numerics",
    ),
)
