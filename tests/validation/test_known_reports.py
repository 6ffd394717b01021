"""Reports of known ends: all are right on this code, and a fault is seen."""

from __future__ import annotations

import pytest

from validation.faults.catalogued import catalogue
from validation.faults.fault import applied
from validation.known_verdicts.reports import missed_reports


def test_this_report_is_sound() -> None:
    assert list(missed_reports()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("death_of_a_worker_not_noted", "died is reported as "),
        ("end_after_the_call_not_noted", "raised in its teardown is reported as pass, expected ERROR"),
        ("case_that_never_ran_left_out", "never ran: KeyError"),
        ("drift_column_shows_the_median", "the drift of a row with an rms of 0.0002 is False, expected True"),
        ("saturation_of_weights_alone", "the share of saturated elements is False, expected True"),
        ("best_layers_named_worst", "the layer whose error turned is 'another', expected 'layers.1.mlp'"),
        ("new_only_overwrites", "--snapshot-update-new-only accepts is (True, True), expected (False, True)"),
        ("model_in_no_shard", "the models of a run in three parts is ['e'], expected ['a', "),
    ],
)
def test_a_fault_is_seen(name: str, words: str) -> None:
    with applied(catalogue()[name]):
        lines = list(missed_reports())
    assert words in lines[0]
    assert not any("\n" in line for line in lines)


def test_what_raises_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("validation.known_verdicts.reports.split", lambda *_: 1 / 0)
    lines = list(missed_reports())
    assert "the models of a run in three parts is 'ZeroDivisionError: division by zero'" in lines[0]
