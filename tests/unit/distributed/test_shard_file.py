"""A shard's file: what is written is read, and what is damaged is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_shards import CASES, build_result, build_shard, put, red_shard

from mxcheck.distributed.shard_file import FORMAT_VERSION, encode, file_name, find, read


def test_what_is_written_is_read(tmp_path: Path) -> None:
    shard = red_shard(2, failures={"test_order": "reversed"})
    (path,) = put(tmp_path, shard)
    assert path.name == file_name(2, 2) == "shard-2-of-2.json"
    assert read(path) == shard


def test_numbers_keep_every_bit(tmp_path: Path) -> None:
    first = build_result(CASES[0])
    assert first.drift is not None
    first = replace(first, drift=replace(first.drift, rms=0.1 + 0.2, max_bound=float("inf")))
    shard = build_shard(1, results=(first, build_result(CASES[1])))
    (path,) = put(tmp_path, shard)
    assert read(path).results == shard.results


def test_files_are_found_at_any_depth(tmp_path: Path) -> None:
    paths = put(tmp_path / "deep" / "deeper", build_shard(1), build_shard(2))
    (tmp_path / "accuracy.json").write_text("[]")
    assert find(tmp_path) == paths


Data = dict[str, Any]


def _as_another_case(data: Data) -> None:
    """Two cases may write one name: here, of a model that is called as another and a precision are."""
    model = f"{CASES[1].model}-{CASES[1].precision}"
    data["results"][1]["case"] |= {"model": model, "precision": CASES[1].tier, "tier": None}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.pop("results"), "has no 'results'"),
        (lambda data: data.update(results=3), "results must be list, got 3"),
        (lambda data: data.update(exit_status=True), "exit_status must be int, got True"),
        (lambda data: data.update(index=3), "it is shard 3/2"),
        (lambda data: data["basis"].pop("commit"), "missing 1 required keyword-only argument: 'commit'"),
        (lambda data: data["cases"].append(data["cases"][0]), "cases names a case twice"),
        (lambda data: data["part"].append("ref-moe-fp32"), "part has 'ref-moe-fp32', which is none of its"),
        (lambda data: data["selected"].append(CASES[2].id), "which is none of its cases"),
        (lambda data: data["results"].append(data["results"][0]), "results names a case twice"),
        (lambda data: data["results"].append("row"), "a result must be a dict, got 'row'"),
        (lambda data: data["results"][0].pop("outcome"), "has no 'outcome'"),
        (lambda data: data["results"][0].update(outcome=None), "outcome must be str, got None"),
        (lambda data: data["results"][0]["record"].pop("kl"), "missing fields: ['kl']"),
        (
            lambda data: data["results"][0]["bounds"].pop("kl"),
            "missing 1 required keyword-only argument: 'kl'",
        ),
        (lambda data: data.update(messages={CASES[0].id: 1}), f"the message of {CASES[0].id} is 1"),
        (lambda data: data["results"][0].update(record=[1]), "a record must be a dict, got [1]"),
        (
            lambda data: data["results"][0]["record"].update(sequence_losses=3),
            "sequence_losses must be list of number, got 3",
        ),
        (lambda data: data["results"][0]["record"].update(sequence_losses=["x"]), ""),
        (
            lambda data: data["results"][0]["record"].update(replaced=3),
            "replaced must be table of text, got 3",
        ),
        (
            lambda data: data["results"][0]["record"].update(environment=[]),
            "environment must be table of text, got []",
        ),
        (
            lambda data: data["results"][0]["record"].update(perplexity="x"),
            "perplexity must be number, got 'x'",
        ),
        (lambda data: data["results"][0]["record"].update(original_bytes=0), "division by zero"),
        (lambda data: data["results"][0]["bounds"].update(kl="a"), "kl of bounds must be a number, got 'a'"),
        (lambda data: data["results"][0]["drift"].update(rms=[]), "rms of drift must be a number, got []"),
        (lambda data: data["results"][1].update(reason=3), "reason must be str, got 3"),
        (lambda data: data["basis"].update(selection={}), "selection of basis must be str, got {}"),
        (lambda data: data["results"].__setitem__(0, [1]), "a result must be a dict, got [1]"),
        (lambda data: data["selected"].append([1]), "unhashable"),
        (lambda data: data["cases"][0].update(kind="engine"), "a case of kind engine has a subject"),
        (_as_another_case, f"the result of {CASES[1].id} is one of another case of that name"),
    ],
    ids=range(30),
)
def test_what_contradicts_itself_is_refused(
    tmp_path: Path, change: Callable[[Data], object], words: str
) -> None:
    (path,) = put(tmp_path, build_shard(1))
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="corrupt shard file") as error:
        read(path)
    assert str(path) in str(error.value)
    assert words in str(error.value)
    assert str(error.value).endswith("fetch it again, or run this shard again")


@pytest.mark.parametrize("cut", [0, 1000])
def test_a_part_of_a_file_is_refused(tmp_path: Path, cut: int) -> None:
    (path,) = put(tmp_path, build_shard(1))
    path.write_text(path.read_text()[:cut])
    with pytest.raises(ValueError, match=r"corrupt shard file .* not JSON"):
        read(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / file_name(1, 2)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="corrupt shard file"):
        read(path)


@pytest.mark.parametrize(
    "text",
    ["[]", '{"format_version": 99}', "{}", '{"format_version": 4}'],  # 4: former names of precisions
)
def test_another_version_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / file_name(1, 2)
    path.write_text(text)
    with pytest.raises(ValueError, match=f"this mxcheck reads {FORMAT_VERSION}; merge with the mxcheck that"):
        read(path)


def test_the_text_is_one_line() -> None:
    assert encode(build_shard(1)).count("\n") == 1
