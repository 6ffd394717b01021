"""Run pytest on a product suite in this process, and keep its results."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest

from mxcheck.files.printed import got
from mxcheck.formats.aliases import precision_of
from mxcheck.gate.case import Case
from mxcheck.gate.result import CaseResult, Outcome, result_from_dict
from mxcheck.pytest_plugin.xdist.wire import sent_cell, sent_result

#: Maximum characters kept of a red test's message.
_MOST_SHOWN = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRun:
    """The results of a suite under a fault.

    Attributes:
        ended: `finished`; `crash`: the process died; `hang`: it was stopped at its time limit.
        exit_code: pytest's own, where it finished.
        results: the model suite's, one for each case.
        cells: the kernel suite's, one for each cell of the conformance matrix, shortened.
        tests: for each other test function, the numbers of failed tests and of tests run.
        own_tests: wrong verdicts that mxcheck's own tests found under the fault, a line each.
        messages: of red tests, errors in collection, and the process's last output.
        seconds: wall time.
    """

    ended: str = "finished"
    exit_code: int = 0
    results: list[CaseResult] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    tests: dict[str, list[int]] = field(default_factory=dict)
    own_tests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**own, "results": [result.as_dict() for result in self.results]}

    @property
    def red(self) -> bool:
        """True if a user who runs the suite would see that something is wrong."""
        return self.ended != "finished" or self.exit_code != 0


def suite_run_from_dict(data: Any) -> SuiteRun:
    """Decode the output of `SuiteRun.as_dict`. Raises ValueError, TypeError or LookupError for anything
    else."""
    found = SuiteRun(**{**data, "results": [result_from_dict(one) for one in data["results"]]})
    for name, right in (
        ("ended", found.ended in ("finished", "crash", "hang")),
        ("exit_code", type(found.exit_code) is int),
        ("cells", _is_list(found.cells, dict)),
        ("tests", isinstance(found.tests, dict) and all(map(_is_pair, found.tests.values()))),
        ("own_tests", _is_list(found.own_tests, str)),
        ("messages", _is_list(found.messages, str)),
        ("seconds", type(found.seconds) in (int, float) and 0 <= found.seconds < math.inf),
    ):
        if not right:
            raise ValueError(f"{name} is no {name} of a run: {got(getattr(found, name))}")
    return found


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(one, kind) for one in value)


def _is_pair(value: Any) -> bool:
    return _is_list(value, int) and len(value) == 2


class Collector:
    """A pytest plugin that keeps a run's reports."""

    def __init__(self) -> None:
        self.results: dict[str, CaseResult] = {}
        self.cells: list[dict[str, Any]] = []
        self.tests: dict[str, list[int]] = {}
        self.messages: list[str] = []
        self._cases: dict[str, Case] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            case = item.callspec.params.get("mx_case") if hasattr(item, "callspec") else None
            if isinstance(case, Case):
                self._cases[item.nodeid] = case

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.messages.append(report.longreprtext[-_MOST_SHOWN:])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        function = report.nodeid.rpartition("::")[2].partition("[")[0]
        message = report.longreprtext[-_MOST_SHOWN:] if report.failed else ""
        if report.failed:
            self.messages.append(message)
        if report.nodeid in self._cases:
            self._case(report, sent_result(report), message)
        elif (cell := sent_cell(report)) is not None:
            self.cells.append(_in_short(cell))
        elif report.failed or (report.when == "call" and report.passed):
            counts = self.tests.setdefault(function, [0, 0])
            counts[0] += report.failed
            counts[1] += 1

    def _case(self, report: pytest.TestReport, sent: Mapping[str, Any] | None, message: str) -> None:
        case = self._cases[report.nodeid]
        before = self.results.get(case.id, CaseResult(case=case, outcome=Outcome.ERROR))
        result = before if sent is None else result_from_dict(sent)
        if report.failed and not result.outcome.red:  # it failed after the case had ended
            result = replace(result, outcome=Outcome.ERROR)
        if report.failed or (report.when == "call" and sent is not None):
            self.results[case.id] = replace(result, message=message)


def _in_short(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"{row['implementation']}-{precision_of(row['format'])}-{row['rule']}",
        "verdict": row["verdict"],
        "elements": row["elements"],
        "mismatches": sum(count for kinds in row["mismatches"].values() for count in kinds.values()),
    }


def run_suite(arguments: Sequence[str]) -> SuiteRun:
    """Run pytest with these arguments in this process, without settings from an outer pytest or CI."""
    for name in [name for name in os.environ if name.startswith("PYTEST_") or name == "CI"]:
        del os.environ[name]
    collector = Collector()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mxcheck-leases-") as leases:
        # A ledger of its own: waiting for other runs of this host would look like hanging.
        os.environ["MXCHECK_LEASES"] = leases
        words = ("-p", "no:cacheprovider", "-p", "no:xdist", "-q")
        code = pytest.main([*arguments, *words], plugins=[collector])
    return SuiteRun(
        exit_code=int(code),
        results=list(collector.results.values()),
        cells=collector.cells,
        tests=collector.tests,
        messages=collector.messages,
        seconds=time.monotonic() - began,
    )
