"""What the controller makes of the reports of one case: its own result, or how its test ended instead."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from sample_record import build_record

from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.gate.verdict import Check
from mxcheck.kernels.compiled import library
from mxcheck.models.recipes.recipe import recipe
from mxcheck.pytest_plugin.progress.run_report import RunReport

PASSED = CaseResult(
    case=build_record().case, outcome=Outcome.PASSED, record=build_record(), seconds=1.5, worker="gw0"
)
FAILED = replace(
    PASSED, outcome=Outcome.FAILED, failures=(Check(step=6, key="losses", passed=False, message="moved"),)
)
SKIPPED = CaseResult(case=PASSED.case, outcome=Outcome.SKIPPED, reason="no GPU", message="id: no GPU")
NODE = f"tests/models/test_accuracy.py::test_accuracy[{PASSED.case.id}]"


def phase(when: str, outcome: str, sent: CaseResult | None = None, node: str = NODE) -> pytest.TestReport:
    """What pytest reports of one phase."""
    return pytest.TestReport(
        nodeid=node,
        location=("", 0, ""),
        keywords={},
        outcome=outcome,  # type: ignore[arg-type]
        longrepr=None,
        when=when,  # type: ignore[arg-type]
        **({} if sent is None else {"mx_result": sent.as_dict()}),
    )


def told(*phases: pytest.TestReport) -> tuple[dict[str, CaseResult], list[tuple[str, float | None]]]:
    """The results of a run of one case, and what the live display heard."""
    ended: list[tuple[str, float | None]] = []
    live = SimpleNamespace(case_ended=lambda name, seconds: ended.append((name, seconds)))
    config: Any = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=lambda _: live))
    report = RunReport(config)
    report._selected = [PASSED.case]
    for one in phases:
        report.pytest_runtest_logreport(one)
    return report.results, ended


SETUP = phase("setup", "passed")


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        pytest.param(
            [SETUP, phase("call", "passed", PASSED), phase("teardown", "passed")], PASSED, id="pass"
        ),
        pytest.param([SETUP, phase("call", "failed", FAILED), phase("teardown", "passed")], FAILED, id="red"),
        pytest.param(
            [SETUP, phase("call", "skipped", SKIPPED), phase("teardown", "passed")],
            SKIPPED,
            id="skipped",
        ),
        pytest.param(
            [SETUP, phase("call", "failed", PASSED), phase("teardown", "passed")],
            replace(PASSED, outcome=Outcome.ERROR),
            id="its-test-failed-after-it-had-passed",
        ),
        pytest.param(
            [SETUP, phase("call", "passed", PASSED), phase("teardown", "failed")],
            replace(PASSED, outcome=Outcome.ERROR),
            id="its-teardown-failed",
        ),
        pytest.param(
            [SETUP, phase("call", "failed", FAILED), phase("teardown", "failed")],
            FAILED,
            id="red-and-its-teardown-failed",
        ),
        pytest.param(
            [phase("setup", "failed")], CaseResult(case=PASSED.case, outcome=Outcome.ERROR), id="setup-failed"
        ),
        pytest.param(
            [SETUP, phase("call", "failed")],
            CaseResult(case=PASSED.case, outcome=Outcome.ERROR),
            id="raised-without-a-result",
        ),
        pytest.param(
            [phase("???", "failed")], CaseResult(case=PASSED.case, outcome=Outcome.CRASHED), id="worker-died"
        ),
        pytest.param(
            [phase("setup", "skipped")],
            CaseResult(case=PASSED.case, outcome=Outcome.SKIPPED, reason="skipped before it ran"),
            id="skipped-before-it-ran",
        ),
    ],
)
def test_how_a_case_ended(phases: list[pytest.TestReport], expected: CaseResult) -> None:
    results, _ = told(*phases)
    assert results == {PASSED.case.id: expected}


def test_the_display_hears_of_its_end_with_its_seconds() -> None:
    _, ended = told(SETUP, phase("call", "passed", PASSED), phase("teardown", "passed"))
    assert ended == [(PASSED.case.id, 1.5)]


def test_other_tests_are_none_of_its_business() -> None:
    other = "tests/models/test_accuracy.py::test_accuracy[ref-moe-bf16]"
    results, ended = told(
        phase("call", "failed", PASSED, other), phase("call", "failed", None, "test_x.py::test_x")
    )
    assert (results, ended) == ({}, [])


NO_COMPILER = "no C++ compiler: CXX=nonsense is not on the path"


@pytest.mark.parametrize(
    ("asked", "kernel", "device", "precision", "missing", "expected"),
    [
        ("auto", "eager", "cpu", "mxfp8_e4m3", NO_COMPILER, NO_COMPILER),
        ("auto", "eager", "cpu", "mxfp8_e4m3", None, "a worker has no compiled casts, and -n 0 shows why"),
        ("auto", "cpp", "cpu", "mxfp8_e4m3", None, ""),
        ("auto", "eager", "cpu", "fp32", NO_COMPILER, ""),  # casts nothing
        ("auto", "eager", "NVIDIA H200", "mxfp8_e4m3", NO_COMPILER, ""),
        ("eager", "eager", "cpu", "mxfp8_e4m3", NO_COMPILER, ""),
    ],
)
def test_a_run_says_why_its_casts_are_slower(
    asked: str,
    kernel: str,
    device: str,
    precision: str,
    missing: str | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = {"kernel": kernel, "device": device}
    result = replace(PASSED, record=replace(build_record(), environment=environment))
    tier = None if precision == "fp32" else "B"
    run = SimpleNamespace(kernel=asked, recipes={result.case: recipe(precision, tier=tier)})
    monkeypatch.setattr(RunReport, "_settings", run)
    monkeypatch.setattr(library, "missing", lambda: missing)
    monkeypatch.delenv(library.SWITCH, raising=False)
    report = RunReport(SimpleNamespace())  # type: ignore[arg-type]
    report._results[result.case.id] = result
    assert report._slower_kernel == expected
    monkeypatch.setenv(library.SWITCH, "0")
    assert not report._slower_kernel  # as the line promises
