"""How a case ends that cannot be measured: skipped, red in one line, or not caught at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sample_record import build_record

from mxcheck.gate.case import Case
from mxcheck.gate.record import Record
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.measure.case_run import run_case
from mxcheck.measure.model_session import ModelSession
from mxcheck.models.conversion.convert import UnavailableError
from mxcheck.run.measurement_settings import Measuring

CASE = Case(model="my-model", precision="bnb_int8", tier="A")


def ended(
    monkeypatch: pytest.MonkeyPatch, folder: Path, outcome: Record | BaseException
) -> tuple[CaseResult, list[Record]]:
    """The end of a case that gives this record, or raises this; and the records that were compared."""
    compared: list[Record] = []

    def measured(_session: ModelSession, _case: Case) -> Record:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def compare(record: Record) -> CaseResult:
        compared.append(record)
        return CaseResult(case=CASE, outcome=Outcome.PASSED, record=record)

    monkeypatch.setattr("mxcheck.measure.case_run.measure_case", measured)
    session = ModelSession(Measuring(device="cpu"))
    return run_case(session, CASE, compare, baselines=folder), compared


def test_what_was_measured_is_settled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record = build_record()
    result, compared = ended(monkeypatch, tmp_path, record)
    assert (result.outcome, compared) == (Outcome.PASSED, [record])


def test_what_cannot_run_here_is_skipped_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result, compared = ended(monkeypatch, tmp_path, UnavailableError("needs a CUDA device"))
    reason = "needs a CUDA device"
    assert result == CaseResult(
        case=CASE, outcome=Outcome.SKIPPED, reason=reason, message=f"{CASE.id}: {reason}"
    )
    assert compared == []


def test_unless_it_ran_on_such_a_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    accepted = tmp_path / CASE.baseline
    accepted.parent.mkdir()
    accepted.write_text("{}")
    result, _ = ended(monkeypatch, tmp_path, UnavailableError("its library broke"))
    assert result.outcome is Outcome.ERROR
    assert result.reason == (
        f"it was accepted on such a device ({accepted}) and cannot run now: its library broke"
    )
    # Where the library is not installed nobody expects it to run.
    monkeypatch.setattr("mxcheck.measure.case_run.installed", lambda _: False)
    assert ended(monkeypatch, tmp_path, UnavailableError("gone"))[0].outcome is Outcome.SKIPPED


def test_what_the_user_can_mend_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, compared = ended(monkeypatch, tmp_path, ValueError("give another length"))
    assert (result.outcome, result.reason) == (Outcome.ERROR, "give another length")
    assert result.message == f"{CASE.id}: give another length"
    assert compared == []


def test_what_a_kernel_refuses_of_a_case_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, compared = ended(monkeypatch, tmp_path, NotImplementedError("at most\n128 rows"))
    assert (result.outcome, compared) == (Outcome.ERROR, [])
    assert result.reason == "it needs what is not implemented: at most 128 rows"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "MemoryError"),
        (torch.OutOfMemoryError("CUDA out of\nmemory"), "CUDA out of memory"),
        (RuntimeError("not enough memory:  you tried"), "not enough memory: you tried"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_want_of_memory_is_one_line_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, words: str
) -> None:
    result, _ = ended(monkeypatch, tmp_path, error)
    assert result.outcome is Outcome.ERROR
    assert result.reason == (
        f"out of memory on cpu: {words}; lower --mx-batch-size or --mx-sequence-length, or give this model a "
        f"larger device"
    )


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), KeyError("x")], ids=["runtime", "key"]
)
def test_a_bug_is_not_swallowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        ended(monkeypatch, tmp_path, error)
