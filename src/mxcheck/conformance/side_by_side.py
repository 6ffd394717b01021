"""Two callers at once, line by line: what one leaves in a common place the other one finds there.

Left to themselves, two threads meet in the middle of a call once in many: a buffer that both share was seen
in 5 to 40 of 100 tries. So one thread waits while the other carries out a line of Python, in turn: a buffer
that is written on one line and read on a later one is written by both before one reads. That holds for as
long as they take turns: a lock that one holds across lines ends it, and so does a very long call.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from types import FrameType
from typing import Any

# Lines after which the callers run as they like: some kernels loop over elements in Python.
_MOST_TURNS = 1000
# A caller that waits for a lock that the other holds takes no turn: seconds until both run as they like. A
# thread that waits for a core of a busy machine, or for an operation of torch, waits less.
_PATIENCE = 1.0


class _Turns:
    """Whose turn it is, of two. `ended` if they stopped to take turns before one had returned."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turn = self._taken = 0
        self._free = self.ended = False

    def hand_over(self, caller: int) -> None:
        """End a caller's turn, and wait until it has another."""
        with self._changed:
            if self._free:
                return
            self._turn = 1 - caller
            self._taken += 1
            self._changed.notify_all()
            came = self._changed.wait_for(lambda: self._free or self._turn == caller, _PATIENCE)
            if not came or self._taken > _MOST_TURNS:
                self.ended = True
                self.leave()

    def leave(self) -> None:
        """There is nobody to take turns with any more."""
        with self._changed:
            self._free = True
            self._changed.notify_all()


def side_by_side(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each of two calls returns, or raises, in a thread of its own, when their lines are carried out in
    turn."""
    return in_turn(calls)[0]


def in_turn(calls: Sequence[Callable[[], Any]]) -> tuple[list[Any], bool]:
    """As `side_by_side`; and whether they took turns until one had returned."""
    turns, ready = _Turns(), threading.Barrier(2)

    def carry_out(caller: int) -> Any:
        def trace(frame: FrameType, event: str, argument: Any) -> Any:  # noqa: ARG001
            if event == "line":
                turns.hand_over(caller)
            return trace

        ready.wait()
        sys.settrace(trace)
        try:
            return calls[caller]()
        finally:
            sys.settrace(None)
            turns.leave()

    return in_two_threads(carry_out, ready), not turns.ended


def in_two_threads(call: Callable[[int], Any], start: threading.Barrier) -> list[Any]:
    """What `call(0)` and `call(1)` return, or raise, in a thread each that waits for the other at `start`.
    Where there is no second thread to be had, both raise what says so."""
    results: list[Any] = [None, None]

    def carry_out(caller: int) -> None:
        try:
            results[caller] = call(caller)
        except BaseException as error:  # noqa: BLE001  (it is the caller's to judge)
            results[caller] = error

    threads = [
        threading.Thread(target=copy_context().run, args=(carry_out, caller), daemon=True)
        for caller in (0, 1)
    ]
    started: list[threading.Thread] = []
    try:
        for thread in threads:
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        start.abort()
        for thread in started:
            thread.join()
        return [error, error]
    for thread in threads:
        thread.join()
    return results
