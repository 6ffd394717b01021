"""The smoke test of a run's report."""

from __future__ import annotations

import pytest

from mxcheck.pytest_plugin.report_canaries import broken_report
from mxcheck.sensitivity.catalogued import catalogue
from mxcheck.sensitivity.fault import applied


def test_this_report_is_sound() -> None:
    assert broken_report() == ""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("death_of_a_worker_not_noted", "died is reported as "),
        ("end_after_the_call_not_noted", "raised in its teardown is reported as pass, expected ERROR"),
        ("case_that_never_ran_left_out", "never ran: KeyError"),
    ],
)
def test_a_fault_is_seen(name: str, words: str) -> None:
    with applied(catalogue()[name]):
        said = broken_report()
    assert words in said
    assert "\n" not in said
