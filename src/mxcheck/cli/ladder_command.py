"""`mxcheck ladder`: every precision, its requirements, and whether it can run here."""

from __future__ import annotations

import argparse
from typing import Any

from mxcheck.extras import missing
from mxcheck.kernels.device_choice import resolve_device
from mxcheck.models.backends.backend import backend
from mxcheck.models.recipes.ladder import ALL_LINEARS, LADDER, Precision, with_tiers
from mxcheck.reporting.models_table import PrecisionRow, ladder_table, reasons
from mxcheck.reporting.screen import console, say

#: Least width at which no cell is cut.
WIDTH = 140


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "ladder", help="list every precision: what it does, what it needs, whether it runs here"
    )
    command.add_argument("--device", default="auto", help="auto (default: cuda if there is one), cpu, cuda")
    command.set_defaults(run=_ladder)


def _ladder(options: argparse.Namespace) -> int:
    device = resolve_device(options.device, option="--device", present=False)
    rows = [_row(precision, device) for precision in LADDER.values()]
    console(at_least=WIDTH).print(ladder_table(rows, device=device))
    for line in reasons(rows):
        say(line)
    return 0


def _row(precision: Precision, device: str) -> PrecisionRow:
    tiers = tuple(tier for name, tier in with_tiers() if name == precision.name and tier is not None)
    return PrecisionRow(
        name=precision.name,
        what=precision.what,
        tiers=(*tiers, ALL_LINEARS) if tiers and precision.name != "mixed" else tiers,
        needs=precision.needs,
        reason=_reason(precision, device),
    )


def _reason(precision: Precision, device: str) -> str:
    """Return why a model cannot run in this precision here, or an empty string."""
    if (reason := missing("transformers")) is not None:
        return reason
    return "" if precision.library is None else backend(precision.name).missing(device) or ""
