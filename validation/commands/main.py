"""The command line `python -m validation`."""

from __future__ import annotations

import argparse
import sys

from mxcheck.cli.entry import carry_out
from mxcheck.files.printed import printable
from mxcheck.run.library_messages import leave_out_logged, leave_out_warned
from validation.commands import exhaustive_command, false_alarms_command, sensitivity_command


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0; 1 where it found something; 2 for bad input."""
    leave_out_logged()
    leave_out_warned()
    parser = argparse.ArgumentParser(
        prog="validation",
        description="How well mxcheck sees (faults; control environments), and our casts on every input.",
    )
    parser.set_defaults(passes_on=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sensitivity_command.add_commands(commands)
    false_alarms_command.add_commands(commands)
    exhaustive_command.add_commands(commands)
    options, others = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    if others and not options.passes_on:
        parser.error(f"unknown arguments: {printable(' '.join(others))}")
    options.pytest = others
    return carry_out(options)
