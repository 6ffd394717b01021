"""What the system refuses the commands: one line with a remedy; a fault of ours stays one."""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mxcheck.cli import entry

FORMATS = (sys.executable, "-m", "mxcheck.cli", "formats")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_disk() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(FORMATS, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "mxcheck: the output: No space left on device; make room, or let it be written elsewhere, and run "
        "this again\n"
    )


def test_a_reader_that_has_seen_enough() -> None:
    """Under `set -o pipefail`, `mxcheck merge DIR | head` must not look as an incomplete merge does."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(FORMATS, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def command_that_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def run(_: object) -> int:
        raise error

    monkeypatch.setattr(entry, "parse", lambda _: argparse.Namespace(run=run))


def test_a_file_that_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command_that_raises(monkeypatch, PermissionError(errno.EACCES, "Permission denied", "a/b.md"))
    assert entry.main([]) == 2
    assert capsys.readouterr().err == (
        "mxcheck: a/b.md: Permission denied; name one that is there and that you may use\n"
    )


def test_a_fault_of_ours_is_none_of_the_user_s(monkeypatch: pytest.MonkeyPatch) -> None:
    command_that_raises(monkeypatch, OSError("a handle that was closed"))
    with pytest.raises(OSError, match="a handle that was closed"):
        entry.main([])
