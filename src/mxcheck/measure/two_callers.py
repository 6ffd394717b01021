"""Two callers of one function at once, in lockstep: what they share shows, whatever the machine is busy with.

Threads that run free meet by chance, and under Python's lock seldom within a call of a millisecond. Here each
thread waits, before every operation of torch, until the other has made one of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Result = TypeVar("Result")

#: Seconds to wait for the other's operation. A function that holds a lock keeps the other from making one;
#: from then on both run free.
_PATIENCE = 1.0


class _Turns:
    """Whose turn it is, of two."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._turn = 0
        self._free = False

    def await_mine(self, me: int) -> None:
        """Return when it is my turn."""
        with self._condition:
            if not self._condition.wait_for(lambda: self._free or self._turn == me, _PATIENCE):
                self._free = True
                self._condition.notify_all()

    def give(self, me: int) -> None:
        """It is the other's turn."""
        with self._condition:
            self._turn = 1 - me
            self._condition.notify_all()

    def leave(self) -> None:
        """From now on nobody waits."""
        with self._condition:
            self._free = True
            self._condition.notify_all()


class _InTurn(TorchFunctionMode):
    """Each operation of torch in its turn."""

    def __init__(self, turns: _Turns, me: int) -> None:
        super().__init__()
        self._turns, self._me = turns, me

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self._turns.await_mine(self._me)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._turns.give(self._me)


def at_once(function: Callable[[Tensor], Result], first: Tensor, second: Tensor) -> tuple[Result, Result]:
    """`function(first)` and `function(second)`, each in a thread of its own, one operation of torch of each
    after one of the other's. Raises what either raises."""
    turns = _Turns()
    start = threading.Barrier(2)
    results: dict[int, Result] = {}
    errors: list[BaseException] = []

    def call(me: int, x: Tensor) -> None:
        start.wait()
        try:
            with torch.no_grad(), _InTurn(turns, me):
                results[me] = function(x)
        except BaseException as error:  # noqa: BLE001  (raised below, in the caller's thread)
            errors.append(error)
        finally:
            turns.leave()

    threads = [
        threading.Thread(target=copy_context().run, args=(call, me, x), daemon=True)
        for me, x in enumerate((first, second))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results[0], results[1]
