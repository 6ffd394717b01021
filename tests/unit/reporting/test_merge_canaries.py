"""The smoke test of a merge: silent on this merge, loud on one with a fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_shards import build_shard, put

from mxcheck.cli import main
from mxcheck.reporting.merge import Merged, merge_folder
from mxcheck.reporting.merge_canaries import broken_merge, green_shards, write_shards
from validation.faults.catalogued import catalogue
from validation.faults.fault import applied
from validation.sensitivity.merge_run import run_merge
from validation.sensitivity.sensitivity_run import concerns_merge

FAULTS = [fault for fault in catalogue().values() if concerns_merge(fault)]


def test_this_merge_is_sound(tmp_path: Path) -> None:
    assert broken_merge() == ""
    write_shards(tmp_path, green_shards())
    assert merge_folder(tmp_path).exit_status == 0


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_is_seen(fault: object) -> None:
    with applied(fault):  # type: ignore[arg-type]
        said = broken_merge()
        run = run_merge()
    assert said.startswith("mxcheck misjudges the shards of canary ")
    assert "\n" not in said
    assert run.red
    assert run.messages == [said]


def test_most_of_what_can_be_red_is_among_them() -> None:
    assert len(FAULTS) >= 7


def test_a_merge_that_raises_is_told() -> None:
    def join(_: Path) -> Merged:
        raise RuntimeError("two\nlines")

    assert "canary green: nothing; expected green, got RuntimeError: two lines (and " in broken_merge(join)


def test_no_verdict_is_given_by_a_broken_merge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, build_shard(1), build_shard(2))
    with applied(catalogue()["exit_status_excused"]):
        assert main(["merge", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no verdict of this merge counts" in captured.err
