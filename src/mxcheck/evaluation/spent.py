"""Seconds by part of a measurement, where somebody asks for them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

Clock = Callable[[], float]

#: Seconds by part, of the context that asks for them, and its clock.
_ASKED: ContextVar[tuple[dict[str, float], Clock] | None] = ContextVar("mxcheck_spent", default=None)


@contextmanager
def spending(clock: Clock | None = None) -> Iterator[dict[str, float]]:
    """Yield a dict that collects seconds of `clock` by part within the context: by default wall seconds. An
    inner context has its own."""
    seconds: dict[str, float] = {}
    token = _ASKED.set((seconds, clock or time.perf_counter))
    try:
        yield seconds
    finally:
        _ASKED.reset(token)


@contextmanager
def spent_on(part: str) -> Iterator[None]:
    """Add the seconds within the context to a part, if they are asked for. Parts do not nest.

    A GPU is waited for at the end, or its work would count where the next result is read.
    """
    asked = _ASKED.get()
    if asked is None:
        yield
        return
    seconds, clock = asked
    began = clock()
    try:
        yield
    finally:
        _wait_for_the_gpu()
        seconds[part] = seconds.get(part, 0.0) + clock() - began


def each_spent_on(part: str, values: Iterable[T]) -> Iterator[T]:
    """Yield `values`, and add the seconds in which each is computed to a part."""
    iterator = iter(values)
    while True:
        with spent_on(part):
            found = next(iterator, _END)
        if isinstance(found, _End):
            return
        yield found


class _End:
    """No more values."""


_END = _End()


def _wait_for_the_gpu() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
