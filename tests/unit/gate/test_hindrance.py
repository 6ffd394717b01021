"""Canaries that the machine hinders: one line says what it lacks, and none says that mxcheck is broken."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mxcheck.gate.canaries.broken_gate import CALLS, RECORDS, broken_gate, missed
from mxcheck.gate.canaries.hindrance import no_room
from mxcheck.measure.canaries.broken_measuring import broken_measuring
from mxcheck.measure.canaries.texts import tokenized
from mxcheck.pytest_plugin import report_canaries
from mxcheck.pytest_plugin.report_canaries import broken_report
from mxcheck.reporting.merge_canaries import broken_merge, green_shards, write_shards

#: What reads files of its own, and what is tried.
READ_FILES: dict[str, tuple[Callable[[], str], str]] = {
    "gate": (broken_gate, "the gate cannot be tried: "),
    "measuring": (lambda: broken_measuring([tokenized]), "what measures cannot be tried: "),
    "merge": (broken_merge, "the merge cannot be tried: "),
}


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder that is not there."""
    folder = tmp_path / "nowhere"
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("tried", READ_FILES)
def test_a_temporary_folder_that_cannot_be_used(tried: str, nowhere: Path) -> None:
    try_it, words = READ_FILES[tried]
    said = try_it()
    assert said.startswith(
        f"{words}the temporary folder {nowhere} cannot be written to: No such file or directory; make room, "
        f"or name another folder by TMPDIR; "
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


def full(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=_full)


def test_a_full_disk_is_told_by_the_gate() -> None:
    done = full("-c", "from mxcheck.gate.canaries.broken_gate import broken_gate; print(broken_gate())")
    assert "cannot be written to: File too large; make room, or" in done.stdout, done.stderr
    assert "broken" not in done.stdout


def test_a_full_disk_is_told_by_a_merge(tmp_path: Path) -> None:
    write_shards(tmp_path, green_shards())
    done = full("-m", "mxcheck.cli", "merge", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert "the merge cannot be tried: the temporary folder " in line
    assert line.endswith("; nothing was merged")


def test_canaries_that_need_no_file_write_none(nowhere: Path) -> None:
    assert not nowhere.exists()
    assert broken_report() == ""
    calls = [call for call in CALLS if not call.name.startswith(READ)]
    assert list(missed(RECORDS, calls)) == []
    assert 0 < len(CALLS) - len(calls) < len(calls) / 2


#: Names of the calls that read a file.
READ = ("file-", "place-", "bounds-file")


@pytest.mark.parametrize(
    ("target", "try_it"),
    [
        ("mxcheck.gate.canaries.broken_gate._failed_steps", broken_gate),
        ("mxcheck.pytest_plugin.report_canaries._ended", broken_report),
        ("", lambda: broken_merge(_raises)),
    ],
    ids=["gate", "report", "merge"],
)
def test_memory_that_runs_out(
    target: str, try_it: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if target:
        monkeypatch.setattr(target, _raises)
    said = try_it()
    assert "cannot be tried: out of memory; run fewer workers (-n), or give this machine more" in said
    assert "broken" not in said
    assert "\n" not in said


def _raises(*_: Any) -> Any:
    raise MemoryError


def test_a_fault_beside_a_folder_that_can_be_used_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_canaries, "_ended", lambda _: (None, 0))
    assert "mxcheck itself is broken" in broken_report()
    assert no_room() == ""
