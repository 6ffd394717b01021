"""What the live display says, from events alone."""

from __future__ import annotations

import pytest
from rich.console import Console

from mxcheck.reporting.progress import Expected, RunProgress, duration


def shown(board: RunProgress) -> list[str]:
    console = Console(width=120, color_system=None)
    with console.capture() as captured:
        console.print(board.renderable())
    return [line.rstrip() for line in captured.get().splitlines() if line.strip()]


@pytest.fixture
def board() -> RunProgress:
    made = RunProgress(expected=Expected(cases={"a": 10.0, "b": 10.0, "c": 20.0}))
    made.heard("gw0", {"do": "step", "what": "m loading"}, 0.0)
    made.heard("gw1", {"do": "wait", "model": "n", "why": "device 0 is taken"}, 0.0)
    made.heard("gw0", {"do": "measure", "what": "a", "batches": 4, "length": 100}, 10.0)
    made.heard("gw0", {"do": "batch", "sequences": 8, "memory": 2**30}, 12.0)
    made.heard("gw0", {"do": "batch", "sequences": 8, "memory": 3 * 2**30}, 14.0)
    return made


def test_what_each_worker_does(board: RunProgress) -> None:
    assert board.line() == (
        "mxcheck: 0 of 3 cases; gw0 a, 2/4 batches, 400 tokens/s, 3,072 MiB; gw1 n waits: device 0 is taken"
    )
    head, _, first, second, overall = shown(board)
    assert head.split() == ["worker", "case", "batches", "tokens/s", "memory"]
    assert [word for word in first.split() if "━" not in word] == ["gw0", "a", "2/4", "400", "3,072", "MiB"]
    assert second.split() == ["gw1", "n", "waits:", "device", "0", "is", "taken"]
    assert overall.startswith("0 of 3 cases")
    assert "left" not in overall


def test_a_new_measurement_starts_from_nothing(board: RunProgress) -> None:
    board.heard("gw0", {"do": "measure", "what": "b", "batches": 2, "length": 10}, 20.0)
    assert "gw0 b, 0/2 batches, 3,072 MiB" in board.line()
    board.heard("gw0", {"do": "step", "what": "m loading"}, 21.0)
    assert "gw0 m loading, 3,072 MiB" in board.line()


def test_time_left_by_what_the_ended_took(board: RunProgress) -> None:
    assert board.seconds_left() is None
    board.case_ended("a", 20.0)  # twice as long as expected
    assert board.seconds_left() == 60.0  # gw1 waits
    board.heard("gw1", {"do": "step", "what": "n loading"}, 15.0)
    assert board.seconds_left() == (10.0 + 20.0) * 2 / 2  # on two workers
    board.gone("gw1")
    assert board.seconds_left() == 60.0
    assert "mxcheck: 1 of 3 cases; about 60 s left; gw0 a" in board.line()
    assert "about 60 s left" in shown(board)[-1]
    board.case_ended("b", None)  # a crash: nobody knows how long it took
    board.case_ended("c", 40.0)
    assert board.seconds_left() == 0.0


def test_nobody_knows_how_long_a_run_waits(board: RunProgress) -> None:
    board.case_ended("a", 20.0)
    board.heard("gw0", {"do": "wait", "model": "m", "why": "device 0 is taken"}, 15.0)
    assert board.seconds_left() is None
    assert board.waiting() == ("mxcheck: gw0 m waits: device 0 is taken; gw1 n waits: device 0 is taken")
    board.heard("gw0", {"do": "step", "what": "m loading"}, 16.0)
    assert board.seconds_left() == 60.0


def test_a_case_that_nobody_expected(board: RunProgress) -> None:
    board.case_ended("other", 5.0)
    assert board.seconds_left() is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (91, "2 min"),
        (3600, "60 min"),
        (5400, "1 h 30 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
