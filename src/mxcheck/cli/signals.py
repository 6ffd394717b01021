"""Orderly exit on signals: processes that a command started are ended, and its temporary files are
removed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGTERM, signal.SIGHUP)


class EndedFromOutside(KeyboardInterrupt):
    """A signal that ends the process. It propagates like Ctrl-C: no further kernels or programs are
    called."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise, as Ctrl-C does. Ignored signals (`nohup`) stay ignored. Other threads
    than the main one are unaffected, since no signal reaches them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    changed = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])


def _raise(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the clean-up of the first
    raise EndedFromOutside(number)
