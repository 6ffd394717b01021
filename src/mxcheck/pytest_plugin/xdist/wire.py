"""Send a test's results from a worker to the controller: on the report of its call, and as flat properties
for other readers of reports (`--junitxml`, other plugins)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mxcheck.gate.result import CaseResult

_RESULT = pytest.StashKey[dict[str, Any]]()
_CELL = pytest.StashKey[dict[str, Any]]()


#: Attribute name of a case's result on the report of its call.
RESULT = "mx_result"


def keep_result(item: pytest.Item, result: CaseResult) -> None:
    """Store a case's result."""
    record = result.record
    item.stash[_RESULT] = result.as_dict()
    _tell(
        item,
        verdict=result.word,
        cause=result.cause,
        kl=None if record is None else record.kl,
        perplexity=None if record is None else record.perplexity,
        reason=result.reason,
    )


def keep_cell(item: pytest.Item, row: dict[str, Any], verdict: str) -> None:
    """Store a row of the conformance matrix."""
    item.stash[_CELL] = row
    _tell(
        item,
        verdict=verdict,
        elements=row["elements"] or None,
        findings=", ".join(row["findings"]),
    )


def keep_ordering(item: pytest.Item, *, ratio: float, margin: float) -> None:
    """Store what the baselines of an ordering show."""
    _tell(item, ratio=ratio, margin=margin)


def keep_calls(item: pytest.Item, calls: int) -> None:
    """Store how often a kernel was called with the same numbers: fewer times where it is slow."""
    _tell(item, calls=calls)


def _tell(item: pytest.Item, **figures: str | float | None) -> None:
    """Set the properties that have a value, replacing those of an earlier run of the test."""
    told = {f"mx_{name}": value for name, value in figures.items()}
    others = [one for one in item.user_properties if one[0] not in told]
    item.user_properties[:] = [
        *others,
        *((name, value) for name, value in told.items() if value is not None and value != ""),
    ]


def put_on_report(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put the results on the report of the call, and of no other phase: xdist transports its attributes. A
    repeated test starts anew."""
    if report.when == "call":
        for name, key in ((RESULT, _RESULT), ("mx_cell", _CELL)):
            if key in item.stash:
                setattr(report, name, item.stash[key])
                del item.stash[key]


def sent_result(report: pytest.TestReport) -> Mapping[str, Any] | None:
    """Return the result of a case, in the form of `result_from_dict`; None where there is none."""
    found: Mapping[str, Any] | None = getattr(report, RESULT, None)
    return found


def sent_cell(report: pytest.TestReport) -> dict[str, Any] | None:
    """Return the row of a cell; None where there is none."""
    found: dict[str, Any] | None = getattr(report, "mx_cell", None)
    return found
