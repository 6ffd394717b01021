"""`python -m validation sensitivity`: the faults that the suites detect."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mxcheck.cli.progress_lines import progress_bar
from mxcheck.reporting.screen import Screen, console, say, show
from mxcheck.reporting.table import render
from mxcheck.reporting.tables import titled_table
from validation.sensitivity.sensitivity_tables import as_json, group_table, markdown, matrix_table, trouble

if TYPE_CHECKING:
    from validation.faults.fault import Fault


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "sensitivity",
        help="put faults into the running code and see which suite catches them",
        description="Each fault of the catalogue in a process of its own: the kernel suite on its formats, "
        "the model suite on two models and sixteen sequences, and for what survives both the full gate. Exit "
        "code 0 if every fault is caught or its survival explained in the catalogue, else 1.",
    )
    command.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="NAMES",
        help="faults (repeat or use commas; default: all)",
    )
    command.add_argument(
        "--group", action="append", default=[], metavar="NAMES", help="groups of faults, in the same way"
    )
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    command.add_argument(
        "--state",
        type=Path,
        default=Path("build/sensitivity"),
        metavar="DIR",
        help="keep what is finished in it, and go on from it (default: build/sensitivity)",
    )
    command.add_argument(
        "--baselines",
        type=Path,
        default=Path("baselines"),
        metavar="DIR",
        help="of the full gate (default: baselines)",
    )
    command.add_argument(
        "--summary", type=Path, metavar="FILE", help="write a summary: Markdown to FILE.md, JSON beside it"
    )
    command.add_argument("--list", action="store_true", help="print the catalogue, run nothing")
    command.set_defaults(run=_sensitivity)


def _sensitivity(options: argparse.Namespace) -> int:
    from validation.faults.catalogued import catalogue, chosen_faults

    chosen = chosen_faults(catalogue(), names=_names(options.fault), groups=_names(options.group))
    if options.list:
        console().print(_catalogue_table(chosen))
        return 0
    if options.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {options.jobs}")
    if options.summary is not None and options.summary.suffix != ".md":
        raise ValueError(f"--summary names the Markdown file, NAME.md, got {options.summary}")
    from validation.sensitivity.sensitivity_run import facts, run
    from validation.sensitivity.sensitivity_state import seconds_spent

    try:
        with progress_bar(Screen(stderr=True), "sensitivity") as progress:
            found = run(
                chosen,
                state=options.state,
                jobs=options.jobs,
                baselines=options.baselines,
                progress=progress,
            )
    except KeyboardInterrupt:
        say("mxcheck: stopped; the same command goes on", error=True)
        return 130
    color = console().is_terminal
    for table in (matrix_table(found), group_table(found)):
        show(render(table, color=color) + "\n")
    for line in trouble(found):
        say(f"mxcheck: {line}", error=True)
    if options.summary is not None:
        minutes = f"{seconds_spent(options.state) / 60:.0f} min with {options.jobs} processes"
        told = {"date": f"{datetime.now(UTC):%Y-%m-%d}", **facts(), "wall time": minutes}
        options.summary.parent.mkdir(parents=True, exist_ok=True)
        options.summary.write_text(markdown(found, told), "utf-8")
        options.summary.with_suffix(".json").write_text(as_json(found, told), "utf-8")
    return 1 if trouble(found) else 0


def _names(given: Sequence[str]) -> list[str]:
    return [name.strip() for text in given for name in text.split(",") if name.strip()]


def _catalogue_table(faults: Sequence[Fault]) -> Table:
    table = titled_table(f"mxcheck: {len(faults)} faults")
    table.add_column("group", no_wrap=True)
    table.add_column("fault", no_wrap=True)
    table.add_column("what is wrong")
    last = ""
    for fault in faults:
        if last and fault.group != last:
            table.add_section()
        table.add_row(fault.group if fault.group != last else "", fault.name, fault.what)
        last = fault.group
    return table
