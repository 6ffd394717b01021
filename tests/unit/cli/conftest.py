from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from baselines_project import BF16, FP8, put
from case_programs import compiled_c, compiled_rust
from sample_record import build_record

from mxcheck.conformance.verify import matrices


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two baselines; no terminal and no git of the machine's own."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    put("baselines", FP8, build_record())
    put("baselines", BF16, build_record(precision="bf16", tier=None))
    return tmp_path


@pytest.fixture(scope="session")
def c_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """mx_cast.c with these faults, each compiled once."""
    folder = tmp_path_factory.mktemp("c")
    return cache(lambda *defines: compiled_c(folder, *defines))


@pytest.fixture(scope="session")
def rust_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled_rust(tmp_path_factory.mktemp("rust"))


@pytest.fixture
def without_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the cases, without the whole matrices, which are nine tenths of the numbers: what comes of an answer
    does not depend on them."""
    monkeypatch.setattr(matrices, "matrices", lambda *_: iter(()))
