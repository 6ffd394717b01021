"""`mxcheck`: its commands, and what becomes of bad input."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from mxcheck.cli import (
    baselines,
    bounds,
    exhaustive,
    explain,
    false_alarms,
    formats,
    ladder,
    leases,
    merge,
    models,
    run,
    sample,
    sensitivity,
)
from mxcheck.run.library_messages import leave_out_logged, leave_out_warned

_GROUPS = (
    *(formats, explain, exhaustive, sensitivity, false_alarms, ladder, models, baselines, bounds, sample),
    *(run, merge, leases),
)


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0; 1 where `baselines diff`, `baselines prune`, `bounds`,
    `explain`, `merge` or `run` found something; 2 for bad input."""
    leave_out_logged()
    leave_out_warned()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(options.run(options))
    except ValueError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"mxcheck: {error}", markup=False)
        return 2


def parse(words: list[str]) -> argparse.Namespace:
    """The options of a command line, with `run`, which carries it out; bad usage ends the program."""
    parser = argparse.ArgumentParser(
        prog="mxcheck",
        description="Formats, single casts, the ladder, models and accepted baselines. "
        "The gate runs under pytest: pytest --pyargs mxcheck.suite.models.",
    )
    parser.set_defaults(passes_on=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in _GROUPS:
        group.add_commands(commands)
    options, others = parser.parse_known_args(explain.numbers_are_no_options(words))
    if others and not options.passes_on:
        parser.error(f"unknown arguments: {' '.join(others)}")
    options.pytest = others
    return options
