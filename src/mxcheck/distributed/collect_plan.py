"""Obtain the plan of a run from the project's own pytest."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mxcheck.distributed.run_plan import PLAN_FILE, Plan, read_plan

#: Collected where the command line names nothing.
_SUITE = ("--pyargs", "mxcheck.suite.models")


def plan_run(words: Sequence[str]) -> tuple[list[str], Plan]:
    """Return pytest's arguments (`words`, plus the model suite if they name nothing to collect) and the plan
    of such a run in the current directory, from a collection in a subprocess.

    Raises ValueError with pytest's message where the collection fails or selects nothing.
    """
    arguments = list(words)
    found = _collected(arguments)
    if found is None:
        arguments = [*_SUITE, *words]
        found = _collected(arguments)
    assert found is not None  # the arguments now name something
    if not any(model.cases for model in found.models):
        raise ValueError(
            f"pytest selects no case of the model suite; see: pytest {shlex.join(arguments)} --collect-only"
        )
    return arguments, found


def _collected(arguments: list[str]) -> Plan | None:
    """Return the plan, or None where nothing is named."""
    with tempfile.TemporaryDirectory(prefix="mxcheck-plan-") as folder:
        path = Path(folder) / "plan.json"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "mxcheck.pytest_plugin.xdist.plan_writer",
            *arguments,
        ]
        command += ["--collect-only", "-q", "-n", "0"]
        done = subprocess.run(  # noqa: S603  (pytest of this interpreter, no shell)
            command, env={**os.environ, PLAN_FILE: str(path)}, capture_output=True, text=True, check=False
        )
        if done.returncode not in (0, 5):
            raise ValueError(_complaint(done.stdout + done.stderr))
        return read_plan(path) if path.is_file() else None


def _complaint(output: str) -> str:
    """Return our own line if there is one, else the end of pytest's output."""
    ours = re.search(r"mxcheck: (.+)", output)
    if ours is not None:
        return ours[1].strip()
    return "pytest cannot collect the run:\n" + "\n".join(output.strip().splitlines()[-15:])
