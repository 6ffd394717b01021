from __future__ import annotations

from pathlib import Path

import pytest
from baselines_project import BF16, FP8, put
from sample_record import build_record


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
