"""The live display, in the one process that people look at; workers of xdist tell it through a channel."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mxcheck.reporting.board import Board

PLUGIN = "mxcheck-live"
#: Seconds between two lines where the output is no terminal.
_PERIOD = 10.0
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
    """A table at the bottom of a terminal; a line now and then elsewhere. Silent until a run has cases."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._board: Board | None = None
        self._lock = threading.RLock()
        self._last_line = time.monotonic()
        self._screen: _Screen | None = None
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

    def begin(self, expected: Mapping[str, float]) -> None:
        """The run has these cases, by id, with the seconds that they are expected to take."""
        from mxcheck.reporting.board import Board

        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if self._board is not None or reporter is None or self._config.option.verbose < 0:
            return
        self._board = Board(expected=dict(expected))
        self._last_line = time.monotonic()
        if reporter.isatty and not self._config.getoption("usepdb") and os.environ.get("TERM") != "dumb":
            self._screen = _Screen(reporter, self._board, self._lock)

    def heard(self, worker: str, event: dict[str, Any]) -> None:
        """An event of a worker."""
        if event["do"] == "died":
            self.last_words[event["case"]] = event["why"]
            return
        with self._lock:
            if self._board is None:
                return
            self._board.heard(worker, event, time.monotonic())
            # The table is drawn by a thread of its own: a terminal that is stopped must not hold a worker up.
            self._line_now_and_then(self._board)

    def case_ended(self, case: str, seconds: float | None) -> None:
        """A case has a result."""
        with self._lock:
            if self._board is not None:
                self._board.case_ended(case, seconds)
                self._line_now_and_then(self._board)

    def _line_now_and_then(self, board: Board) -> None:
        if self._screen is None and time.monotonic() - self._last_line > _PERIOD:
            self._last_line = time.monotonic()
            self._print(board.line())

    def _print(self, line: str) -> None:
        """Past pytest's capture, which holds this process's standard output while a test runs."""
        capture: Any = self._config.pluginmanager.get_plugin("capturemanager")
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        controls = self._config.pluginmanager.has_plugin("dsession") or capture is None
        with nullcontext() if controls else capture.global_and_fixture_disabled():
            if reporter._tw.width_of_current_line:  # dots
                reporter._tw.line()
                reporter.currentfspath = None  # or write_line would begin another
            reporter.write_line(line)

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
            screen, self._screen, self._board = self._screen, None, None
        if screen is not None:
            screen.stop()


class _Screen:
    """rich's live table. What pytest writes meanwhile goes above it, a line at a time."""

    def __init__(self, reporter: Any, board: Board, lock: threading.RLock) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._writer = reporter._tw
        self._before = self._writer._file
        # A copy of the terminal: pytest's capture takes the original away while a test runs.
        self._terminal = os.fdopen(os.dup(self._before.fileno()), "w", encoding="utf-8")
        console = Console(file=self._terminal, force_terminal=True)

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
