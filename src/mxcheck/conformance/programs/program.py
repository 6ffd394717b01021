"""Run a program in any language as an implementation: it reads cases on standard input and writes results on
standard output (docs/cases.md).

It is started once per question. So it needs no protocol, flushes nothing, and keeps no state.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from torch import Tensor

from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.generator import Example
from mxcheck.conformance.programs.case_files import CasesFile, open_cases, write_cases
from mxcheck.conformance.programs.case_header import CaseFileError
from mxcheck.conformance.programs.case_results import ResultsReader, most_of_results, returned
from mxcheck.files.printed import WORDS, one_line, told
from mxcheck.formats.spec import CastSpec

#: Seconds within which a program must write something or end; for a single case, end.
TIME_LIMIT = 60.0
#: Seconds for all cases, however much the program writes.
RUN_LIMIT = 3600.0
# Seconds between two looks at it.
_LOOK = 0.2
# Bytes of standard error to keep, and to read at once.
_MOST_STDERR, _CHUNK = 4096, 1 << 16
# Seconds to wait for the end of standard error, which a process that has left the group may hold open.
_LAST_WORDS = 1.0


class ProgramError(Exception):
    """A program failed to give results. The message is one printable line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Outcome of a run of a program.

    Attributes:
        failure: in words; empty for exit status 0.
        stderr: its first line on stderr; empty if none.
        hung: whether it was killed because it took too long.
    """

    failure: str
    stderr: str
    hung: bool = False

    @property
    def words(self) -> str:
        """`it was ended by SIGSEGV; on stderr: …`."""
        return "; ".join(part for part in (self.failure, self.said) if part)

    @property
    def said(self) -> str:
        return f"on stderr: {self.stderr}" if self.stderr else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A command line, the longest time that it may write nothing, and the longest for all cases. As a kernel
    it is called with one case."""

    words: tuple[str, ...]
    time_limit: float = TIME_LIMIT
    run_limit: float = RUN_LIMIT

    def run(self, cases: CasesFile, results: Path, limit: float) -> Ended:
        """Let it answer a file of cases. Kill it, and all that it has started, if it writes nothing for too
        long, writes more than results can be, or takes longer than `limit`.

        Raises:
            ValueError: it cannot be started.
        """
        said = bytearray()
        with cases.path.open("rb") as given, results.open("wb") as output:
            try:
                child = subprocess.Popen(  # noqa: S603  (the user's own command, without a shell)
                    self.words, stdin=given, stdout=output, stderr=subprocess.PIPE, start_new_session=True
                )
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"the command {self.words[0]!r} cannot be started: {told(error)}; give a program that is "
                    f"there and its arguments (for what a shell does: sh -c '…')"
                ) from error
            try:
                listener = threading.Thread(target=_listen, args=(child.stderr, said), daemon=True)
                listener.start()
                failure, hung = self._waited(child, results, most_of_results(cases.header), limit)
            finally:
                _end(child)
            listener.join(_LAST_WORDS)
        lines = bytes(said).decode("utf-8", "replace").strip().splitlines()
        return Ended(failure=failure, stderr=one_line(lines[0], WORDS) if lines else "", hung=hung)

    def _waited(
        self, child: subprocess.Popen[bytes], results: Path, most: int, limit: float
    ) -> tuple[str, bool]:
        """Return how it failed, and whether it took too long."""
        began = last = time.monotonic()
        written = 0
        while True:
            with suppress(subprocess.TimeoutExpired):
                return _failure(child.wait(_LOOK)), False
            size, now = results.stat().st_size, time.monotonic()
            if size > most:
                return f"it was ended: it wrote more than {most:,} bytes, which no results have", False
            if size > written:
                written, last = size, now
            if now - last > self.time_limit:
                nothing = f"it wrote nothing for {self.time_limit:g} s"
                return f"it was ended: {nothing} (`verify` has --time-limit)", True
            if now - began > limit:
                option = "--time-limit for a case" if limit == self.time_limit else "--run-limit"
                return f"it was ended: it had not finished after {limit:g} s (`verify` has {option})", True

    def __call__(self, x: Tensor, spec: CastSpec) -> tuple[Tensor, ...] | Tensor:
        """Return its answer for x.

        Raises:
            NotSupported: it refuses the case.
            ProgramError: it gives no results; one line.
        """
        cell = Cell(
            format=spec.format,
            scale_rule=spec.scale_rule,
            rounding=spec.rounding,
            nonfinite=spec.nonfinite,
        )
        with tempfile.TemporaryDirectory(prefix="mxcheck-") as name:
            cases, results = Path(name) / "cases", Path(name) / "results"
            with cases.open("wb") as written:
                write_cases(written, cell, "quick", [Example(group="alone", x=x, spec=spec)])
            opened = open_cases(cases)
            ended = self.run(opened, results, self.time_limit)
            with results.open("rb") as file:
                reader = ResultsReader(file=file, name=RESULTS_NAME, header=opened.header)
                try:
                    reader.start()
                    answer = reader.answer(next(opened.examples()))
                    reader.end()
                except CaseFileError as error:
                    raise ProgramError(failure_of(ended, reader, error)) from error
        if ended.failure:
            raise ProgramError(ended.words)
        return returned(answer)


#: Name of a program's standard output in messages.
RESULTS_NAME = "what it wrote"


def program(command: str, time_limit: float = TIME_LIMIT, run_limit: float = RUN_LIMIT) -> Program:
    """Return the program of a command line, split as a shell would.

    Raises:
        ValueError: no word, or an unclosed quote.
    """
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise ValueError(f"the command {command!r} cannot be read: {told(error)}") from error
    if not words:
        raise ValueError("the command is empty; give a program and its arguments")
    return Program(words=words, time_limit=time_limit, run_limit=run_limit)


def failure_of(ended: Ended, reader: ResultsReader, error: CaseFileError) -> str:
    """Return why results are missing."""
    failure = ended.failure
    if failure and error.too_short:
        answers = f" after {reader.answered:,} of {reader.header.cases:,} answers"
        failure += answers if reader.header.cases > 1 else ""
        return "; ".join(part for part in (failure, ended.said) if part)
    return "; ".join(part for part in (failure, f"{RESULTS_NAME}: {error.what}", ended.said) if part)


def _failure(status: int) -> str:
    if status >= 0:
        return f"it ended with exit status {status}" if status else ""
    try:
        return f"it was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"it was ended by signal {-status}"


def _listen(said: IO[bytes], kept: bytearray) -> None:
    """Read all of standard error, so that the program does not block, and keep the beginning."""
    with said:
        while more := said.read1(_CHUNK):  # type: ignore[attr-defined]
            kept += more[: _MOST_STDERR - len(kept)]


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill it and all that it has started, which may outlive it."""
    with suppress(ProcessLookupError, PermissionError):  # all have ended
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
