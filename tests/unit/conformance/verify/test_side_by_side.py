"""Two callers, line by line: what they share is found as long as they take turns; nobody waits for ever."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from mxcheck.conformance.verify import side_by_side as module
from mxcheck.conformance.verify.side_by_side import in_turn, side_by_side


def test_what_is_written_on_one_line_and_read_on_the_next_is_the_others() -> None:
    """Each of a hundred times: by chance it were a few."""
    shared: dict[str, int] = {}

    def call(number: int) -> int:
        shared["place"] = number
        return shared["place"]

    for _ in range(100):
        shared.clear()
        assert side_by_side([lambda: call(0), lambda: call(1)]) != [0, 1]


def test_what_each_has_of_its_own_stays_its_own() -> None:
    own = threading.local()

    def call(number: int) -> int:
        own.place = number
        return own.place

    assert side_by_side([lambda: call(0), lambda: call(1)]) == [0, 1]


def test_a_lock_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that has it goes on, turn or no turn."""
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    lock, shared = threading.Lock(), [0]

    def call(number: int) -> int:
        with lock:
            shared[0] = number
            shared[0] += 10
            return shared[0]

    assert in_turn([lambda: call(0), lambda: call(1)]) == ([10, 11], False)


@pytest.mark.parametrize("seconds", [0.1, 0.3])
def test_a_long_operation_keeps_its_turn(seconds: float) -> None:
    """Longer than a thread waits for a core, in an operation that lets the other thread run."""
    shared: dict[str, int] = {}

    def call(number: int) -> int:
        time.sleep(seconds)
        shared["place"] = number
        time.sleep(seconds)
        return shared["place"]

    results, to_the_end = in_turn([lambda: call(0), lambda: call(1)])
    assert results != [0, 1]
    assert to_the_end


def test_without_a_second_thread_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    real, started = threading.Thread.start, [0]

    def start(thread: threading.Thread) -> None:
        started[0] += 1
        if started[0] == 2:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    answers = side_by_side([lambda: 0, lambda: 1])
    assert [str(answer) for answer in answers] == ["can't start new thread"] * 2
    assert started == [2]


def test_an_exception_is_a_result_and_ends_no_other_call() -> None:
    def raises() -> None:
        raise SystemExit(3)

    def counts() -> int:
        total = 0
        for number in range(10):
            total += number
        return total

    raised, total = side_by_side([raises, counts])
    assert isinstance(raised, SystemExit)
    assert total == 45


def test_after_many_turns_both_run_as_they_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_TURNS", 10)
    seen: list[int] = []

    def call(number: int) -> None:
        for _ in range(50):
            seen.append(number)

    assert not in_turn([lambda: call(0), lambda: call(1)])[1]
    assert seen.count(0) == seen.count(1) == 50


def test_nothing_is_traced_after_it() -> None:
    before = sys.gettrace()
    side_by_side([lambda: None, lambda: None])
    assert sys.gettrace() is before
