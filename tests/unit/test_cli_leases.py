"""`mxcheck leases`: what a host's runs hold."""

from __future__ import annotations

import os
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
