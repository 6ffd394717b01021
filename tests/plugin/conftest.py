"""End-to-end tests run the real pytest, in a subprocess, on a copy of the package that may be broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from gate_project import CONFTEST, PACKAGE, ROOT, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh project with a copy of the package and no baselines."""
    source, directory = tmp_path / "source", tmp_path / "project"
    shutil.copytree(PACKAGE, source / "mxcheck", ignore=shutil.ignore_patterns("__pycache__"))
    directory.mkdir()
    (directory / "pytest.ini").write_text("[pytest]\nmx_tier = A\n    B\n")
    (directory / "conftest.py").write_text(CONFTEST)
    made = Project(directory=directory, source=source)
    # As in tests/unit: each process asks its casts anew, and most need not be asked in full.
    made.replace("measure/probe_inputs.py", "CALLS, MANY_CALLS = 104, 5120", "CALLS, MANY_CALLS = 104, 256")
    made.replace("measure/probe_inputs.py", "LARGE = 1 << 20", "LARGE = 1 << 15")
    return made


@pytest.fixture
def accepted(project: Project) -> Project:
    """The same with this repository's committed baselines."""
    shutil.copytree(ROOT / "baselines", project.baselines)
    return project
