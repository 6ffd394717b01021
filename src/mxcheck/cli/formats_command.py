"""`mxcheck formats`: the formats and their properties."""

from __future__ import annotations

import argparse
from typing import Any

from mxcheck.reporting.formats_table import WIDTH, tables
from mxcheck.reporting.screen import console


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "formats", help="list the formats, their properties and the names of their casts"
    )
    command.set_defaults(run=_formats)


def _formats(options: argparse.Namespace) -> int:
    del options
    output = console(at_least=WIDTH)
    for number, table in enumerate(tables(output.width)):
        if number:
            output.print()
        output.print(table)
    return 0
