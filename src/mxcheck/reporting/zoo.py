"""`mxcheck models` and `mxcheck ladder` as tables. Gets plain data, and knows no model and no library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from mxcheck.reporting.titled import titled_table

_GIB = 2**30
_BILLION, _MILLION = 10**9, 10**6
#: What a git hash is cut to where it is shown and not typed.
_SHORT = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a model needs in one dtype, in bytes: on a device that holds all of it, and on each of the fewest
    `devices` that hold it together."""

    alone: int
    devices: int
    each: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One model. `hub_id` is empty where it is embedded; `memory` is by bytes an element, 2 and 4."""

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
class StepRow:
    """One step of the ladder. `tiers` is empty where it converts the whole model; `reason`: why it cannot run
    here, empty where it can."""

    name: str
    what: str
    tiers: tuple[str, ...]
    needs: str
    reason: str = ""


def models_table(embedded: Sequence[ModelRow], cards: Sequence[ModelRow], *, device_bytes: int) -> Table:
    """The models of the package, then those that a card describes."""
    table = _table(
        "Models",
        "GiB: weights, as loaded and quantized, and one batch, if all is on one device; "
        f"devices: how many with {device_bytes / _GIB:.0f} GiB for tensors hold it, of how many GiB each\n"
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


def ladder_table(steps: Sequence[StepRow], *, device: str) -> Table:
    """Every step, and whether it runs for a model on `device`."""
    table = _table("The ladder", "tier -: the whole model, without tiers")
    for name in ("precision", "what", "tiers"):
        table.add_column(name, no_wrap=True)
    table.add_column("needs")  # the longest are folded
    table.add_column(f"on {device}", no_wrap=True)
    for step in steps:
        here = "no" if step.reason else "runs"
        table.add_row(step.name, step.what, " ".join(step.tiers) or "-", step.needs, here)
    return table


def reasons(steps: Iterable[StepRow]) -> list[str]:
    """Why steps cannot run here: one line a reason, after the names of the steps that it is about."""
    names: dict[str, list[str]] = {}
    for step in steps:
        if step.reason:
            names.setdefault(step.reason, []).append(step.name)
    return [f"{', '.join(found)}: {reason}" for reason, found in names.items()]


def _table(title: str, caption: str) -> Table:
    return titled_table(title, caption, title_style="bold")
