"""What the cases of a run cost, by part of the measurement."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from mxcheck.gate.case_cost import PARTS
from mxcheck.gate.result import CaseResult
from mxcheck.reporting.tables import titled_table

_CAPTION = (
    "ms: wall time for a thousand scored tokens; load s: seconds of loading the model and measuring its "
    "reference, in the case that did; peak GiB: most memory, on a CPU of the process so far, on GPUs of torch"
)


def cost_table(rows: Sequence[CaseResult]) -> Table | None:
    """Return a table with a row for each case that was measured; None where there is none."""
    table = titled_table("mxcheck: cost", _CAPTION)
    table.add_column("case", no_wrap=True)
    table.add_column("device", no_wrap=True)
    for name in ("load s", *(f"{part} ms" for part in PARTS), "peak GiB"):
        table.add_column(name, justify="right")
    for row in rows:
        if row.cost is None:
            continue
        parts = [row.cost.per_thousand(part) for part in PARTS]
        table.add_row(
            row.case.id,
            row.cost.device,
            f"{row.load_seconds:.1f}" if row.load_seconds else "",
            *("" if seconds is None else _milliseconds(seconds) for seconds in parts),
            f"{row.cost.peak_bytes / 2**30:.2f}",
        )
    return table if table.row_count else None


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f}" if seconds >= 0.1 else f"{1000 * seconds:.3g}"
