from __future__ import annotations

from dataclasses import replace

from sample_record import build_record

from mxcheck.gate.case_cost import Cost
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.reporting.cost_table import cost_table

RECORD = build_record()
COST = Cost(
    device="cpu", tokens=2000, seconds={"forward": 4.0, "metrics": 0.5, "convert": 0.25}, peak_bytes=3 << 29
)
ROW = CaseResult(case=RECORD.case, outcome=Outcome.MEASURED, record=RECORD, cost=COST, load_seconds=1.25)


def test_a_row_has_milliseconds_a_thousand_tokens() -> None:
    table = cost_table([replace(ROW, cost=None), ROW, replace(ROW, load_seconds=0.0)])
    assert table is not None
    cells = {str(column.header): [*column.cells] for column in table.columns}
    assert cells == {
        "case": [RECORD.id] * 2,
        "device": ["cpu"] * 2,
        "load s": ["1.2", ""],
        "convert ms": ["125", "125"],
        "digests ms": ["", ""],
        "forward ms": ["2000", "2000"],
        "metrics ms": ["250", "250"],
        "layers ms": ["", ""],
        "peak GiB": ["1.50", "1.50"],
    }


def test_a_run_that_measured_nothing_has_no_table() -> None:
    assert cost_table([replace(ROW, cost=None)]) is None
