"""Run jobs in forked children: each starts with this process's imports, before any computation.

A child may die or hang, which is a result too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from mxcheck.files.plain_data import MALFORMED, read_json
from mxcheck.files.printed import one_line, told
from validation.sensitivity.suite_run import SuiteRun, suite_run_from_dict

#: Lines of a dead child's output that are kept.
_LAST_WORDS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job for a child.

    Attributes:
        name: its name, for people.
        result: path of the JSON file of its result, which is written atomically.
        log: path of its output.
        limit: seconds until it counts as hanging.
        work: the function that the child calls.
    """

    name: str
    result: Path
    log: Path
    limit: float
    work: Callable[[], SuiteRun]


def check_fork() -> None:
    """Raise ValueError where processes cannot be forked."""
    if "fork" not in multiprocessing.get_all_start_methods():
        raise ValueError(
            f"a sensitivity run forks its processes, which {sys.platform} cannot do; run it on Linux"
        )


def read_result(path: Path) -> SuiteRun:
    """Read a finished job's result. Raises ValueError for an invalid file."""
    try:
        return suite_run_from_dict(read_json(path))
    except (FileNotFoundError, *MALFORMED) as error:
        raise ValueError(
            one_line(f"{path} is damaged ({told(error)}); delete it to run this again")
        ) from error


def in_children(jobs: Iterable[Job], count: int) -> Iterator[tuple[Job, SuiteRun]]:
    """Run jobs, `count` at once; yield each with its result as it ends, in no order.

    An interruption stops the children; finished results are kept.
    """
    context = multiprocessing.get_context("fork")
    waiting, running = deque(jobs), dict[int, tuple[Job, BaseProcess, float]]()
    try:
        while waiting or running:
            while waiting and len(running) < count:
                job = waiting.popleft()
                job.log.parent.mkdir(parents=True, exist_ok=True)
                job.result.parent.mkdir(parents=True, exist_ok=True)
                sys.stdout.flush()
                sys.stderr.flush()
                process: BaseProcess = context.Process(target=_child, args=(job,), name=job.name)
                process.start()
                running[process.sentinel] = (job, process, time.monotonic())
            limits = [began + job.limit - time.monotonic() for job, _, began in running.values()]
            ready = wait(list(running), timeout=max(0.0, min(limits)))
            for sentinel, (ended, child, began) in list(running.items()):
                took = time.monotonic() - began
                if sentinel not in ready and took < ended.limit:
                    continue
                result = _ended(ended, child, took, hangs=sentinel not in ready)
                del running[sentinel]
                yield ended, result
    finally:
        for _, unfinished, _ in running.values():
            _kill(unfinished)


def _ended(job: Job, process: BaseProcess, took: float, *, hangs: bool) -> SuiteRun:
    """Return the result of a child that has ended or must end now.

    Raises ValueError where something outside killed it (such as the kernel, for want of memory): that says
    nothing about its fault.
    """
    if not hangs:
        process.join()  # its end is visible slightly before its exit code
    killed = process.exitcode == -signal.SIGKILL
    _kill(process)  # its remaining children, if not itself
    if job.result.is_file():
        return read_result(job.result)
    if killed:
        raise ValueError(
            f"{job.name} was killed from outside (for want of memory?); the same command tries it again, "
            f"with fewer --jobs if need be"
        )
    said = job.log.read_text("utf-8", errors="replace") if job.log.is_file() else ""  # it had not begun
    words = said.splitlines()[-_LAST_WORDS:]
    lost = SuiteRun(
        ended="hang" if hangs else "crash",
        exit_code=-1 if process.exitcode is None else process.exitcode,
        messages=["\n".join(words)],
        seconds=took,
    )
    _write(job.result, lost)
    return lost


def _kill(process: BaseProcess) -> None:
    """End a child and its descendants: they are a process group."""
    assert process.pid is not None
    with suppress(ProcessLookupError, PermissionError):  # no such group: it ended, or had not begun
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _child(job: Job) -> None:
    os.setpgid(0, 0)  # Ctrl-C is for the parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    descriptor = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1)
    _write(job.result, job.work())


def _end_with_parent() -> None:
    """End this child when the parent is killed: nobody would read its result."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(0, signal.SIGKILL)


def _write(path: Path, result: SuiteRun) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_text(json.dumps(result.as_dict()), "utf-8")
    new.replace(path)
