"""Which CUDA branches a process runs: a trace of their lines, and nothing else.

Usable as a pytest plugin (`-p gpu.seen_lines`): each worker of xdist then writes what it saw.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from gpu.branches import PACKAGE, Branch, branches

#: Names the folder that each process writes its file to; without it nothing is traced.
FOLDER = "MXCHECK_GPU_LINES"

_seen: defaultdict[str, set[int]] = defaultdict(set)


def start() -> None:
    """Trace this thread, and all that start after it."""
    wanted = _wanted()
    if sys.version_info >= (3, 12):
        _monitor(wanted)
    else:
        _trace(wanted)


def stop() -> None:
    """Trace no more in this thread: what is timed runs as it does elsewhere."""
    if sys.version_info >= (3, 12):
        if sys.monitoring.get_tool(_TOOL) is not None:
            sys.monitoring.set_events(_TOOL, 0)
            sys.monitoring.free_tool_id(_TOOL)
    else:
        sys.settrace(None)
        threading.settrace(None)


def _wanted() -> dict[str, set[int]]:
    """The lines of all branches, by the file's path."""
    wanted: defaultdict[str, set[int]] = defaultdict(set)
    for branch in branches():
        arm = [] if branch.arm is None else [branch.arm]
        wanted[str(PACKAGE / branch.file)].update([*branch.lines, *arm])
    return wanted


if sys.version_info >= (3, 12):
    _TOOL = 4  # of six; the first ones and the last are taken by convention

    def _monitor(wanted: dict[str, set[int]]) -> None:
        """Each line reports once, and costs nothing afterwards."""

        def line(code: CodeType, number: int) -> Any:
            if number in wanted.get(code.co_filename, ()):
                _seen[code.co_filename].add(number)
            return sys.monitoring.DISABLE

        sys.monitoring.use_tool_id(_TOOL, "mxcheck gpu check")
        sys.monitoring.register_callback(_TOOL, sys.monitoring.events.LINE, line)
        sys.monitoring.set_events(_TOOL, sys.monitoring.events.LINE)

else:

    def _trace(wanted: dict[str, set[int]]) -> None:
        """Of rehearsals with an older Python: half as slow again, as every call is looked at."""
        left: dict[CodeType, set[int]] = {}

        def local(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line" and frame.f_lineno in left[frame.f_code]:
                left[frame.f_code].discard(frame.f_lineno)
                _seen[frame.f_code.co_filename].add(frame.f_lineno)
            return local

        def trace(frame: FrameType, _: str, __: Any) -> Any:
            code = frame.f_code
            if code not in left:
                lines = wanted.get(code.co_filename, set())
                left[code] = {line for *_, line in code.co_lines() if line in lines}
            return local if left[code] else None

        threading.settrace(trace)
        sys.settrace(trace)


def store(folder: Path) -> None:
    """Write what this process has seen to a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = {Path(name).relative_to(PACKAGE).as_posix(): sorted(seen) for name, seen in _seen.items()}
    (folder / f"{uuid.uuid4().hex}.json").write_text(json.dumps(lines), encoding="utf-8")


def run_branches(folder: Path, known: Sequence[Branch]) -> dict[str, str]:
    """What all processes saw, by the branch's key: `run`, or `condition run` where what an `if` decides about
    was not reached. What nobody saw is left out."""
    seen: defaultdict[str, set[int]] = defaultdict(set)
    for path in folder.glob("*.json"):
        for file, lines in json.loads(path.read_text(encoding="utf-8")).items():
            seen[file].update(lines)
    found = {}
    for branch in known:
        lines = seen[branch.file]
        if not lines.isdisjoint(branch.lines):
            found[branch.key] = "run" if branch.arm is None or branch.arm in lines else "condition run"
    return found


def pytest_configure() -> None:
    if FOLDER in os.environ:
        start()


def pytest_unconfigure() -> None:
    if FOLDER in os.environ:
        stop()
        store(Path(os.environ[FOLDER]))
