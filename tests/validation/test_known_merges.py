"""Merges of known verdict: all are right on this code, and a fault is seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxcheck.distributed.merge import Merged, merge_folder
from validation.faults.catalogued import catalogue
from validation.faults.fault import applied
from validation.known_verdicts.merges import green_shards, missed_merges, write_shards
from validation.sensitivity.merge_run import run_merge
from validation.sensitivity.sensitivity_run import concerns_merge

FAULTS = [fault for fault in catalogue().values() if concerns_merge(fault)]


def test_this_merge_is_sound(tmp_path: Path) -> None:
    assert list(missed_merges()) == []
    write_shards(tmp_path, green_shards())
    assert merge_folder(tmp_path).exit_status == 0


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_is_seen(fault: object) -> None:
    with applied(fault):  # type: ignore[arg-type]
        lines = [f"{name}: {what}" for name, what in missed_merges()]
    assert lines
    assert not any("\n" in line for line in lines)


def test_most_of_what_can_be_red_is_among_them() -> None:
    assert len(FAULTS) >= 7


def test_a_merge_that_raises_is_told() -> None:
    def join(_: Path) -> Merged:
        raise RuntimeError("two\nlines")

    assert next(missed_merges(join)) == ("green", "nothing; expected green, got RuntimeError: two lines")


def test_a_run_without_anything_wrong_is_merged_in_a_sensitivity_run() -> None:
    assert not run_merge().red
