"""Checks that the machine hinders: one line says what it lacks, and does not say that mxcheck is broken."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mxcheck.measure.smoke_check.broken_measuring import broken_measuring
from mxcheck.measure.smoke_check.hindrance import no_room
from mxcheck.measure.smoke_check.texts import tokenized


def test_a_temporary_folder_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "nowhere"
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    said = broken_measuring([tokenized])
    assert said.startswith(
        f"the smoke check of the measuring code cannot run: the temporary folder {folder} cannot be "
        f"written to: No such file or directory; make room, or name another folder by TMPDIR; "
    )
    assert "broken" not in said


def test_no_temporary_folder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert no_room() == (
        "the temporary folder cannot be written to: No usable temporary directory found in ['/tmp']; make "
        "room, or name another folder by TMPDIR"
    )


def _full() -> None:
    """Files end at 64 bytes, as where a disk is full: more than what `tempfile` tries a folder with."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))


def test_a_full_disk_is_told() -> None:
    code = "from mxcheck.measure.smoke_check.hindrance import no_room; print(no_room())"
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=_full)
    assert "cannot be written to: File too large; make room, or" in done.stdout, done.stderr
