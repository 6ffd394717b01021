"""The layers of a case, sorted by the error of its casts, to find the most harmful ones."""

from __future__ import annotations

from rich.table import Table

from mxcheck.gate.record import Record
from mxcheck.reporting.tables import titled_table

_CAPTION = (
    "error: size of the quantized update's error beside the update, median over tokens, and 99th percentile; "
    "gain: how much longer the update is; update: its size beside the layer's input; worst first"
)


def layers_table(record: Record) -> Table:
    """Return a table with one row for each decoder layer, its attention and its MLP, the largest error
    first."""
    table = titled_table(f"mxcheck: layers of {record.id}", _CAPTION)
    table.add_column("place", no_wrap=True)
    for name in ("error %", "99 %", "gain %", "update %"):
        table.add_column(name, justify="right", no_wrap=True)
    found = record.sublayers or {}
    for place, error in sorted(found.items(), key=lambda one: -one[1].norm):
        figures = (error.norm, error.norm_99, error.gain, error.size)
        table.add_row(
            place, *(f"{100 * figure:{'+' if figure is error.gain else ''}.3g}" for figure in figures)
        )
    return table


def without_layers(record: Record) -> str:
    """Return why a case has no such table, or an empty string."""
    return (
        ""
        if record.sublayers
        else f"{record.id}: no layers: {record.absent.get('sublayers', 'none measured')}"
    )
