"""Detect the death of a process: it fails its case, or the run, so that no abnormal exit leaves a run
green."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from mxcheck.files.printed import REFUSAL, WORDS, one_line

if TYPE_CHECKING:
    from mxcheck.pytest_plugin.progress.run_report import RunReport

#: Exit status that replaces 0 where a test ends the process itself.
_ENDED_BY_A_TEST = 71
_TROUBLE = "mx_trouble"


class Deaths:
    """Controller plugin: records workers that died between tests, during collection or at the end of the
    session. (For one that dies in a test, xdist creates a report, and its case has a row.)"""

    def __init__(self, report: RunReport, *, ours: bool) -> None:
        self._report = report
        self._ours = ours
        self._died: list[str] = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """Record a lost worker; `error` says that it did not exit normally."""
        if error:
            self._died.append(f"{node.gateway.id} died while none of its tests ran ({error})")
        elif trouble := getattr(node, "workeroutput", {}).get(_TROUBLE):
            self._died.append(f"{node.gateway.id} ended in an error: {trouble}")

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, report: Any) -> None:
        """Note that a worker died in this test, which is red."""
        self._died = [line for line in self._died if not line.startswith(f"{report.node.gateway.id} ")]

    def pytest_internalerror(self, excrepr: object) -> None:
        """Record an error raised by pytest or a plugin, here or in a worker, whose exit status nobody
        checks."""
        self._died.append(f"an internal error: {str(excrepr).strip().splitlines()[-1]}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run, if it is one of ours."""
        self._ours = self._ours or self._report.has_rows
        if self._died and self._ours:
            session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the reasons, one line each."""
        if self._ours:
            for line in self._died:
                terminalreporter.write_line(one_line(f"mxcheck: red: {line}", REFUSAL))


@contextmanager
def told_to_the_controller(config: pytest.Config) -> Iterator[None]:
    """Report an error at the end of a worker's session to the controller, which xdist does not."""
    try:
        yield
    except Exception as error:
        if hasattr(config, "workeroutput"):
            config.workeroutput[_TROUBLE] = f"{type(error).__name__}: {one_line(str(error), WORDS)}"
        raise


@contextmanager
def no_silent_exit(config: pytest.Config) -> Iterator[None]:
    """Replace exit status 0 while a test runs in pytest's own process: `os._exit(0)` would end the run
    silently and green. (xdist detects a worker's exit.)"""
    real, owner = os._exit, os.getpid()

    def told(status: int) -> NoReturn:
        if status == 0 and os.getpid() == owner:  # a forked process may exit with any status
            status = _ENDED_BY_A_TEST
            os.write(_stderr(config), b"\nmxcheck: red: a test ended the process by os._exit(0)\n")
        real(status)

    os._exit = told
    try:
        yield
    finally:
        os._exit = real


def _stderr(config: pytest.Config) -> int:
    """Return a file descriptor of standard error that pytest does not capture."""
    from _pytest.faulthandler import fault_handler_stderr_fd_key

    return config.stash.get(fault_handler_stderr_fd_key, 2)
