"""Judging the records of an environment's run: what counts as red, and how near to a bound the rest came."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mxcheck.gate.baseline import read
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.case import Case
from mxcheck.gate.record import Record
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.gate.verdict import Check
from validation.control_environments.false_alarms import summarise

BASELINES = Path(__file__).parents[2] / "baselines"


@pytest.fixture
def accepted() -> Record:
    return read(BASELINES / "ref-llama" / "mxfp8_e4m3-B.json")


BROKEN = {"bnb_int8": ("multiplies wrongly", "torch is broken")}


def summary(folder: Path, *rows: dict[str, Any], code: int = 0, **options: Any) -> Any:
    path = folder / "result.json"
    data = {"environment": "here", "identity": {}, "exit_code": code, "seconds": 1.5, "rows": rows}
    path.write_text(json.dumps(data))
    return summarise(path, BASELINES, **options)


def row(record: Record, *failures: Check) -> dict[str, Any]:
    outcome = Outcome.FAILED if failures else Outcome.PASSED
    return CaseResult(
        case=record.case,
        outcome=outcome,
        failures=failures,
        record=record,
        bounds=Bounds(kl=0.023, rise=0.023),
    ).as_dict()


def without_figures(
    precision: str, tier: str, outcome: Outcome, reason: str = "", model: str = "ref-llama"
) -> dict[str, Any]:
    case = Case(model=model, precision=precision, tier=tier)
    return CaseResult(case=case, outcome=outcome, reason=reason).as_dict()


def test_nothing_moved(tmp_path: Path, accepted: Record) -> None:
    found = summary(tmp_path, row(accepted))
    assert (found.cases, found.skipped, found.same_arithmetic, found.red) == (1, 0, 1, {})
    assert (found.shares, found.worst_rms, found.seconds) == ({}, 0.0, 1.5)
    assert list(found.arithmetics) == ["ref-llama fp32"]


def test_a_machine_of_other_arithmetic_is_held_to_the_noise(tmp_path: Path, accepted: Record) -> None:
    moved = replace(
        accepted, arithmetic="another", sequence_losses=[loss + 1e-5 for loss in accepted.sequence_losses]
    )
    found = summary(tmp_path, row(moved))
    assert (found.same_arithmetic, found.red) == (0, {})
    share, name = found.shares["loss"]
    assert name == "ref-llama-mxfp8_e4m3-B"
    assert 0 < share < 1
    assert found.shares["reference"] == (0.0, "ref-llama-mxfp8_e4m3-B")
    assert found.worst_rms == pytest.approx(1e-5)


def test_what_moved_too_far_is_red_whatever_the_run_said(tmp_path: Path, accepted: Record) -> None:
    moved = replace(
        accepted, arithmetic="another", sequence_losses=[loss + 0.1 for loss in accepted.sequence_losses]
    )
    found = summary(tmp_path, row(moved))
    assert list(found.red) == ["ref-llama-mxfp8_e4m3-B"]
    assert "step 6: losses moved by sequence" in found.red["ref-llama-mxfp8_e4m3-B"]
    assert found.shares["loss"][0] > 1


def test_machines_are_told_apart(tmp_path: Path, accepted: Record) -> None:
    here = summary(tmp_path, row(accepted)).arithmetics
    other = summary(tmp_path, row(replace(accepted, arithmetic="another"))).arithmetics
    losses = [loss + 1e-12 for loss in accepted.reference_losses]
    assert here != other != summary(tmp_path, row(replace(accepted, reference_losses=losses))).arithmetics


def test_what_is_really_broken_there_is_a_true_alarm(tmp_path: Path) -> None:
    rows = [
        without_figures("bnb_int8", "A", Outcome.ERROR, "it multiplies wrongly here"),
        without_figures("bnb_int8", "B", Outcome.ERROR, "out of memory"),
        without_figures("nvfp4", "A", Outcome.ERROR, "it multiplies wrongly here"),
    ]
    found = summary(tmp_path, *rows, code=1, breaks=BROKEN)
    assert found.true_alarms == {"ref-llama-bnb_int8-A": "torch is broken"}
    assert found.red == {"ref-llama-bnb_int8-B": "ERROR", "ref-llama-nvfp4-A": "ERROR"}


def test_what_the_run_said_counts_unless_it_is_judged_anew(tmp_path: Path, accepted: Record) -> None:
    said = row(accepted, Check(step=6, key="losses", passed=False, message="moved"))
    assert summary(tmp_path, said, code=1).red == {"ref-llama-mxfp8_e4m3-B": "FAIL step 6"}
    assert summary(tmp_path, said, code=1, anew=True).red == {}


def test_a_run_that_is_red_without_a_red_case_is_red(tmp_path: Path, accepted: Record) -> None:
    """An ordering, or what the records do not show."""
    found = summary(tmp_path, row(accepted), code=1)
    assert found.red == {"the run": "pytest ended with exit code 1, and no case is red"}


def test_a_missing_baseline_is_red(tmp_path: Path, accepted: Record) -> None:
    path = tmp_path / "result.json"
    data = {"environment": "here", "identity": {}, "exit_code": 0, "seconds": 1.5, "rows": [row(accepted)]}
    path.write_text(json.dumps(data))
    assert "No such file" in summarise(path, tmp_path).red["ref-llama-mxfp8_e4m3-B"]


def test_skips_are_counted_and_errors_are_red(tmp_path: Path) -> None:
    skipped = without_figures("bnb_int8", "A", Outcome.SKIPPED, "experts only", "ref-moe")
    broken = without_figures("bnb_int8", "A", Outcome.ERROR)
    found = summary(tmp_path, skipped, broken)
    assert (found.cases, found.skipped, found.same_arithmetic) == (2, 1, 0)
    assert found.red == {"ref-llama-bnb_int8-A": "ERROR"}
