"""The outcome of a case, as data: sent by workers, kept by shards, and shown in the table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, TypeVar

from mxcheck.files.plain_data import MALFORMED
from mxcheck.files.printed import got, told
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.case import Case
from mxcheck.gate.case_cost import Cost, cost_from_dict
from mxcheck.gate.check import Check
from mxcheck.gate.check_table import CHECKS
from mxcheck.gate.drift import Drift
from mxcheck.gate.figures import check_figures
from mxcheck.gate.kernel_cells import AskedKernel, asked_kernel_from_dict
from mxcheck.gate.record import Record, record_from_dict


class Outcome(StrEnum):
    """The outcome of a case; the value is the table's word."""

    PASSED = "pass"
    ACCEPTED = "accepted"
    UPDATED = "updated"
    RECENTRED = "recentred"
    MEASURED = "measured"
    SKIPPED = "skipped"
    FAILED = "FAIL"
    MISSING = "FAIL missing"
    CORRUPT = "FAIL corrupt"
    ERROR = "ERROR"
    CRASHED = "CRASH"
    NOT_RUN = "NOT RUN"
    NO_ROW = "NO ROW"

    @property
    def green(self) -> bool:
        """True if the case was measured and passed."""
        return self in _GREEN

    @property
    def red(self) -> bool:
        """True if something is wrong. A skipped case is neither green nor red."""
        return not self.green and self is not Outcome.SKIPPED


_Figures = TypeVar("_Figures", Bounds, Drift)
_GREEN = frozenset({Outcome.PASSED, Outcome.ACCEPTED, Outcome.UPDATED, Outcome.RECENTRED, Outcome.MEASURED})


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """The result of one case.

    Attributes:
        case: the case.
        outcome: its outcome.
        failures: failed checks.
        record: the measurements; None where the case ended earlier.
        bounds: permitted cost of the precision on this model.
        drift: change of the losses since acceptance; None where there is nothing to pair.
        reason: reason for absent figures, in one line.
        message: message of a red or skipped case, in several lines.
        seconds: wall time without waiting for a device; of it `load_seconds` for loading the model.
        worker: xdist's name of the worker, `main` without xdist.
        cause: the broken link, for a case with failed checks.
        kernel: the tested kernel, for a case that ended before it had a record.
        cost: cost of the measurement; None for a case without a record.
    """

    case: Case
    outcome: Outcome
    failures: tuple[Check, ...] = ()
    record: Record | None = None
    bounds: Bounds | None = None
    drift: Drift | None = None
    reason: str = ""
    message: str = ""
    seconds: float | None = None
    load_seconds: float | None = None
    worker: str = ""
    cause: str = ""
    kernel: AskedKernel | None = None
    cost: Cost | None = None

    @property
    def asked_kernel(self) -> AskedKernel | None:
        """The named kernel, if it was tested."""
        return self.kernel if self.record is None else self.record.asked_kernel

    @property
    def failed_steps(self) -> tuple[int, ...]:
        """Steps of the failed checks, ascending."""
        return tuple(sorted({check.step for check in self.failures}))

    @property
    def word(self) -> str:
        """The table's word: `pass`, `FAIL step 4,6`, `FAIL missing`."""
        if self.outcome is not Outcome.FAILED:
            return self.outcome.value
        return f"{self.outcome.value} step {','.join(map(str, self.failed_steps))}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            **{
                name: getattr(self, name)
                for name in ("reason", "message", "seconds", "load_seconds", "worker", "cause")
            },
            "id": self.case.id,
            "case": {**asdict(self.case), "options": list(self.case.options)},
            "outcome": self.outcome.value,
            "failures": [asdict(check) for check in self.failures],
            "record": None if self.record is None else self.record.as_dict(),
            "bounds": None if self.bounds is None else asdict(self.bounds),
            "drift": None if self.drift is None else asdict(self.drift),
            "kernel": None if self.kernel is None else self.kernel.as_dict(),
            "cost": None if self.cost is None else self.cost.as_dict(),
        }


def result_from_dict(data: Mapping[str, Any]) -> CaseResult:
    """Decode the output of `CaseResult.as_dict`. Raises ValueError, in one line, for anything else, and for
    contradictory data."""
    try:
        return _result(data)
    except MALFORMED as error:
        raise ValueError(f"no result of a case: {told(error)}") from error


def case_from_dict(data: Any) -> Case:
    """Decode a case from plain JSON types. Raises ValueError for anything else."""
    names = [one.name for one in fields(Case)]
    if not isinstance(data, Mapping) or data.keys() != set(names):
        raise ValueError(f"a case must be a table of {', '.join(names)}, got {got(data, 60)}")
    texts = [data[name] for name in names if name not in ("options", "tier")]
    options, tier = data["options"], data["tier"]
    whole = isinstance(options, list) and all(isinstance(one, str) for one in (*texts, *options, tier or ""))
    if not whole:
        raise ValueError(f"a case must be named by texts, got {got(data, 120)}")
    return Case(**{**data, "options": tuple(options)})


def _result(data: Any) -> CaseResult:
    if not isinstance(data, Mapping):
        raise TypeError(f"a result must be a dict, got {got(data)}")
    for name in ("reason", "message", "worker", "cause", "id", "outcome"):
        if not isinstance(data[name], str):
            raise TypeError(f"{name} must be str, got {got(data[name])}")
    for name in ("seconds", "load_seconds"):
        if data[name] is not None:
            _check_number(name, data[name])
    record, bounds, drift = data["record"], data["bounds"], data["drift"]
    result = CaseResult(
        case=case_from_dict(data["case"]),
        outcome=Outcome(data["outcome"]),
        failures=tuple(map(_failure, data["failures"])),
        record=None if record is None else record_from_dict(record),
        bounds=None if bounds is None else _bounds(bounds),
        drift=None if drift is None else _figures(Drift, drift),
        reason=data["reason"],
        message=data["message"],
        seconds=data["seconds"],
        load_seconds=data["load_seconds"],
        worker=data["worker"],
        cause=data["cause"],
        kernel=asked_kernel_from_dict(data["kernel"]),
        cost=None if data["cost"] is None else cost_from_dict(data["cost"]),
    )
    if result.case.id != data["id"]:
        raise ValueError(f"the result of {data['id']!r} is one of {result.case.id!r}")
    if result.record is not None and result.record.case != result.case:
        raise ValueError(f"the result of {data['id']} has the record of {result.record.id}")
    if result.outcome.green and result.record is None:
        raise ValueError(f"the result of {data['id']} is {result.word} and has no record")
    if (result.outcome is Outcome.FAILED) > bool(result.failures) or (
        result.outcome.green and result.failures
    ):
        raise ValueError(
            f"the result of {data['id']} is {result.outcome} with {len(result.failures)} failures"
        )
    return result


def check_green(result: CaseResult) -> None:
    """Raise ValueError where a green case has figures that no check of the gate passes: no run wrote such a
    row, or it was damaged since."""
    record = result.record
    if record is None or not result.outcome.green:
        return
    check_figures(record)
    if result.outcome is Outcome.MEASURED:  # nothing was judged
        return
    figures = [*record.reference_losses, *record.sequence_losses, *record.reference_entropies]
    figures += [] if record.kl is None else [*record.exact_kl[1]]
    figures += [] if record.entropy is None else [record.entropy]
    figures += [] if result.bounds is None else [result.bounds.kl, result.bounds.rise]
    figures += [] if result.drift is None else [result.drift.median, result.drift.rms, result.drift.max]
    if not all(map(math.isfinite, figures)):
        raise ValueError(
            f"the result of {result.case.id} is {result.word} and has a figure that is no finite number"
        )


def _failure(data: Any) -> Check:
    check = Check(**data)
    texts = isinstance(check.key, str) and isinstance(check.message, str)
    row = CHECKS.get(check.key) if texts else None
    if row is None or check.step != row.step or check.passed is not False:
        raise ValueError(f"no failed check: {got(data, 80)}")
    return check


def _bounds(data: Any) -> Bounds:
    """Decode a case's bounds: two numbers, and their source."""
    if not isinstance(data, Mapping):
        raise TypeError(f"bounds must be a dict, got {got(data)}")
    for name, value in data.items():
        if name in ("whose", "reason"):
            if not isinstance(value, str):
                raise TypeError(f"{name} of bounds must be text, got {got(value)}")
        elif name == "own":
            if not isinstance(value, bool):
                raise TypeError(f"own of bounds must be true or false, got {got(value)}")
        else:
            _check_number(f"{name} of bounds", value)
    return Bounds(**data)


def _figures(kind: type[_Figures], data: Any) -> _Figures:
    """Decode several numbers by name, such as a drift."""
    if not isinstance(data, Mapping):
        raise TypeError(f"a {kind.__name__.lower()} must be a dict, got {got(data)}")
    for name, value in data.items():
        _check_number(f"{name} of {kind.__name__.lower()}", value)
    return kind(**data)


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, float | int):
        raise TypeError(f"{name} must be a number, got {got(value)}")


def all_green(results: Iterable[CaseResult]) -> bool:
    """Return whether a run is green: no case is red, and at least one was measured."""
    outcomes = [result.outcome for result in results]
    return any(outcome.green for outcome in outcomes) and not any(outcome.red for outcome in outcomes)
