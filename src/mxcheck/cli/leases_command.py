"""`mxcheck leases`: the leases of this host's runs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from mxcheck.models.zoo.cards import GIB
from mxcheck.reporting.screen import console
from mxcheck.reporting.tables import titled_table
from mxcheck.scheduling.ledger import Ledger, default_folder


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "leases", help="list the leases of devices by the runs of this host, and how many runs wait"
    )
    command.add_argument(
        "--leases",
        type=Path,
        metavar="DIR",
        help="the ledger's directory (default: $MXCHECK_LEASES, else your own)",
    )
    command.set_defaults(run=_leases)


def _leases(options: argparse.Namespace) -> int:
    folder = options.leases or Path(os.environ.get("MXCHECK_LEASES") or default_folder())
    if not folder.is_dir():
        console().print(f"no run has leased anything yet: there is no {folder}")
        return 0
    ledger = Ledger(folder)
    table = titled_table("mxcheck: leases")
    for name in ("model", "process", "device", "GiB", "slots"):
        table.add_column(name, justify="right" if name in ("GiB", "slots") else "left", no_wrap=True)
    held, waiting = ledger.leases(), ledger.waiting()
    for lease in held:
        for device, size in lease.bytes_of.items():
            process = lease.holder.partition("-")[0]
            table.add_row(lease.what, process, device, f"{size / GIB:.1f}", str(lease.slots_of[device]))
    screen = console()
    if held:
        screen.print(table)
    screen.print(f"{len(held)} leases, {waiting} waiting, in {folder}")
    return 0
