"""Seconds by part of a measurement, where somebody asks for them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

#: Seconds by part, of the context that asks for them.
_ASKED: ContextVar[dict[str, float] | None] = ContextVar("mxcheck_spent", default=None)


@contextmanager
def spending() -> Iterator[dict[str, float]]:
    """Yield a dict that collects wall seconds by part within the context. An inner context has its own."""
    seconds: dict[str, float] = {}
    token = _ASKED.set(seconds)
    try:
        yield seconds
    finally:
        _ASKED.reset(token)


@contextmanager
def spent_on(part: str) -> Iterator[None]:
    """Add the seconds within the context to a part, if they are asked for. Parts do not nest.

    A GPU is waited for at the end, or its work would count where the next result is read.
    """
    seconds = _ASKED.get()
    if seconds is None:
        yield
        return
    began = time.perf_counter()
    try:
        yield
    finally:
        _wait_for_the_gpu()
        seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - began


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
