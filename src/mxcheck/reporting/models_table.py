"""`mxcheck models` and `mxcheck ladder` as tables, from plain data without a model or a library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from mxcheck.reporting.tables import titled_table

_GIB = 2**30
_BILLION, _MILLION = 10**9, 10**6
#: Length of a git hash that is displayed and not typed.
_SHORT = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of a model in one dtype, in bytes: on a single device, and on each of the fewest `devices` that
    hold it together."""

    alone: int
    devices: int
    each: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One model. `hub_id` is empty for an embedded model; `memory` is by bytes per element, 2 and 4."""

    name: str
    hub_id: str = ""
    revision: str = ""
    architecture: str
    dtype: str
    parameters: int
    batch: tuple[int, int] | None = None  # sequences, tokens in each
    memory: tuple[Memory, Memory] | None = None
    gated: bool = False
    safetensors: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRow:
    """One precision of the ladder. `tiers` is empty where it converts the whole model; `reason` says why it
    cannot run here, or is empty."""

    name: str
    what: str
    tiers: tuple[str, ...]
    needs: str
    reason: str = ""


def models_table(embedded: Sequence[ModelRow], cards: Sequence[ModelRow], *, device_bytes: int) -> Table:
    """Return the table of the package's models, then of those with a card."""
    table = _table(
        "Models",
        "GiB: weights, as loaded and quantized, and one batch, if all is on one device; "
        f"devices: the number that it needs, of {device_bytes / _GIB:.0f} GiB for tensors, and the GiB on "
        "each\n"
        "revision: a commit, cut short here, or a branch, which may move; batch: sequences of so many tokens",
    )
    for name in ("name", "hub id", "revision", "architecture", "loaded in"):
        table.add_column(name, no_wrap=True)
    for name in ("parameters", "batch", "GiB\n16 bits", "devices\n16 bits", "GiB\nfp32", "devices\nfp32"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note", no_wrap=True)
    for row in embedded:
        table.add_row(*_model(row))
    table.add_section()
    for row in cards:
        table.add_row(*_model(row))
    return table


def _model(row: ModelRow) -> list[str]:
    notes = [
        "" if row.hub_id else "embedded",
        "gated" if row.gated else "",
        "" if row.safetensors else "*.bin only",
    ]
    cells: list[str] = []
    for memory in row.memory or ():
        cells += [f"{memory.alone / _GIB:.1f}", f"{memory.devices} of {memory.each / _GIB:.1f}"]
    pinned = len(row.revision) == 40
    return [
        row.name,
        row.hub_id,
        row.revision[:_SHORT] if pinned else row.revision,
        row.architecture,
        row.dtype,
        _count(row.parameters),
        "" if row.batch is None else f"{row.batch[0]} of {row.batch[1]}",
        *(cells or [""] * 4),
        ", ".join(filter(None, notes)),
    ]


def _count(parameters: int) -> str:
    if parameters >= _BILLION:
        return f"{parameters / _BILLION:.2f} B"
    return f"{parameters / _MILLION:.2f} M"


def ladder_table(rows: Sequence[PrecisionRow], *, device: str) -> Table:
    """Return the table of every precision, and whether it runs for a model on `device`."""
    table = _table("The ladder", "tier -: the whole model, without tiers")
    for name in ("precision", "what", "tiers"):
        table.add_column(name, no_wrap=True)
    table.add_column("needs")  # long requirements are folded
    table.add_column(f"on {device}", no_wrap=True)
    for row in rows:
        here = "no" if row.reason else "runs"
        table.add_row(row.name, row.what, " ".join(row.tiers) or "-", row.needs, here)
    return table


def reasons(rows: Iterable[PrecisionRow]) -> list[str]:
    """Return one line for each reason why precisions cannot run here, after their names."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            names.setdefault(row.reason, []).append(row.name)
    return [f"{', '.join(found)}: {reason}" for reason, found in names.items()]


def _table(title: str, caption: str) -> Table:
    return titled_table(title, caption, title_style="bold")
