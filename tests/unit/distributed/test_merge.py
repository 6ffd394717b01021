"""Shards joined: what belongs together, what makes the whole run red, what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_shards import BASIS, CASES, build_result, build_shard, other_basis, put, red_shard

from mxcheck.distributed.merge import Merged, merge_folder
from mxcheck.distributed.shard_file import ShardRun
from mxcheck.gate.result import CaseResult, Outcome


def merged(folder: Path, *shards: ShardRun) -> Merged:
    put(folder, *shards)
    return merge_folder(folder)


def test_all_green(tmp_path: Path) -> None:
    found = merged(tmp_path, build_shard(2), build_shard(1))  # whatever order the files are found in
    assert found.green
    assert [shard.index for shard in found.shards] == [1, 2]
    assert list(found.results) == [case.id for case in CASES]
    assert [result.case for result in found.results.values()] == list(CASES)
    assert (found.red, found.failures, found.troubles) == ({}, {}, ())


@pytest.mark.parametrize("index", [1, 2])
def test_one_red_case_in_one_shard_is_red(tmp_path: Path, index: int) -> None:
    found = merged(tmp_path, red_shard(index), build_shard(3 - index))
    assert not found.green
    name = CASES[2 * (index - 1)].id
    assert found.red == {name: f"{name}: step 4 (casts): bits"}
    assert found.troubles == ()


def test_a_red_row_is_red_whatever_pytest_said(tmp_path: Path) -> None:
    found = merged(tmp_path, red_shard(1), build_shard(2))
    silent = replace(red_shard(1), messages={}, exit_status=0)
    assert not merged(tmp_path / "silent", silent, build_shard(2)).green
    assert not found.green


def test_a_selected_case_without_a_row_is_red_and_named(tmp_path: Path) -> None:
    found = merged(tmp_path, build_shard(1, results=(build_result(CASES[0]),)), build_shard(2))
    name = CASES[1].id
    assert found.results[name].word == "NO ROW"
    assert found.results[name].case == CASES[1]
    assert found.red == {name: f"{name}: selected in shard 1/2, and has no row: never ran"}


def test_a_failed_test_that_is_no_case_is_red(tmp_path: Path) -> None:
    failures = {"test_orderings.py::test_ordering[x]": "reversed"}
    found = merged(tmp_path, build_shard(1, failures=failures, exit_status=1), build_shard(2))
    assert not found.green
    assert found.failures == {"shard 1/2: test_orderings.py::test_ordering[x]": "reversed"}
    assert found.troubles == ()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (1, "tests failed that it did not name"),
        (2, "interrupted"),
        (3, "internal error"),
        (4, "usage error"),
        (5, "no tests ran"),
        (77, "unknown to pytest"),
    ],
)
def test_an_exit_status_that_nothing_explains_is_red(tmp_path: Path, status: int, words: str) -> None:
    found = merged(tmp_path, build_shard(1), build_shard(2, exit_status=status))
    assert not found.green
    assert found.troubles == (f"shard 2/2: pytest ended with {status} ({words})",)


def test_an_interrupted_shard_is_red_for_that_too(tmp_path: Path) -> None:
    found = merged(tmp_path, build_shard(1), replace(red_shard(2), exit_status=2))
    assert found.troubles == ("shard 2/2: pytest ended with 2 (interrupted)",)


def test_a_part_that_a_selection_leaves_empty_is_green(tmp_path: Path) -> None:
    basis = other_basis(selection="-k ref-llama")
    empty = build_shard(2, basis=basis, selected=(), results=(), exit_status=5)
    found = merged(tmp_path, build_shard(1, basis=basis), empty)
    assert found.green
    assert list(found.results) == [case.id for case in CASES[:2]]


def test_a_part_that_lacks_cases_though_nothing_leaves_them_out_is_red(tmp_path: Path) -> None:
    """As a `collect_ignore` of one machine's conftest.py has it: pytest calls it 'no tests ran'."""
    none = build_shard(2, selected=(), results=(), exit_status=5)
    found = merged(tmp_path / "none", build_shard(1), none)
    (trouble,) = found.troubles
    assert trouble.startswith("shard 2/2: 2 of the 2 cases of its part were not selected, though no option ")
    assert f"(such as {CASES[2].id})" in trouble
    some = build_shard(2, selected=(CASES[2].id,), results=(build_result(CASES[2]),))
    assert "1 of the 2 cases of its part" in merged(tmp_path / "some", build_shard(1), some).troubles[0]


def test_a_run_without_any_case_is_red(tmp_path: Path) -> None:
    basis = other_basis(selection="-k nothing")
    empty = [build_shard(index, basis=basis, selected=(), results=(), exit_status=5) for index in (1, 2)]
    found = merged(tmp_path, *empty)
    assert found.troubles == ("no case was selected in any shard (-k nothing)",)
    assert not found.green


@pytest.mark.parametrize(
    ("shards", "words"),
    [
        ([build_shard(1)], ["missing in or below", "shard-2-of-2.json", "look at the logs of shard 2/2"]),
        (
            [build_shard(1), build_shard(2), build_shard(2)],
            ["shard 2/2 is there 2 times", "artefact-1/shard-2-of-2.json", "artefact-2/shard-2-of-2.json"],
        ),
        (
            [build_shard(1), build_shard(2, count=3)],
            ["shards of runs in 2 parts (", "3 parts (", "remove those of the other run"],
        ),
        (
            [build_shard(1), build_shard(2, part=(CASES[0].id,), selected=(), results=())],
            [f"{CASES[0].id} is part of 2 of the shards", "must be part of one"],
        ),
        (
            [build_shard(1), build_shard(2, part=(CASES[2].id,), selected=(), results=())],
            [f"{CASES[3].id} is part of 0 of the shards"],
        ),
        (
            [build_shard(1), build_shard(2, cases=(*CASES[1:], CASES[0]))],
            ["have other cases (in another order)", "give every shard the same --mx-models"],
        ),
        (
            [build_shard(1, cases=CASES[:2]), build_shard(2)],
            [f"have other cases (such as {CASES[2].id})"],
        ),
    ],
    ids=["missing", "twice", "another-n", "overlap", "gap", "order", "cases"],
)
def test_what_is_no_complete_run_is_refused(tmp_path: Path, shards: list[ShardRun], words: list[str]) -> None:
    put(tmp_path, *shards)
    with pytest.raises(ValueError, match=re.escape(words[0])) as error:
        merge_folder(tmp_path)
    message = str(error.value)
    assert "\n" not in message
    assert "shard-1-of-2.json" in message or "shard 2/2 is there" in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mxcheck": "0.2.0"}, "different mxcheck: 0.1.0 ("),
        ({"commit": "d" * 40}, f"different commit: {'c' * 40} ("),
        ({"commit": "no commit known to git"}, "; no commit known to git ("),
        ({"changes": "e" * 16}, "different uncommitted changes: none ("),
        ({"sources": "e" * 16}, "different mxcheck sources: "),
        ({"baselines": "e" * 16}, "different accepted baselines: "),
        ({"selection": "-k fp8"}, "different -k, -m and other selection: none ("),
        ({"arguments": "tests/models/test_orderings.py"}, "different paths to collect: tests/models ("),
        ({"run": "7"}, "different runs: none ("),
        ({"options": "kernel my_casts"}, "different options: kernel eager ("),
    ],
    ids=[
        "mxcheck",
        "commit",
        "no-commit",
        "changes",
        "sources",
        "baselines",
        "selection",
        "arguments",
        "run",
        "options",
    ],
)
def test_shards_of_another_basis_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    paths = put(tmp_path, build_shard(1), build_shard(2, basis=other_basis(**change)))
    with pytest.raises(ValueError, match=r"and run all shards again$") as error:
        merge_folder(tmp_path)
    assert words in str(error.value)
    assert all(str(path) in str(error.value) for path in paths)


def test_every_field_of_the_basis_is_compared(tmp_path: Path) -> None:
    for field in BASIS.__slots__:
        folder = tmp_path / field
        put(folder, build_shard(1), build_shard(2, basis=other_basis(**{field: "other"})))
        with pytest.raises(ValueError, match="shards of different"):
            merge_folder(folder)


def on_device(shard: ShardRun, device: str) -> ShardRun:
    first, *others = shard.results
    assert first.record is not None
    record = replace(first.record, environment={"device": device})
    return replace(shard, results=(replace(first, record=record), *others))


def test_shards_on_a_gpu_and_on_the_cpu_are_refused(tmp_path: Path) -> None:
    """Both ran with `auto`, and the accepted baselines of the CPU pass on the CPU."""
    gpu = on_device(build_shard(1), "NVIDIA H100")
    paths = put(tmp_path, gpu, on_device(build_shard(2), "cpu"))
    with pytest.raises(ValueError, match="shards on different devices: ") as error:
        merge_folder(tmp_path)
    assert f"cpu ({paths[1]})" in str(error.value)
    assert f"GPU ({paths[0]})" in str(error.value)
    assert merged(tmp_path / "others", gpu, on_device(build_shard(2), "NVIDIA H200")).green
    assert merged(tmp_path / "cpu", *(on_device(build_shard(index), "cpu") for index in (1, 2))).green


def test_a_run_that_measured_nothing_is_red(tmp_path: Path) -> None:
    def skipped(index: int) -> ShardRun:
        results = [
            CaseResult(case=result.case, outcome=Outcome.SKIPPED, reason="no GPU")
            for result in build_shard(index).results
        ]
        return build_shard(index, results=tuple(results))

    found = merged(tmp_path / "all", skipped(1), skipped(2))
    assert found.troubles == ("every selected case was skipped: nothing was measured",)
    assert not found.green
    assert merged(tmp_path / "one", skipped(1), build_shard(2)).green


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no shard file \(shard-1-of-N.json\) in or below"):
        merge_folder(tmp_path)
    with pytest.raises(ValueError, match="is not a directory; name the one that"):
        merge_folder(tmp_path / "none")


def test_a_damaged_file_is_refused_though_all_others_are_there(tmp_path: Path) -> None:
    paths = put(tmp_path, build_shard(1), build_shard(2))
    paths[1].write_text("{")
    with pytest.raises(ValueError, match="corrupt shard file"):
        merge_folder(tmp_path)


def test_a_count_of_shards_that_no_run_has_is_refused_at_once(tmp_path: Path) -> None:
    """Who lists those that are missing would count to it."""
    put(tmp_path, build_shard(1))
    (path,) = tmp_path.rglob("shard-*.json")
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "count": 10**10}))
    with pytest.raises(ValueError, match=r"it is one of 10,000,000,000 of a run of \d+ cases"):
        merge_folder(tmp_path)
