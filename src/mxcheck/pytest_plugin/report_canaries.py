"""The smoke test of a run's report: before cases run, reports of a known end are given to it.

A report that passes over a worker's death, or over a case that never ran, turns nothing red.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from mxcheck.gate.canaries.healthy import HEALTHY
from mxcheck.gate.canaries.hindrance import NO_MEMORY
from mxcheck.gate.check import check
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.pytest_plugin.report import RunReport
from mxcheck.pytest_plugin.wire import RESULT

_CASE = HEALTHY.case
_NODE = f"tests/models/test_accuracy.py::test_accuracy[{_CASE.id}]"
_PASSED = CaseResult(case=_CASE, outcome=Outcome.PASSED, record=HEALTHY)
_RED = replace(_PASSED, outcome=Outcome.FAILED, failures=(check(4, "cast codes", False, "a canary's"),))
_SKIPPED = CaseResult(case=_CASE, outcome=Outcome.SKIPPED, reason="a canary")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Canary:
    """Reports of one case, each a phase, how it ended and what it carries; and the end that the case has."""

    name: str
    reports: tuple[tuple[str, str, CaseResult | None], ...]
    ends: Outcome


def _canary(name: str, ends: Outcome, *reports: tuple[str, str, CaseResult | None]) -> _Canary:
    return _Canary(name=name, reports=reports, ends=ends)


_SETUP = ("setup", "passed", None)
_CALLED, _TORN_DOWN = ("call", "passed", _PASSED), ("teardown", "passed", None)
_DIED = ("???", "failed", None)
_CANARIES = (
    _canary("passed", Outcome.PASSED, _SETUP, _CALLED, _TORN_DOWN),
    _canary("failed", Outcome.FAILED, _SETUP, ("call", "failed", _RED), _TORN_DOWN),
    _canary("raised", Outcome.ERROR, _SETUP, ("call", "failed", None), _TORN_DOWN),
    _canary("raised in its setup", Outcome.ERROR, ("setup", "failed", None)),
    _canary("raised in its teardown", Outcome.ERROR, _SETUP, _CALLED, ("teardown", "failed", None)),
    _canary("skipped", Outcome.SKIPPED, _SETUP, ("call", "skipped", _SKIPPED)),
    _canary("skipped before it ran", Outcome.SKIPPED, ("setup", "skipped", None)),
    _canary("died", Outcome.CRASHED, _DIED),
    _canary("died in its call", Outcome.CRASHED, _SETUP, _DIED),
    _canary("died in its teardown", Outcome.CRASHED, _SETUP, _CALLED, _DIED),
    _canary("never ran", Outcome.NOT_RUN),
    _canary("never got further", Outcome.NOT_RUN, _SETUP),
)


def broken_report() -> str:
    """Why what this run reports is worth nothing, in one line; empty where it reports all canaries right.
    None needs a file."""
    try:
        found = list(_missed())
    except MemoryError:
        return f"the report cannot be tried: {NO_MEMORY}"
    if not found:
        return ""
    return (
        f"a case that {found[0]}; mxcheck itself is broken, its report would hide what fails; undo what was "
        f"changed under mxcheck, or install it anew"
    )


def _missed() -> Iterator[str]:
    for canary in _CANARIES:
        try:
            outcome, status = _ended(canary)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  (whatever it is, it is told)
            yield f"{canary.name}: {' '.join(f'{type(error).__name__}: {error}'.split())}"
            continue
        if outcome is not canary.ends:
            yield f"{canary.name} is reported as {outcome}, expected {canary.ends}"
        if status != (canary.ends is Outcome.NOT_RUN):
            yield f"{canary.name} leaves the exit status {status}"


def _ended(canary: _Canary) -> tuple[Outcome, int]:
    """How the report says that the case ended, and the exit status that it leaves where pytest had none."""
    live = SimpleNamespace(case_ended=lambda *_: None, last_words={})
    plugins = SimpleNamespace(get_plugin=lambda _: live)
    config: Any = SimpleNamespace(pluginmanager=plugins)
    session: Any = SimpleNamespace(exitstatus=0)
    report = RunReport(config)
    report._selected = [_CASE]
    for when, outcome, sent in canary.reports:
        phase: Any = when
        end: Any = outcome
        carried: Any = {} if sent is None else {RESULT: sent.as_dict()}
        report.pytest_runtest_logreport(
            pytest.TestReport(
                nodeid=_NODE,
                location=("", None, ""),
                keywords={},
                outcome=end,
                longrepr=None,
                when=phase,
                **carried,
            )
        )
    report._note_unfinished(session)
    return report.results[_CASE.id].outcome, int(session.exitstatus)
