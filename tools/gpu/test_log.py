"""A pytest plugin (`-p gpu.test_log`): a line of JSON for each test as it ends, so that a run that hangs, and
is killed, still says what it measured before."""

from __future__ import annotations

import json
import os

import pytest

from gpu.suites import LOG_VARIABLE
from mxcheck.pytest_plugin.xdist.wire import sent_cell, sent_result


class _Log:
    """In the controller alone: reports of xdist's workers arrive there."""

    def __init__(self, path: str) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        lines = [line for line in str(report.longrepr or "").splitlines() if line.strip()]
        shown = lines if len(lines) <= 4 else [*lines[:2], *lines[-2:]]
        row = {
            "test": report.nodeid.rpartition("::")[2],
            "outcome": report.outcome,
            "message": "\n".join(shown)[:800],
            "case": sent_result(report),
            "cell": sent_cell(report),
        }
        with open(self._path, "a", encoding="utf-8") as file:  # noqa: PTH123  (appended, line by line)
            file.write(json.dumps(row) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    if LOG_VARIABLE in os.environ and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Log(os.environ[LOG_VARIABLE]), "mxcheck-gpu-test-log")
