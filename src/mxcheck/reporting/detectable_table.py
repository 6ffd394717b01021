"""The smallest changes of each accepted case that the gate would detect, as a table."""

from __future__ import annotations

import math

from rich.table import Table

from mxcheck.gate.baseline import BaselineError
from mxcheck.gate.bounds_tables import BoundsTables
from mxcheck.gate.detectable import Detectable, detectable
from mxcheck.gate.record import Record
from mxcheck.reporting.baseline_tables import Baselines

_COLUMNS = (
    "sequences",
    "tokens",
    "SE of the rise",
    "rise seen",
    "ppl % seen",
    "unpaired %",
    "drift here",
    "elsewhere: loss median",
    "max",
    "KL median",
    "max",
    "KL headroom",
)

_CAPTION = (
    "nats/token; rise seen: what a one-sided test at 5 % finds with power 0.8, paired and clustered by "
    "sequence; unpaired: the same of two independent samples; drift: bounds of step 6, on a machine "
    "with the baseline's arithmetic and on others (median over sequences, largest); KL headroom: what step 5 "
    "still lets pass"
)


def detectable_table(baselines: Baselines, bounds: BoundsTables) -> Table:
    """Return a table with one row for each case. Raises ValueError where a case has no bounds."""
    table = Table("baseline", box=None, pad_edge=False, caption=_CAPTION, caption_justify="left")
    for name in _COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for name, record in baselines.items():
        if isinstance(record, Record) and record.kl is None:
            table.add_row(f"{name}: no KL")
        elif isinstance(record, Record):
            table.add_row(name, *_cells(_seen(record, bounds)))
        else:
            table.add_row(f"{name}: unreadable", style="bold red")
    if troubles := [str(record) for record in baselines.values() if isinstance(record, BaselineError)]:
        table.caption = "\n".join([*troubles, _CAPTION])  # a cell would widen its column for every row
    return table


def _seen(record: Record, bounds: BoundsTables) -> Detectable:
    return detectable(record, bounds.of(record.case))


def _cells(seen: Detectable) -> list[str]:
    return [
        str(seen.sequences),
        str(seen.scored_tokens),
        *map(_nats, (seen.rise_error, seen.rise)),
        *map(_percent, (seen.rise_percent, seen.unpaired_percent)),
        *map(
            _nats,
            (
                seen.loss_here,
                seen.loss_median_elsewhere,
                seen.loss_max_elsewhere,
                seen.kl_median_elsewhere,
                seen.kl_max_elsewhere,
                seen.kl_headroom,
            ),
        ),
    ]


def _nats(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def _percent(value: float) -> str:
    return "0" if value == 0 else f"{value:.3g}" if math.isfinite(value) else str(value)
