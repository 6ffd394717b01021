"""A project of somebody's: a copy of the package that a test may break, and the real pytest run in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from warm_python import FORKED_ELSEWHERE, run_warm

from mxcheck.gate.result import result_from_dict

ROOT = Path(__file__).parents[2]
#: PYTHONPATH of a child process that imports `validation` from wherever it stands.
WITH_VALIDATION = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
PACKAGE = ROOT / "src" / "mxcheck"

#: Writes every result of the run as JSON, beside the table that people read.
CONFTEST = """
import json, pathlib
def pytest_sessionfinish(session):
    report = session.config.pluginmanager.get_plugin("mxcheck-report")
    if report is not None and report.results:
        rows = {name: result.as_dict() for name, result in report.results.items()}
        pathlib.Path("rows.json").write_text(json.dumps(rows))
"""


@dataclass
class Run:
    """A finished pytest run."""

    code: int
    output: str
    rows: dict[str, dict[str, object]] = field(default_factory=dict)

    def verdicts(self) -> dict[str, object]:
        """How each case ended, in the table's word."""
        return {name: result_from_dict(row).word for name, row in self.rows.items()}


@dataclass
class Project:
    """Somebody's project directory, with a copy of mxcheck before the installed one on its path."""

    directory: Path
    source: Path
    eager: bool = False

    @property
    def baselines(self) -> Path:
        return self.directory / "baselines"

    def replace(self, file: str, old: str, new: str) -> None:
        """Break the copy: `old` must stand in `file` exactly once."""
        path = self.source / "mxcheck" / file
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        path.write_text(text.replace(old, new))
        self.eager |= file.startswith("kernels/")  # compiled casts would not have it

    def pytest(self, *arguments: str, **environment: str) -> Run:
        rows = self.directory / "rows.json"
        rows.unlink(missing_ok=True)
        done = self.run("-m", "pytest", "-p", "no:cacheprovider", *arguments, **environment)
        found = json.loads(rows.read_text()) if rows.is_file() else {}
        return Run(code=done.returncode, output=done.stdout + done.stderr, rows=found)

    def gate(self, *arguments: str, **environment: str) -> Run:
        return self.pytest("--pyargs", "mxcheck.suite.models", *arguments, **environment)

    def environment(self, **more: str) -> dict[str, str]:
        """The project's, without what this test run left around it."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "HF_", "TRANSFORMERS_", "OMP_", "MXCHECK_RUN"))
            and name != "CI"
        }
        return {
            **inherited,
            "PYTHONPATH": str(self.source),
            # Its own: the run that this test is part of may hold what the host has.
            "MXCHECK_LEASES": str(self.directory / "leases"),
            "CUDA_VISIBLE_DEVICES": "",  # baselines and figures are the CPU's
            **({"MXCHECK_COMPILED": "0"} if self.eager else {}),
            **more,
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The interpreter with `arguments`, in the project: a fresh one where anything is read when it starts
        or when a library is imported."""
        own = self.environment(**environment)
        if (
            all(name.startswith("MXCHECK_") or name in ("CI", *FORKED_ELSEWHERE) for name in environment)
            and not (self.source / "sitecustomize.py").exists()
        ):
            return run_warm(arguments, folder=self.directory, environment=own, output=self.directory.parent)
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.directory,
            env=own,
            capture_output=True,
            text=True,
            check=False,
        )

    def files(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.baselines).as_posix(): path.read_bytes()
            for path in sorted(self.baselines.rglob("*.json"))
        }
