"""The tables of a sensitivity run."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from mxcheck.reporting.table import render
from validation.sensitivity.detection import CheckResult, Detection, KernelResult, ModelResult
from validation.sensitivity.sensitivity_tables import (
    GROUP_COLUMNS,
    MATRIX_COLUMNS,
    as_json,
    group_rows,
    group_table,
    markdown,
    matrix_row,
    matrix_table,
    trouble,
)

NOTHING = CheckResult(seen=False, margin=0.0)
BLIND = Detection(
    name="blind",
    group="gate",
    what="Nothing is wrong.",
    kernels=KernelResult(caught=False),
    models=ModelResult(caught=False, cases=(0, 8)),
    bounds=NOTHING,
    drift=NOTHING,
    drift_elsewhere=CheckResult(seen=False, margin=0.25),
    full=ModelResult(caught=False, cases=(0, 100)),
)
SEEN = Detection(
    name="seen",
    group="scale",
    what="The scale | is one off.",
    kernels=KernelResult(caught=True, cells=(3, 14), share=0.125, tests=(("test_product", 2, 8),)),
    models=ModelResult(caught=True, without_digests=True, cases=(4, 8), steps=("4", "6")),
    bounds=CheckResult(seen=False, margin=0.5),
    drift=CheckResult(seen=True, margin=2e6),
    drift_elsewhere=CheckResult(seen=True, margin=math.inf),
)
FACTS = {"date": "2026-01-02", "torch": "2.9"}


def test_groups_are_counted_in_the_order_of_the_faults() -> None:
    full = replace(BLIND, full=ModelResult(caught=True, cases=(1, 1), steps=("6",)))
    rows = [dict(zip(GROUP_COLUMNS, row, strict=True)) for row in group_rows([SEEN, BLIND, full])]
    assert [row["group"] for row in rows] == ["scale", "gate", "all"]
    scale, gate, all_ = rows
    assert (scale["kernel suite"], scale["model suite"], scale["either"], scale["caught"]) == (
        *("1", "1", "1"),
        "100.0 %",
    )
    assert (gate["faults"], gate["full gate"], gate["neither"], gate["caught"]) == ("2", "1", "1", "50.0 %")
    assert (all_["bounds alone"], all_["drift alone"], all_["drift elsewhere"]) == ("0", "1", "1")


def test_a_line_of_the_matrix() -> None:
    assert dict(zip(MATRIX_COLUMNS, matrix_row(SEEN), strict=True)) == {
        "fault": "seen",
        "what is wrong": "The scale | is one off.",
        "kernel suite": "3 of 14 cells (12 %), test_product 2 of 8",
        "model suite: steps": "4, 6 (4 of 8 cases)",
        "bounds alone": "no (0.5)",
        "drift alone": "yes (2e+06)",
        "drift elsewhere": "yes (∞)",
        "caught by": "reduced",
    }
    blind = dict(zip(MATRIX_COLUMNS, matrix_row(BLIND), strict=True))
    assert (blind["kernel suite"], blind["model suite: steps"], blind["caught by"]) == ("-", "-", "never")


def test_processes_that_ended_otherwise() -> None:
    one = replace(
        SEEN,
        kernels=KernelResult(caught=True, ended="crash"),
        models=ModelResult(caught=True, steps=("hang",)),
        bounds=CheckResult(seen=False, margin=None),
    )
    row = dict(zip(MATRIX_COLUMNS, matrix_row(one), strict=True))
    assert (row["kernel suite"], row["model suite: steps"], row["bounds alone"]) == ("crash", "hang", "-")


def test_many_red_tests_are_counted() -> None:
    tests = tuple((f"test_{letter}", 1, 2) for letter in "abcd")
    one = replace(SEEN, kernels=KernelResult(caught=True, tests=tests))
    assert matrix_row(one)[2] == "test_a 1 of 2, test_b 1 of 2, 2 more tests"


def test_caught_by_the_full_gate() -> None:
    one = replace(BLIND, full=ModelResult(caught=True, cases=(1, 9), steps=("6",)))
    assert one.stage == "full"
    assert matrix_row(one)[-1] == "full gate: 6 (1 of 9 cases)"


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (SEEN, []),
        (BLIND, ["blind survived, and the catalogue does not say why"]),
        (replace(BLIND, survives="It is harmless."), []),
        (
            replace(SEEN, survives="It is harmless."),
            ["seen was caught, but the catalogue explains why it is not: It is harmless."],
        ),
    ],
    ids=["caught", "survived", "explained", "stale"],
)
def test_what_the_catalogue_must_mend(one: Detection, words: list[str]) -> None:
    assert trouble([one]) == words


def test_terminal() -> None:
    text = render(matrix_table([SEEN, BLIND]), color=False) + render(group_table([SEEN, BLIND]), color=False)
    for words in ("seen", "12 %", "4, 6 (4 of 8 cases)", "yes (∞)", "never", "50.0 %"):
        assert words in text


def test_markdown() -> None:
    text = markdown([SEEN, replace(BLIND, survives="It is harmless.")], FACTS)
    assert (
        "**1 of 1 faults of the product caught. 0 of 1 faults of what judges and keeps records caught: "
        "0 by the suites, the others by its own tests.**" in text
    )
    assert "date: 2026-01-02; torch: 2.9." in text
    assert "The scale \\| is one off." in text
    assert "- `blind`: Nothing is wrong. It is harmless." in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = {line.replace("\\|", "").count("|") for line in tables}
    assert widths == {len(GROUP_COLUMNS) + 1, len(MATRIX_COLUMNS) + 1}


def test_faults_that_were_written_unseen_have_shares_of_their_own() -> None:
    digests = ModelResult(caught=True, steps=("4",))
    by_digests = replace(SEEN, kernels=KernelResult(caught=False), models=digests)
    found = [replace(one, unseen=True) for one in (SEEN, by_digests, by_digests, BLIND)]
    text = markdown([SEEN, *found], FACTS)
    assert "Of the 4 that were written by somebody who had read no check" in text
    assert "3 (75.0 %) were caught, 1 (25.0 %) without digests that were accepted." in text
    assert "read no check" not in markdown([SEEN, BLIND], FACTS)
    all_ = dict(zip(GROUP_COLUMNS, group_rows(found)[-1], strict=True))
    assert (all_["either"], all_["without digests"]) == ("3", "1")


def test_json() -> None:
    data = json.loads(as_json([SEEN, BLIND], FACTS), parse_constant=pytest.fail)
    assert data["date"] == "2026-01-02"
    seen, blind = data["faults"]
    assert seen["drift_elsewhere"] == {"seen": True, "margin": "inf"}
    assert (seen["stage"], blind["stage"]) == ("reduced", "never")
    assert seen["models"]["steps"] == ["4", "6"]
