"""What the live display shows of words that others wrote: neither markup nor what a terminal would obey."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mxcheck.pytest_plugin.progress import live
from mxcheck.pytest_plugin.progress.live import Due
from mxcheck.reporting.progress import Expected, RunProgress

HOSTILE = "[red]m[/red]\x1b[2J waits"
SHOWN = r"[red]m[/red]\x1b[2J waits"


@pytest.fixture
def board() -> RunProgress:
    made = RunProgress(expected=Expected(cases={"a": 1.0}))
    made.heard("main", {"do": "step", "what": HOSTILE}, 0.0)
    return made


def reporter(file: Any) -> Any:
    return SimpleNamespace(_tw=SimpleNamespace(_file=file, width_of_current_line=0))


def test_a_table(tmp_path: Path, board: RunProgress) -> None:
    path = tmp_path / "terminal"
    with path.open("w") as file:
        screen = live._Screen(reporter(file), board, threading.RLock())
        screen.stop()
    assert SHOWN in path.read_text()
    assert "\x1b[2J" not in path.read_text()


def test_a_line(tmp_path: Path, board: RunProgress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_LOOK", 0.01)
    path = tmp_path / "log"
    with path.open("w") as file:
        lines = live._Lines(reporter(file), Due(board, period=0.0, quiet=False), threading.RLock())
        end = time.monotonic() + 60
        while not path.read_text() and time.monotonic() < end:
            time.sleep(0.01)
        lines.stop()
    assert path.read_text().splitlines()[0] == f"mxcheck: 0 of 1 cases; main {SHOWN}"
