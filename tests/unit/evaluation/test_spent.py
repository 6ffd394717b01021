from __future__ import annotations

from collections.abc import Iterator

import pytest

from mxcheck.evaluation import spent
from mxcheck.evaluation.spent import each_spent_on, spending, spent_on


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still but when it is moved."""
    now = [100.0]
    monkeypatch.setattr(spent.time, "perf_counter", lambda: now[0])
    return now


def test_seconds_add_up_by_part(clock: list[float]) -> None:
    with spending() as seconds:
        for _ in range(3):
            with spent_on("forward"):
                clock[0] += 2.0
            clock[0] += 50.0
        with spent_on("layers"):
            clock[0] += 1.0
    with spent_on("forward"):
        clock[0] += 7.0

    assert seconds == {"forward": 6.0, "layers": 1.0}


def test_an_iterator_s_own_work_counts_and_its_consumer_s_does_not(clock: list[float]) -> None:
    def passes() -> Iterator[int]:
        for number in range(3):
            clock[0] += 1.0
            yield number
        clock[0] += 0.5

    with spending() as seconds:
        for _ in each_spent_on("forward", passes()):
            clock[0] += 10.0
    assert seconds == {"forward": 3.5}
    assert [*each_spent_on("forward", [None, 1])] == [None, 1]


def test_an_inner_measurement_has_its_own(clock: list[float]) -> None:
    with spending() as outer:
        with spending() as inner, spent_on("forward"):
            clock[0] += 1.0
        with spent_on("metrics"):
            clock[0] += 2.0
    assert (outer, inner) == ({"metrics": 2.0}, {"forward": 1.0})


def test_what_raises_counts(clock: list[float]) -> None:
    def fails() -> None:
        with spent_on("forward"):
            clock[0] += 1.0
            raise ValueError("no")

    with spending() as seconds, pytest.raises(ValueError, match="no"):
        fails()
    assert seconds == {"forward": 1.0}
