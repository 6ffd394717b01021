"""Which line is due where there is no terminal, in virtual time."""

from __future__ import annotations

import pytest

from mxcheck.pytest_plugin.progress.live import Due
from mxcheck.reporting.progress import Expected, RunProgress

WAIT = {"do": "wait", "model": "m", "why": "device 0 is taken"}


@pytest.fixture
def board() -> RunProgress:
    return RunProgress(expected=Expected(cases={"a": 1.0, "b": 1.0}))


def lines(due: Due, seconds: range) -> dict[int, str]:
    return {now: line for now in seconds if (line := due.at(float(now))) is not None}


def test_a_step_without_events_is_told_of_each_period(board: RunProgress) -> None:
    """As the noise of a new baseline, which takes minutes."""
    due = Due(board, period=10.0, quiet=False)
    board.heard("main", {"do": "step", "what": "m: noise of 2 cases"}, 0.0)
    told = lines(due, range(35))
    assert list(told) == [10, 20, 30]
    assert set(told.values()) == {"mxcheck: 0 of 2 cases; main m: noise of 2 cases"}


def test_nothing_is_told_once_every_case_has_ended(board: RunProgress) -> None:
    """Other tests may take half an hour more."""
    due = Due(board, period=10.0, quiet=False)
    board.case_ended("a", 1.0)
    assert list(lines(due, range(15))) == [10]
    board.case_ended("b", 1.0)
    assert lines(due, range(15, 100)) == {}


def test_a_run_that_waits_says_so_at_once_and_then_each_period(board: RunProgress) -> None:
    due = Due(board, period=10.0, quiet=False)
    assert lines(due, range(3)) == {}
    board.heard("main", WAIT, 3.0)
    told = lines(due, range(3, 25))
    assert list(told) == [3, 13, 23]
    assert told[3] == "mxcheck: 0 of 2 cases; main m waits: device 0 is taken"


def test_a_quiet_run_says_one_line_when_it_waits(board: RunProgress) -> None:
    due = Due(board, period=10.0, quiet=True)
    board.heard("main", {"do": "step", "what": "m loading"}, 0.0)
    assert lines(due, range(30)) == {}
    board.heard("main", WAIT, 30.0)
    assert lines(due, range(30, 90)) == {30: "mxcheck: main m waits: device 0 is taken"}
