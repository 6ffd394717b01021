"""What a kernel gave for the cells that its casts are of: it travels, and what is red is red by step 4."""

from __future__ import annotations

from typing import Any

import pytest
from sample_record import NOISE, build_record

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.decision import Accepted, decide, stored
from mxcheck.gate.kernel_cells import VERDICTS, KernelCell
from mxcheck.gate.record import record_from_dict
from mxcheck.gate.result import Outcome
from mxcheck.gate.update import Update
from mxcheck.gate.verdict import judge
from mxcheck.reporting.failure import failure_message
from mxcheck.reporting.table import kernel_lines

BOUNDS = Bounds(kl=1.0, rise=1.0)
EXAMPLE = ("scale: smallest input", "  input: zeros")
WRONG = {"mxfp8_e4m3-floor": KernelCell(verdict="red", words="causes: 1 wrong", example=EXAMPLE)}
RED = build_record(kernel_cells=WRONG, environment={"kernel": "mine:f"})
NOTHING = Accepted(record=None, trouble="none", exists=False)


def test_a_red_cell_is_red_whatever_was_accepted_and_never_accepted() -> None:
    for accepted in (NOTHING, Accepted(record=build_record())):
        decision = decide(RED, accepted, BOUNDS, Update(changed=True))
        assert decision.result.outcome is Outcome.FAILED
        assert not decision.write
    verdict = judge(RED, build_record(), BOUNDS)
    (failed,) = verdict.failures
    assert (failed.step, failed.key) == (4, "kernel")
    message = failure_message(RED, build_record(), verdict, accept="")
    assert "the kernel mine:f differs from the oracle: mxfp8_e4m3-floor: causes: 1 wrong\n" in message
    assert "\n  scale: smallest input\n    input: zeros\n" in message


@pytest.mark.parametrize("verdict", [one for one in VERDICTS if one != "red"])
def test_no_other_verdict_is_red(verdict: str) -> None:
    record = build_record(kernel_cells={"mxfp8_e4m3-floor": KernelCell(verdict=verdict, words="why")})
    assert judge(record, build_record(), BOUNDS).passed


def test_no_baseline_has_it() -> None:
    record = build_record(kernel_cells={"mxfp8_e4m3-floor": KernelCell(verdict="exact")})
    decision = decide(record, NOTHING, BOUNDS, Update(changed=True), replaces=False)
    assert decision.write
    written = stored(decision, NOTHING, lambda: NOISE)
    assert "kernel_cells" not in written.as_dict()


def test_it_travels() -> None:
    assert record_from_dict(RED.as_dict()) == RED


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"fp8": 3}, "must be a table of its verdict, words and example, got 3"),
        (
            {"fp8": {"verdict": "fine", "words": "", "example": []}},
            "the verdict of 'fp8' must be one of exact",
        ),
        (
            {"fp8": {"verdict": "red", "words": "", "example": [3]}},
            "words and example of 'fp8' must be texts",
        ),
    ],
)
def test_what_is_none_is_refused(data: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        record_from_dict({**RED.as_dict(), "kernel_cells": data})


def test_one_line_says_what_was_held() -> None:
    cells = {
        "mxfp8_e4m3-floor": KernelCell(verdict="exact"),
        "nvfp4-amax": KernelCell(verdict="not compared", words="no nvfp4"),
        "mxfp4_e2m1-floor": KernelCell(verdict="exact"),
    }
    results = [
        decide(
            build_record(kernel_cells={name: one}, environment={"kernel": "mine:f"}),
            NOTHING,
            BOUNDS,
            Update(),
        ).result
        for name, one in cells.items()
    ]
    (line,) = kernel_lines(results)
    assert line == (
        "kernel mine:f, compared with the oracle: exact: mxfp8_e4m3-floor, mxfp4_e2m1-floor; not compared: "
        "nvfp4-amax (no nvfp4)"
    )
    assert kernel_lines([decide(build_record(), NOTHING, BOUNDS, Update()).result]) == []
