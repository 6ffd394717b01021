"""The shards that came back, and what stands for one that did not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxcheck.engines.ray_run import Outcome
from mxcheck.engines.ray_shards import write_shards
from mxcheck.gate.case import Case
from mxcheck.reporting.merge import merge_folder
from mxcheck.reporting.shards import Basis, ShardRun, encode

CASES = tuple(
    Case(model=model, precision=precision, tier=None)
    for model in ("one", "two")
    for precision in ("fp32", "bf16")
)
BASIS = Basis(mxcheck="1", commit="c", changes="", sources="s", baselines="b", selection="")


def outcome(model: str, shard: int, *, trouble: str = "") -> Outcome:
    names = tuple(case.id for case in CASES if case.model == model)
    done = ShardRun(
        index=shard,
        count=2,
        basis=BASIS,
        cases=CASES,
        part=names,
        selected=names,
        rows=tuple({"id": name, "verdict": "pass"} for name in names),
        messages={},
        failures={},
        exit_status=0,
    )
    text = None if trouble else encode(done)
    return Outcome(model=model, shard=shard, node="", seconds=1.0, text=text, trouble=trouble)


SELECTED = {"one": ("one-fp32", "one-bf16"), "two": ("two-fp32", "two-bf16")}


def test_all_came_back(tmp_path: Path) -> None:
    assert write_shards(tmp_path / "new", [outcome("two", 2), outcome("one", 1)], SELECTED)
    merged = merge_folder(tmp_path / "new")
    assert merged.green
    assert list(merged.rows) == [case.id for case in CASES]


def test_a_lost_one_is_red_by_name_and_the_other_keeps_its_rows(tmp_path: Path) -> None:
    lost = outcome("two", 2, trouble="pytest ended with signal 9:\nits output")
    assert write_shards(tmp_path, [lost, outcome("one", 1)], SELECTED)
    merged = merge_folder(tmp_path)
    assert {name: row["verdict"] for name, row in merged.rows.items()} == {
        "one-fp32": "pass",
        "one-bf16": "pass",
        "two-fp32": "CRASH",
        "two-bf16": "CRASH",
    }
    why = "no result: pytest ended with signal 9:"
    assert merged.red == {name: f"{name}: {why}" for name in SELECTED["two"]}
    assert merged.troubles == ()


def test_a_lost_one_of_which_nothing_was_selected_is_red_too(tmp_path: Path) -> None:
    found = [outcome("two", 2, trouble="gone"), outcome("one", 1)]
    assert write_shards(tmp_path, found, {**SELECTED, "two": ()})
    merged = merge_folder(tmp_path)
    assert not merged.green
    assert merged.troubles == ("shard 2/2: pytest ended with 1 (tests failed that it did not name)",)


def test_where_all_are_lost_nothing_is_written(tmp_path: Path) -> None:
    lost = [outcome("one", 1, trouble="gone"), outcome("two", 2, trouble="gone")]
    assert not write_shards(tmp_path, lost, SELECTED)
    assert not list(tmp_path.glob("*.json"))
    with pytest.raises(ValueError, match="no shard file"):
        merge_folder(tmp_path)
