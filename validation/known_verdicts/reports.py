"""Reports of runs with known outcomes of the cases.

A report that ignores a worker's death, or a case that never ran, turns no run red.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.check import check
from mxcheck.gate.counters import OperandCounts
from mxcheck.gate.drift import Drift
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.pytest_plugin.options.neighbours import asked_update
from mxcheck.pytest_plugin.progress.run_report import RunReport
from mxcheck.pytest_plugin.xdist.wire import RESULT
from mxcheck.reporting.failure import worst_layers
from mxcheck.reporting.table import render, results_table
from mxcheck.scheduling.split_models import split
from validation.known_verdicts.expectation import Expectation, expect
from validation.known_verdicts.healthy import HEALTHY

_CASE = HEALTHY.case
_NODE = f"tests/models/test_accuracy.py::test_accuracy[{_CASE.id}]"
_PASSED = CaseResult(case=_CASE, outcome=Outcome.PASSED, record=HEALTHY)
_RED = replace(_PASSED, outcome=Outcome.FAILED, failures=(check("cast codes", False, "an example's"),))
_SKIPPED = CaseResult(case=_CASE, outcome=Outcome.SKIPPED, reason="an example")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reported:
    """Reports of one case, each with its phase, outcome and contents; and the case's required outcome."""

    name: str
    reports: tuple[tuple[str, str, CaseResult | None], ...]
    ends: Outcome


def _reported(name: str, ends: Outcome, *reports: tuple[str, str, CaseResult | None]) -> _Reported:
    return _Reported(name=name, reports=reports, ends=ends)


_SETUP = ("setup", "passed", None)
_CALLED, _TORN_DOWN = ("call", "passed", _PASSED), ("teardown", "passed", None)
_DIED = ("???", "failed", None)
_REPORTED = (
    _reported("passed", Outcome.PASSED, _SETUP, _CALLED, _TORN_DOWN),
    _reported("failed", Outcome.FAILED, _SETUP, ("call", "failed", _RED), _TORN_DOWN),
    _reported("raised", Outcome.ERROR, _SETUP, ("call", "failed", None), _TORN_DOWN),
    _reported("raised in its setup", Outcome.ERROR, ("setup", "failed", None)),
    _reported("raised in its teardown", Outcome.ERROR, _SETUP, _CALLED, ("teardown", "failed", None)),
    _reported("skipped", Outcome.SKIPPED, _SETUP, ("call", "skipped", _SKIPPED)),
    _reported("skipped before it ran", Outcome.SKIPPED, ("setup", "skipped", None)),
    _reported("died", Outcome.CRASHED, _DIED),
    _reported("died in its call", Outcome.CRASHED, _SETUP, _DIED),
    _reported("died in its teardown", Outcome.CRASHED, _SETUP, _CALLED, _DIED),
    _reported("never ran", Outcome.NOT_RUN),
    _reported("never got further", Outcome.NOT_RUN, _SETUP),
)


_TOLD = replace(
    _RED,
    bounds=Bounds(kl=0.01, rise=0.01),
    drift=Drift(median=1e-6, rms=2e-4, max=3e-3, median_bound=1.0, rms_bound=1.0, max_bound=1.0),
)


def _saturating() -> CaseResult:
    """Return a red row whose activations saturate, and whose weights do not."""
    assert HEALTHY.counters is not None
    (name, operands), *_ = HEALTHY.counters.operands.items()
    counts = next(one for one in operands.values() if isinstance(one, OperandCounts))
    weights, activations = replace(counts, saturated=0), replace(counts, saturated=counts.elements // 10)
    counters = replace(HEALTHY.counters, operands={name: {"weights": weights, "activations": activations}})
    return replace(_TOLD, record=replace(HEALTHY, counters=counters))


def _told(result: CaseResult) -> str:
    """Return a row of the table, in one line."""
    return " ".join(render(results_table([result]), color=False).split())


def _worst() -> str:
    """Return the layer that is named first where two of them turned, the last one farther."""
    assert HEALTHY.sublayers is not None
    first, *_, last = HEALTHY.sublayers
    turned = {
        place: replace(HEALTHY.sublayers[place], sketch=sketch)
        for place, sketch in ((first, (600, -795, 86, 0)), (last, (800, 600, 0, 0)))
    }
    found = worst_layers(replace(HEALTHY, sublayers=HEALTHY.sublayers | turned), HEALTHY)
    return found[0].split(": ")[1] if found and last in found[0] else "another"


def _compared(*, new_only: bool) -> tuple[bool, bool]:
    given = {"update_snapshots": not new_only, "update_new_snapshots_only": new_only}
    config: Any = SimpleNamespace(getoption=given.get)
    asked = asked_update(config)
    return asked.changed, asked.missing


_TEXTS: tuple[Expectation, ...] = (
    expect("drift", "the drift of a row with an rms of 0.0002", lambda: " 2e-04 " in _told(_TOLD), True),
    expect("saturation", "the share of saturated elements", lambda: " 5.00 " in _told(_saturating()), True),
    expect("worst layer", "the layer whose error turned", _worst, list(HEALTHY.sublayers or {})[-1]),
    expect("update", "what --snapshot-update accepts", lambda: _compared(new_only=False), (True, False)),
    expect(
        "update of what is new",
        "what --snapshot-update-new-only accepts",
        lambda: _compared(new_only=True),
        (False, True),
    ),
    expect(
        "parts",
        "the models of a run in three parts",
        lambda: sorted(name for part in split(dict.fromkeys("abcde", 1.0), 3) for name in part),
        list("abcde"),
    ),
)


def missed_reports() -> Iterator[str]:
    """Yield each wrong report of a run, in one line."""
    for text in _TEXTS:
        try:
            found = text.found()
        except Exception as error:  # noqa: BLE001  (reported, whatever it is)
            found = " ".join(f"{type(error).__name__}: {error}".split())
        if found != text.expected:
            yield f"is shown wrong: {text.what} is {found!r}, expected {text.expected!r}"
    for one in _REPORTED:
        try:
            outcome, status = _ended(one)
        except Exception as error:  # noqa: BLE001  (reported, whatever it is)
            yield f"{one.name}: {' '.join(f'{type(error).__name__}: {error}'.split())}"
            continue
        if outcome is not one.ends:
            yield f"{one.name} is reported as {outcome}, expected {one.ends}"
        if status != (one.ends is Outcome.NOT_RUN):
            yield f"{one.name} leaves the exit status {status}"


def _ended(one: _Reported) -> tuple[Outcome, int]:
    """Return the case's outcome in the report, and the run's exit status where pytest had none."""
    live = SimpleNamespace(case_ended=lambda *_: None, last_words={})
    plugins = SimpleNamespace(get_plugin=lambda _: live)
    config: Any = SimpleNamespace(pluginmanager=plugins)
    session: Any = SimpleNamespace(exitstatus=0)
    report = RunReport(config)
    report._selected = [_CASE]
    for when, outcome, sent in one.reports:
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
