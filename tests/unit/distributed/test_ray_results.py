"""The shards that came back, and what stands for one that did not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sample_shards import CASES, build_shard, other_basis

from mxcheck.distributed.merge import merge_folder
from mxcheck.distributed.ray_results import write_shards
from mxcheck.distributed.ray_run import Outcome
from mxcheck.distributed.shard_file import encode

SELECTED = {
    model: tuple(case.id for case in CASES if case.model == model) for model in ("ref-llama", "ref-neo")
}


def outcome(model: str, shard: int, *, trouble: str = "") -> Outcome:
    text = None if trouble else encode(build_shard(shard))
    return Outcome(model=model, shard=shard, node="", seconds=1.0, text=text, trouble=trouble)


def test_all_came_back(tmp_path: Path) -> None:
    assert write_shards(tmp_path / "new", [outcome("ref-neo", 2), outcome("ref-llama", 1)], SELECTED)
    merged = merge_folder(tmp_path / "new")
    assert merged.green
    assert list(merged.results) == [case.id for case in CASES]


def test_a_lost_one_is_red_by_name_and_the_other_keeps_its_rows(tmp_path: Path) -> None:
    lost = outcome("ref-neo", 2, trouble="pytest ended with signal 9:\nits output")
    assert write_shards(tmp_path, [lost, outcome("ref-llama", 1)], SELECTED)
    merged = merge_folder(tmp_path)
    assert {name: result.word for name, result in merged.results.items()} == {
        "ref-llama-mxfp8_e4m3-B": "pass",
        "ref-llama-te_mxfp8-B": "skipped",
        "ref-neo-mxfp8_e4m3-B": "CRASH",
        "ref-neo-te_mxfp8-B": "CRASH",
    }
    why = "no result: pytest ended with signal 9:"
    assert merged.red == {name: f"{name}: {why}" for name in SELECTED["ref-neo"]}
    assert merged.troubles == ()


def test_a_lost_one_of_which_nothing_was_selected_is_red_too(tmp_path: Path) -> None:
    text = encode(build_shard(1, basis=other_basis(selection="-k ref-llama")))
    found = [outcome("ref-neo", 2, trouble="gone"), replace(outcome("ref-llama", 1), text=text)]
    assert write_shards(tmp_path, found, {**SELECTED, "ref-neo": ()})
    merged = merge_folder(tmp_path)
    assert not merged.green
    assert merged.troubles == ("shard 2/2: pytest ended with 1 (tests failed that it did not name)",)


def test_one_whose_workers_all_died_is_lost_and_says_what_failed(tmp_path: Path) -> None:
    """It came back, with nothing: the driver knows what there was to run."""
    empty = build_shard(2, selected=(), results=(), exit_status=5, failures={"collection": "no worker lived"})
    two = Outcome(model="ref-neo", shard=2, node="n (1)", seconds=1.0, text=encode(empty), trouble="")
    assert write_shards(tmp_path, [two, outcome("ref-llama", 1)], SELECTED)
    merged = merge_folder(tmp_path)
    why = "no result: node n (1) selected 0 cases, and the driver 2"
    assert merged.red == {name: f"{name}: {why}" for name in SELECTED["ref-neo"]}
    assert merged.failures == {"shard 2/2: collection": "no worker lived"}


def test_one_that_selected_less_is_lost(tmp_path: Path) -> None:
    less = build_shard(1, selected=(CASES[0].id,), results=build_shard(1).results[:1])
    one = Outcome(model="ref-llama", shard=1, node="n", seconds=1.0, text=encode(less), trouble="")
    assert write_shards(tmp_path, [one, outcome("ref-neo", 2)], SELECTED)
    assert set(merge_folder(tmp_path).red) == set(SELECTED["ref-llama"])


def test_where_all_are_lost_nothing_is_written(tmp_path: Path) -> None:
    lost = [outcome("ref-llama", 1, trouble="gone"), outcome("ref-neo", 2, trouble="gone")]
    assert not write_shards(tmp_path, lost, SELECTED)
    assert not list(tmp_path.glob("*.json"))
    with pytest.raises(ValueError, match="no shard file"):
        merge_folder(tmp_path)
