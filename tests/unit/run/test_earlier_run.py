"""Durations of an earlier run: read, refused in one line, and what they decide."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sample_shards import CASES, build_result

from mxcheck.run.cost import scaled
from mxcheck.run.earlier_run import ReportError, read_durations


def row(**changes: Any) -> dict[str, Any]:
    """The result of a case that passed."""
    result = json.loads(json.dumps(build_result(CASES[0]).as_dict()))
    return {**result, "seconds": 1.0, "load_seconds": 0.0, **changes}


@pytest.fixture
def written(tmp_path: Path) -> Callable[[Any], Path]:
    def write(data: Any) -> Path:
        (tmp_path / "accuracy.json").write_text(json.dumps(data))
        return tmp_path / "accuracy.json"

    return write


def test_loading_is_apart_and_a_case_without_a_record_has_no_duration(
    written: Callable[[Any], Path],
) -> None:
    rows = [
        row(id="first", seconds=7.5, load_seconds=4.0),
        row(id="second", seconds=3.0, load_seconds=None),
        row(id="third", seconds=9.0, load_seconds=2.0),
        row(id="skipped", record=None, seconds=0.1),
        row(id="not-run", seconds=None),
    ]
    found = read_durations(written(rows))
    assert found.cases == {"first": 3.5, "second": 3.0, "third": 7.0}
    assert found.loads == {CASES[0].model: 3.0}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "no accuracy.json of a run: it must be a list of results, got "),
        ([3], "no accuracy.json of a run: "),
        ([{"id": "a"}], "no accuracy.json of a run: "),
        ([row(seconds="3")], "no accuracy.json of a run: "),
        ([row(seconds=-1)], "must be a number from 0 on, got -1"),
        ([row(load_seconds=float("inf"))], "must be a number from 0 on, got inf"),
        ([row(id=3)], "a case must be named by texts, got 3"),
        ([], "none of its cases has a duration"),
        ([row(record=None)], "none of its cases has a duration"),
    ],
)
def test_what_is_no_report_is_refused(data: Any, words: str, written: Callable[[Any], Path]) -> None:
    with pytest.raises(ReportError, match=words) as caught:
        read_durations(written(data))
    assert "accuracy.json: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"none\.json: no such file; name the accuracy\.json of"):
        read_durations(tmp_path / "none.json")


def test_what_was_not_measured_is_scaled_by_what_was() -> None:
    nominal = {"a": 1.0, "b": 3.0, "c": 2.0}
    assert scaled(nominal, {}) == nominal
    assert scaled(nominal, {"a": 4.0, "b": 4.0}) == {"a": 4.0, "b": 4.0, "c": 4.0}
