"""The live display, in the one process that people look at; workers of xdist tell it through a channel."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from mxcheck.files.printed import one_line

if TYPE_CHECKING:
    from mxcheck.reporting.board import Board, Expected

PLUGIN = "mxcheck-live"
#: Seconds between two lines where the output is no terminal.
_PERIOD = 10.0
#: Seconds between two looks at whether a line is due.
_LOOK = 0.5
_CHANNEL = "mx_live"


def teller(config: pytest.Config) -> Callable[[dict[str, Any]], None]:
    """What a worker, or a run without workers, says its events to."""
    channel = getattr(config, "workerinput", {}).get(_CHANNEL)
    if channel is None:
        display: Any = config.pluginmanager.get_plugin(PLUGIN)
        return (lambda _: None) if display is None else (lambda event: _show(display, "main", event))

    def send(event: dict[str, Any]) -> None:
        with suppress(OSError):  # the controller is gone: nobody looks, and the case need not suffer for it
            channel.send(event)

    return send


def _show(display: Live, worker: str, event: dict[str, Any]) -> None:
    with suppress(OSError, ValueError):  # a terminal that is gone is nothing that a case is judged by
        display.heard(worker, event)


class Live:
    """A table at the bottom of a terminal; a line now and then elsewhere. Silent until a run has cases; under
    `-q` it says one line, when the run waits for others."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._board: Board | None = None
        self._lock = threading.RLock()
        self._screen: _Screen | None = None
        self._lines: _Lines | None = None
        #: Last words of workers that had to die, by the case that they died of.
        self.last_words: dict[str, str] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """A worker is about to start: give it a channel to tell its events through."""
        channel = node.gateway.newchannel()
        # Called in execnet's receiving thread.
        channel.setcallback(lambda event: _show(self, node.gateway.id, event))
        node.workerinput[_CHANNEL] = channel

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker is done, or dead."""
        with self._lock:
            if self._board is not None:
                self._board.gone(node.gateway.id)

    def begin(self, expected: Expected) -> None:
        """The run has these cases."""
        from mxcheck.reporting.board import Board

        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if self._board is not None or reporter is None:
            return
        self._board = Board(expected=expected)
        quiet = self._config.option.verbose < 0
        on_a_screen = reporter.isatty and os.environ.get("TERM") != "dumb"
        if on_a_screen and not quiet and not self._config.getoption("usepdb"):
            self._screen = _Screen(reporter, self._board, self._lock)
        else:
            due = Due(self._board, period=_PERIOD, quiet=quiet)
            self._lines = _Lines(reporter, due, self._lock)

    def heard(self, worker: str, event: dict[str, Any]) -> None:
        """An event of a worker."""
        if event["do"] == "died":
            self.last_words[event["case"]] = event["why"]
            return
        with self._lock:
            if self._board is None:
                return
            # What is shown is written by a thread of its own: a terminal that is stopped must not hold a
            # worker up, and a step that takes minutes has no events.
            self._board.heard(worker, event, time.monotonic())

    def case_ended(self, case: str, seconds: float | None) -> None:
        """A case has a result."""
        with self._lock:
            if self._board is not None:
                self._board.case_ended(case, seconds)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """No dots where the table counts."""
        if self._screen is None or self._config.option.verbose > 0 or not report.passed:
            return None
        return ("passed" if report.when == "call" else "", "", "")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """The last word is the reporter's."""
        with self._lock:
            shown = [one for one in (self._screen, self._lines) if one is not None]
            self._screen = self._lines = self._board = None
        for one in shown:
            one.stop()


class Due:
    """Which line is due at a time, by any clock: what the run does, each `period` seconds; of a `quiet` run
    that it waits, once."""

    def __init__(self, board: Board, *, period: float, quiet: bool) -> None:
        self._board, self._period, self._quiet = board, period, quiet
        self._last: float | None = None
        self._said = False

    def at(self, now: float) -> str | None:
        """The line; None where none is due. The first is due a period after the first call; a run that waits
        says so at once, and one whose cases have all ended nothing more."""
        if self._board.over:
            return None
        waiting = self._board.waiting()
        if self._quiet:
            due = waiting is not None and not self._said
            self._said |= due
            return waiting if due else None
        if self._last is None:
            self._last = now
        told = waiting is not None and not self._said
        self._said = waiting is not None
        if not told and now - self._last < self._period:
            return None
        self._last = now
        return self._board.line()


class _Lines:
    """Lines as they are due, past pytest's capture, which holds this process's output while a test runs."""

    def __init__(self, reporter: Any, due: Due, lock: threading.RLock) -> None:
        self._reporter, self._due, self._lock = reporter, due, lock
        self._over = threading.Event()
        try:
            self._output = os.fdopen(os.dup(reporter._tw._file.fileno()), "w", encoding="utf-8")
        except (
            OSError,
            ValueError,
            AttributeError,
        ):  # a file that is none of the system's: nobody reads along
            return
        self._thread = threading.Thread(target=self._run, name=PLUGIN, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(_LOOK):
            with self._lock:
                line = self._due.at(time.monotonic())
            if line is None:
                continue
            dots = self._reporter._tw.width_of_current_line
            if dots:
                self._reporter._tw._current_line = ""
                self._reporter.currentfspath = None  # or its next line would begin another
            with suppress(OSError, ValueError):  # an output that is gone is nothing that a case is judged by
                self._output.write(f"{chr(10) if dots else ''}{one_line(line)}\n")
                self._output.flush()

    def stop(self) -> None:
        """Say nothing more."""
        self._over.set()
        if hasattr(self, "_thread"):
            self._thread.join()
            self._output.close()


class _Screen:
    """rich's live table. What pytest writes meanwhile goes above it, a line at a time."""

    def __init__(self, reporter: Any, board: Board, lock: threading.RLock) -> None:
        from rich.live import Live as RichLive

        from mxcheck.reporting.screen import Screen

        self._writer = reporter._tw
        self._before = self._writer._file
        # A copy of the terminal: pytest's capture takes the original away while a test runs.
        self._terminal = os.fdopen(os.dup(self._before.fileno()), "w", encoding="utf-8")
        console = Screen(file=self._terminal, force_terminal=True)

        def table() -> Any:
            with lock:
                return board.renderable()

        self._live = RichLive(
            console=console,
            get_renderable=table,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._above = _Above(console)
        self._writer._file = self._above
        self._live.start()

    def stop(self) -> None:
        """Take the table away and give the terminal back."""
        self._live.stop()
        self._writer._file = self._before
        self._before.write(self._above.rest)
        self._terminal.close()


class _Above:
    """A file for pytest's reporter: whole lines appear above the table, parts of lines wait."""

    def __init__(self, console: Any) -> None:
        self._console = console
        self.rest = ""

    def write(self, text: str) -> int:
        from rich.text import Text

        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self._console.print(Text.from_ansi(line), soft_wrap=True)
        return len(text)

    def flush(self) -> None:
        """Lines are shown as they end."""
