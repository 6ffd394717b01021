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
    return Project(directory=directory, source=source)


@pytest.fixture
def accepted(project: Project) -> Project:
    """The same with this repository's committed baselines."""
    shutil.copytree(ROOT / "baselines", project.baselines)
    return project
