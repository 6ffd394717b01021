"""The table of control environments."""

from __future__ import annotations

import json

import pytest

from mxcheck.reporting.table import render
from validation.control_environments.false_alarm_tables import (
    EnvironmentRow,
    as_json,
    describe,
    false_alarms_table,
    headline,
    markdown,
    nearest,
)


def environment(name: str, **changes) -> EnvironmentRow:
    fields = {
        "cases": 120,
        "skipped": 3,
        "red": {},
        "true_alarms": {},
        "same_arithmetic": 0,
        "arithmetics": {"ref-llama fp32": name},
        "shares": {"reference": (0.1, "a"), "loss": (0.25, "b"), "kl": (0.5, "c")},
        "worst_rms": 1.5e-3,
        "seconds": 115.0,
    }
    return EnvironmentRow(environment=name, **{**fields, **changes})


SAME = environment("-n 0", same_arithmetic=117, shares={}, worst_rms=0.0)
OTHER = environment("as-intel -n 0")
TWIN = environment(
    "batch-2 -n 0", arithmetics=SAME.arithmetics, same_arithmetic=117, shares={}, worst_rms=0.0
)
RED = environment("MKL_CBWR=AVX -n 0", red={"ref-moe-bf16": "step 6: losses moved"})


def test_the_headline_counts_cases_and_distinct_arithmetics() -> None:
    assert headline([SAME, OTHER, TWIN]) == (
        "0 red for nothing of 351 cases in 3 control environments, which multiply in 2 different ways"
    )
    assert headline([SAME, RED]).startswith("1 red for nothing of 234 cases")


def test_the_table_has_shares_only_where_noise_is_allowed() -> None:
    lines = render(false_alarms_table([SAME, OTHER]), color=False).splitlines()
    same = next(line for line in lines if line.split()[:2] == ["-n", "0"])
    other = next(line for line in lines if line.strip().startswith("as-intel"))
    assert same.split() == ["-n", "0", "120", "3", "117", "0", "0", "0"]
    assert other.split() == [
        "as-intel",
        "-n",
        "0",
        "120",
        "3",
        "0",
        "0.10",
        "0.25",
        "0.50",
        "1.5e-03",
        "0",
        "0",
    ]


def test_red_cases_are_told_one_by_one() -> None:
    assert describe([SAME]) == []
    assert describe([RED]) == ["MKL_CBWR=AVX -n 0: ref-moe-bf16: step 6: losses moved"]


def test_true_alarms_are_told_by_their_reason_and_are_no_false_ones() -> None:
    broken = environment("ONEDNN -n 0", true_alarms={"a-bnb_int8-A": "wrong", "b-bnb_int8-A": "wrong"})
    assert headline([broken]).startswith("0 red for nothing of 115 cases")
    assert describe([broken]) == ["true alarms, 2: wrong"]


def test_the_nearest_to_its_bound_is_named() -> None:
    far = environment("far", shares={"loss": (0.125, "far away")})
    assert nearest([far, OTHER])[1] == "nearest to its bound, loss: b, 0.25, in `as-intel -n 0`"
    assert nearest([SAME]) == []


@pytest.mark.parametrize("rows", [[SAME, OTHER], [SAME, RED]], ids=["green", "red"])
def test_markdown_and_json_say_the_same(rows) -> None:
    text = markdown(rows, {"date": "2026-01-02"})
    assert f"**{headline(rows)}.**" in text
    assert "date: 2026-01-02." in text
    assert all(f"| `{row.environment}` | 120 | 3 |" in text for row in rows)
    data = json.loads(as_json(rows, {"date": "2026-01-02"}))
    assert [len(one["red"]) for one in data["environments"]] == [len(row.red) for row in rows]
    assert ("```" in text) == bool(describe(rows))
