"""The live display, in the controller; xdist's workers send it events through a channel."""

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
    from mxcheck.reporting.progress import Expected, RunProgress

PLUGIN = "mxcheck-live"
#: Seconds between two lines where the output is no terminal.
_PERIOD = 10.0
#: Interval in seconds at which a due line is checked for.
_LOOK = 0.5
_CHANNEL = "mx_live"


def teller(config: pytest.Config) -> Callable[[dict[str, Any]], None]:
    """Return the function that takes the events of a worker, or of a run without workers."""
    channel = getattr(config, "workerinput", {}).get(_CHANNEL)
    if channel is None:
        display: Any = config.pluginmanager.get_plugin(PLUGIN)
        return (lambda _: None) if display is None else (lambda event: _show(display, "main", event))

    def send(event: dict[str, Any]) -> None:
        with suppress(OSError):  # the controller is gone: nobody reads, and the case must not fail for that
            channel.send(event)

    return send


def _show(display: Live, worker: str, event: dict[str, Any]) -> None:
    with suppress(OSError, ValueError):  # a lost terminal must not affect a case
        display.heard(worker, event)


class Live:
    """A table at the bottom of a terminal, or periodic lines elsewhere. Silent until a run has cases; under
    `-q` it prints one line, when the run waits for others."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._board: RunProgress | None = None
        self._lock = threading.RLock()
        self._screen: _Screen | None = None
        self._lines: _Lines | None = None
        #: Last output of workers that died, by the case in which they died.
        self.last_words: dict[str, str] = {}

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give a starting worker a channel for its events."""
        channel = node.gateway.newchannel()
        # Called in execnet's receiving thread.
        channel.setcallback(lambda event: _show(self, node.gateway.id, event))
        node.workerinput[_CHANNEL] = channel

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Note that a worker has finished or died."""
        with self._lock:
            if self._board is not None:
                self._board.gone(node.gateway.id)

    def begin(self, expected: Expected) -> None:
        """Start with the run's expected cases."""
        from mxcheck.reporting.progress import RunProgress

        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if self._board is not None or reporter is None:
            return
        self._board = RunProgress(expected=expected)
        quiet = self._config.option.verbose < 0
        on_a_screen = reporter.isatty and os.environ.get("TERM") != "dumb"
        if on_a_screen and not quiet and not self._config.getoption("usepdb"):
            self._screen = _Screen(reporter, self._board, self._lock)
        else:
            due = Due(self._board, period=_PERIOD, quiet=quiet)
            self._lines = _Lines(reporter, due, self._lock)

    def heard(self, worker: str, event: dict[str, Any]) -> None:
        """Process an event of a worker."""
        if event["do"] == "died":
            self.last_words[event["case"]] = event["why"]
            return
        with self._lock:
            if self._board is None:
                return
            # A separate thread draws: a stopped terminal must not delay a worker, and work that takes minutes
            # has no events.
            self._board.heard(worker, event, time.monotonic())

    def case_ended(self, case: str, seconds: float | None) -> None:
        """Process the result of a case."""
        with self._lock:
            if self._board is not None:
                self._board.case_ended(case, seconds)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Suppress the dots where the table counts."""
        if self._screen is None or self._config.option.verbose > 0 or not report.passed:
            return None
        return ("passed" if report.when == "call" else "", "", "")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Stop before the reporter's final output."""
        with self._lock:
            shown = [one for one in (self._screen, self._lines) if one is not None]
            self._screen = self._lines = self._board = None
        for one in shown:
            one.stop()


class Due:
    """Select the line that is due at a time, by any clock: the run's activity, each `period` seconds; for a
    `quiet` run only that it waits, once."""

    def __init__(self, board: RunProgress, *, period: float, quiet: bool) -> None:
        self._board, self._period, self._quiet = board, period, quiet
        self._last: float | None = None
        self._said = False

    def at(self, now: float) -> str | None:
        """Return the line, or None where none is due. The first is due a period after the first call; a
        waiting run reports it at once, and a run whose cases have all ended reports nothing more."""
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
    """Prints due lines, bypassing pytest's capture, which takes this process's output while a test runs."""

    def __init__(self, reporter: Any, due: Due, lock: threading.RLock) -> None:
        self._reporter, self._due, self._lock = reporter, due, lock
        self._over = threading.Event()
        try:
            self._output = os.fdopen(os.dup(reporter._tw._file.fileno()), "w", encoding="utf-8")
        except (
            OSError,
            ValueError,
            AttributeError,
        ):  # no file of the system: nobody reads along
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
            with suppress(OSError, ValueError):  # a lost output must not affect a case
                self._output.write(f"{chr(10) if dots else ''}{one_line(line)}\n")
                self._output.flush()

    def stop(self) -> None:
        """Stop printing."""
        self._over.set()
        if hasattr(self, "_thread"):
            self._thread.join()
            self._output.close()


class _Screen:
    """rich's live table. pytest's output meanwhile goes above it, a line at a time."""

    def __init__(self, reporter: Any, board: RunProgress, lock: threading.RLock) -> None:
        from rich.live import Live as RichLive

        from mxcheck.reporting.screen import Screen

        self._writer = reporter._tw
        self._before = self._writer._file
        # A copy of the terminal: pytest's capture redirects the original while a test runs.
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
        """Remove the table and release the terminal."""
        self._live.stop()
        self._writer._file = self._before
        self._before.write(self._above.rest)
        self._terminal.close()


class _Above:
    """A file for pytest's reporter: complete lines appear above the table, partial lines wait."""

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
        """Do nothing: lines are shown when they are complete."""
