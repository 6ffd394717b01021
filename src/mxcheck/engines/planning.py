"""Ask the project's own pytest what a run would do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mxcheck.pytest_plugin.plan import PLAN_FILE, Plan, read_plan


def plan_run(arguments: Sequence[str]) -> Plan:
    """The plan of `pytest *arguments` in the current directory, by a collection in a process of its own.

    Raises ValueError with pytest's own words where that ends in an error, and where nothing is selected.
    """
    with tempfile.TemporaryDirectory(prefix="mxcheck-plan-") as folder:
        path = Path(folder) / "plan.json"
        command = [sys.executable, "-m", "pytest", "-p", "mxcheck.pytest_plugin.plan", *arguments]
        command += ["--collect-only", "-q", "-n", "0"]
        done = subprocess.run(  # noqa: S603  (pytest of this interpreter, no shell)
            command, env={**os.environ, PLAN_FILE: str(path)}, capture_output=True, text=True, check=False
        )
        if done.returncode not in (0, 5):
            raise ValueError(_complaint(done.stdout + done.stderr))
        found = read_plan(path)
    if not any(model.cases for model in found.models):
        raise ValueError(
            f"pytest selects no case of the model suite by: {' '.join(arguments)}; "
            f"see `pytest --collect-only` with the same words"
        )
    return found


def _complaint(output: str) -> str:
    """The one line of ours if there is one, else the end of what pytest printed."""
    ours = re.search(r"mxcheck: (.+)", output)
    if ours is not None:
        return ours[1].strip()
    return "pytest cannot collect the run:\n" + "\n".join(output.strip().splitlines()[-15:])
