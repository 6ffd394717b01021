"""The table at the end of a run. Reads records and verdicts, nothing else."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from mxcheck.gate.budget import Budget
from mxcheck.gate.case import Case
from mxcheck.gate.drift import Drift
from mxcheck.gate.record import Record, record_from_dict
from mxcheck.gate.statistics import exponential
from mxcheck.gate.verdict import rise
from mxcheck.reporting.titled import titled_table
from mxcheck.reporting.verdicts import GOOD


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case of the table. `record` is None where a case ended before it measured anything."""

    model: str
    precision: str
    tier: str | None
    options: tuple[str, ...] = ()
    verdict: str
    record: Record | None = None
    budget: Budget | None = None
    drift: Drift | None = None
    reason: str = ""


def row_of(case: Case, data: Mapping[str, Any]) -> Row:
    """A case's row from what its worker sent. Raises ValueError, TypeError or KeyError where that is none."""
    record, budget, drift = data.get("record"), data.get("budget"), data.get("drift")
    return Row(
        model=case.model,
        precision=case.precision,
        tier=case.tier,
        options=case.options,
        verdict=data["verdict"],
        reason=data.get("reason", ""),
        record=None if record is None else record_from_dict(record),
        budget=None if budget is None else Budget(**budget),
        drift=None if drift is None else Drift(**drift),
    )


def percent_change(record: Record) -> tuple[float, float]:
    """Change of the perplexity against the reference in percent, and its standard error, which is the
    paired one (clustered by sequence) carried through the exponential."""
    mean, error, _ = rise(record)
    return 100 * (exponential(mean) - 1), 100 * exponential(mean) * error


def results_table(rows: Sequence[Row]) -> Table:
    table = titled_table("mxcheck: accuracy", _CAPTION)
    for name in ("model", "precision", "tier"):
        table.add_column(name, no_wrap=True)
    for name in (
        "perplexity",
        "cross-ent.",
        "entropy",
        "change % ± SE",
        "KL",
        "top-1 %",
        "weights",
        "budget",
        "drift",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    metrics = list(dict.fromkeys(name for row in rows if row.record for name in row.record.metrics))
    for name in metrics:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    last = rows[0].model if rows else ""
    for row in rows:
        if row.model != last:
            table.add_section()
            last = row.model
        table.add_row(*_cells(row, metrics), style=None if row.verdict in (*GOOD, "skipped") else "bold red")
    return table


_CAPTION = (
    "cross-entropy, entropy, KL in nats/token; change: perplexity against the reference; weights: bytes of "
    "all weights, packed, beside those as loaded; budget: share of the KL budget used; drift: rms change of "
    "sequence losses since accepted"
)


def _cells(row: Row, metrics: Sequence[str]) -> list[str]:
    name = [row.model, row.precision, "+".join([row.tier or "", *row.options]).strip("+")]
    record = row.record
    if record is None:
        return [*name, *[""] * (9 + len(metrics)), row.verdict]
    change, error = percent_change(record)
    if record.bit_equal:
        change_text = "0"
    elif math.isinf(error):
        change_text = f"{change:+.3f}"
    else:
        change_text = f"{change:+.3f} ± {error:.3f}"
    return [
        *name,
        f"{record.perplexity:.3f}",
        f"{record.cross_entropy:.5f}",
        f"{record.entropy:.5f}",
        change_text,
        f"{record.kl:.6f}",
        f"{100 * record.top1_agreement:.2f}",
        f"{100 * record.weight_bytes / record.original_bytes:.0f}%",
        ""
        if row.budget is None
        else ("-" if row.budget.kl == 0 else f"{100 * record.kl / row.budget.kl:.0f}%"),
        "" if row.drift is None else ("0" if row.drift.rms == 0 else f"{row.drift.rms:.0e}"),
        *(f"{fmean(record.metrics[metric]):.6g}" if metric in record.metrics else "" for metric in metrics),
        row.verdict,
    ]


def skipped_lines(rows: Sequence[Row]) -> list[str]:
    """Why cases were skipped: one line a reason, with the precisions and the models that it is about."""
    by_reason: dict[str, list[Row]] = {}
    for row in rows:
        if row.verdict == "skipped":
            by_reason.setdefault(row.reason, []).append(row)
    return [
        f"skipped: {', '.join(dict.fromkeys(row.precision for row in found))} of "
        f"{', '.join(dict.fromkeys(row.model for row in found))} (cases: {len(found)}): {reason}"
        for reason, found in by_reason.items()
    ]


def render(table: Table, *, color: bool) -> str:
    """The table as text, as wide as it needs to be: figures are never folded or cut."""
    needed = Console(width=10_000).measure(table).maximum
    console = Console(
        file=io.StringIO(),
        width=needed,
        force_terminal=color,
        no_color=not color,
        legacy_windows=False,
    )
    console.print(table)
    file = console.file
    assert isinstance(file, io.StringIO)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())
