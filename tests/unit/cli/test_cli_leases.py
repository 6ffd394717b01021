"""`mxcheck leases`: what a host's runs hold."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from mxcheck.cli import main
from mxcheck.scheduling.devices import Device
from mxcheck.scheduling.leases import Request
from mxcheck.scheduling.ledger import Ledger

GPUS = [Device(name=f"GPU-{n}", index=n, slots=1, total_bytes=80 * 2**30) for n in range(2)]


def test_what_is_held(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(tmp_path, used=lambda _: {})
    lease = ledger.acquire(Request(what="yi-34b", devices=2, bytes_each=70 * 2**30), GPUS)
    assert main(["leases", "--leases", str(tmp_path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["yi-34b", str(os.getpid()), "GPU-0", "70.0", "1"] in lines
    assert ["yi-34b", str(os.getpid()), "GPU-1", "70.0", "1"] in lines
    assert lines[-1][:4] == ["1", "leases,", "0", "waiting,"]
    ledger.release(lease)
    assert main(["leases", "--leases", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("0 leases, 0 waiting, in ")
    ledger.close()


def test_nothing_was_leased_yet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MXCHECK_LEASES", str(tmp_path / "none"))
    assert main(["leases"]) == 0
    assert "no run has leased anything yet" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_a_corrupt_ledger_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "leases.json").write_text("{")
    assert main(["leases", "--leases", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mxcheck: the ledger {tmp_path}/leases.json is corrupt")
    assert len(error.splitlines()) == 1


def test_without_a_temporary_folder_one_line_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the command that needs it: the others do without."""
    monkeypatch.delenv("MXCHECK_LEASES", raising=False)
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert main(["formats"]) == 0
    capsys.readouterr()
    assert main(["leases"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mxcheck: No usable temporary directory found")
    assert "name one with --mx-leases=DIR" in line


def test_unknown_words_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["models", "a\x1b[1m"])
    assert "\x1b" not in capsys.readouterr().err
