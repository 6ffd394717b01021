"""One pytest run of a product suite in this process, and what of it is kept."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

#: Characters of a red test's message that are kept.
_MOST_SHOWN = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRun:
    """What came of a suite under a fault, as plain JSON types.

    Attributes:
        ended: `finished`; `crash`: the process died; `hang`: it was stopped at its time limit.
        exit_code: pytest's own, where it finished.
        rows: the model suite's, one a case (`mxcheck.pytest_plugin.report`), each with its `message`.
        cells: the kernel suite's, one a cell of the conformance matrix, in short.
        tests: of each other test function, how many failed, and how many ran.
        messages: of red tests, errors in collection and the process's last words.
        seconds: wall time.
    """

    ended: str = "finished"
    exit_code: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    tests: dict[str, list[int]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def red(self) -> bool:
        """Whether somebody who runs the suite would see that something is wrong."""
        return self.ended != "finished" or self.exit_code != 0


class Collector:
    """A pytest plugin that keeps what a run reports."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.cells: list[dict[str, Any]] = []
        self.tests: dict[str, list[int]] = {}
        self.messages: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.messages.append(report.longreprtext[-_MOST_SHOWN:])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties: dict[str, Any] = dict(report.user_properties)
        function, _, parameter = report.nodeid.rpartition("::")[2].partition("[")
        message = report.longreprtext[-_MOST_SHOWN:] if report.failed else ""
        if report.failed:
            self.messages.append(message)
        if function == "test_accuracy":
            self._case(report, parameter.removesuffix("]"), properties.get("mxcheck"), message)
        elif report.when == "call" and "mxcheck-kernel" in properties:
            self.cells.append(_in_short(properties["mxcheck-kernel"]))
        elif report.failed or (report.when == "call" and report.passed):
            counts = self.tests.setdefault(function, [0, 0])
            counts[0] += report.failed
            counts[1] += 1

    def _case(self, report: pytest.TestReport, name: str, row: dict[str, Any] | None, message: str) -> None:
        if report.failed:
            red = row is not None and row["verdict"] != "pass"
            word = row["verdict"] if row is not None and red else "ERROR"
            self.rows[name] = {"id": name, **(row or {}), "verdict": word, "message": message}
        elif report.when == "call" and row is not None:
            self.rows[name] = {**row, "message": ""}


def _in_short(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"{row['implementation']}-{row['format']}-{row['rule']}",
        "verdict": row["verdict"],
        "elements": row["elements"],
        "mismatches": sum(count for kinds in row["mismatches"].values() for count in kinds.values()),
    }


def run_suite(arguments: Sequence[str]) -> SuiteRun:
    """pytest with these arguments, in this process, without what an outer pytest or CI left around."""
    for name in [name for name in os.environ if name.startswith("PYTEST_") or name == "CI"]:
        del os.environ[name]
    collector = Collector()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mxcheck-leases-") as leases:
        # A ledger of its own: who waits for other runs of this host would seem to hang.
        os.environ["MXCHECK_LEASES"] = leases
        words = ("-p", "no:cacheprovider", "-p", "no:xdist", "-q")
        code = pytest.main([*arguments, *words], plugins=[collector])
    return SuiteRun(
        exit_code=int(code),
        rows=list(collector.rows.values()),
        cells=collector.cells,
        tests=collector.tests,
        messages=collector.messages,
        seconds=time.monotonic() - began,
    )
