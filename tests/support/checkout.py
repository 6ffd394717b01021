"""A checkout of this repository, committed, whose `make` finds everything installed."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from gate_project import ROOT
from warm_python import warm_interpreter
from workflow import machine_environment

#: Two models, two cases each: some seconds a shard. What they measure does not matter here.
SMALL = {
    "MODELS": "ref-llama,ref-neo",
    "STEPS": "--mx-precision=fp32,bf16",
    "PYTEST_ARGS": "-p no:cacheprovider",
}

#: What the make targets need, and this machine may not have.
PROGRAMS = ("make", "git", "bash")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
REASON = f"not installed: {', '.join(MISSING)}"


@dataclass(frozen=True)
class Checkout:
    """`environment`: what a machine has set for it, so that `make` does not install and pytest is quick."""

    path: Path
    environment: dict[str, str]

    def bash(self, script: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", script, *words],
            cwd=self.path.parent,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            check=False,
        )


def build_checkout(folder: Path) -> Checkout:
    """Copy what a clone has of this repository, commit it, and make a VENV beside it: this interpreter's."""
    path, venv = folder / "checkout", folder / "venv"
    path.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "conftest.py"):
        shutil.copy(ROOT / name, path)
    ignored = shutil.ignore_patterns("__pycache__", "unit", "plugin")
    for name in ("src", "tests", "tools", "baselines", ".github"):
        shutil.copytree(ROOT / name, path / name, ignore=ignored)
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run(["git", *identity, *words], cwd=path, check=True, capture_output=True)
    (venv / "bin").mkdir(parents=True)
    for name in ("lib", "pyvenv.cfg", *(f"bin/{file.name}" for file in Path(sys.prefix, "bin").iterdir())):
        # the second makes it a virtual environment
        if name != "bin/pytest" and (there := Path(sys.prefix) / name).exists():
            (venv / name).symlink_to(there)
    script = venv / "bin" / "pytest"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(str(warm_interpreter()))} -m pytest "$@"\n')
    script.chmod(0o755)
    (venv / "installed").touch()  # newer than what it was installed from: make leaves it alone
    source = str(path / "src")
    own = {
        "VENV": str(venv),
        "PYTHONPATH": source,
        "WORKERS": "0",
        "MXCHECK_LEASES": str(path.with_name("leases")),
    }
    return Checkout(path=path, environment=machine_environment(**own))
