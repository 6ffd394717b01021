"""Run two callers in turn, line by line: what one stores in a shared place, the other finds there.

Two free-running threads seldom meet in the middle of a call: a buffer that both share was seen in 5 to 40 of
100 tries. So one thread waits while the other runs a line of Python, in turn: a buffer that is written on one
line and read on a later one is written by both before one reads it. That holds as long as they take turns: a
lock that one holds across lines ends it, and so does a very long call.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from types import FrameType
from typing import Any

# Lines after which the callers run freely: some kernels loop over elements in Python.
_MOST_TURNS = 1000
# Seconds without a turn until both run freely: a caller that waits for a lock of the other takes no turn.
# Waiting for a core of a busy machine, or for an operation of torch, takes less.
_PATIENCE = 1.0


class _Turns:
    """Turns of two callers. `ended` if they stopped taking turns before one had returned."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._turn = self._taken = 0
        self._free = self.ended = False

    def hand_over(self, caller: int) -> None:
        """End a caller's turn, and wait for its next."""
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
        """Leave: the other caller takes turns with nobody any more."""
        with self._changed:
            self._free = True
            self._changed.notify_all()


def side_by_side(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Return what each of two calls returns or raises, in a thread of its own, while their lines run in
    turn."""
    return in_turn(calls)[0]


def in_turn(calls: Sequence[Callable[[], Any]]) -> tuple[list[Any], bool]:
    """Do as `side_by_side`; return also whether they took turns until one had returned."""
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
    """Return what `call(0)` and `call(1)` return or raise, each in a thread that waits for the other at
    `start`. If no second thread can be started, both raise that error."""
    results: list[Any] = [None, None]

    def carry_out(caller: int) -> None:
        try:
            results[caller] = call(caller)
        except BaseException as error:  # noqa: BLE001  (the caller judges it)
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
