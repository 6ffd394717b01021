"""`mxcheck bounds`: the cost of each accepted case of a model, beside its bounds."""

from __future__ import annotations

import argparse
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from mxcheck.gate.absolute_checks import Absolute, bounds_lines, first_bounds
from mxcheck.gate.baseline import BaselineError
from mxcheck.gate.bounds_tables import load_bounds
from mxcheck.gate.case import named_model
from mxcheck.gate.record import Record
from mxcheck.gate.shipped import BASELINES
from mxcheck.gate.verdict import judge
from mxcheck.models.zoo.known_models import known_labels
from mxcheck.reporting.baseline_tables import read_directory
from mxcheck.reporting.screen import console, say
from mxcheck.run.own_recipes import own_recipes


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "bounds", help="show the cost of each accepted case of a model beside its bound"
    )
    command.add_argument("model", help="directory, hub id or name, as for --mx-models")
    command.add_argument("--baselines", type=Path, default=BASELINES, help=f"default: {BASELINES}")
    command.add_argument(
        "--mx-bounds", "--mx-budgets", metavar="FILE", help="TOML file of bounds, as for the suite"
    )
    command.set_defaults(run=_bounds)


def _bounds(options: argparse.Namespace) -> int:
    """Return exit code 0 where every accepted case has bounds and is within them, else 1. Lines for cases
    without bounds follow the table."""
    label, _ = named_model(options.model)
    accepted = read_directory(options.baselines / label)
    if not accepted:
        raise ValueError(
            f"no baseline in {options.baselines / label}; accept the model's cases first: "
            f"pytest --pyargs mxcheck.suite.models --mx-models={options.model} --snapshot-update"
        )
    own = tuple(own_recipes(Path("pyproject.toml"), kernel="auto"))
    table = Table("case", box=None, pad_edge=False)
    for name in ("KL", "bound", "used", "twice the KL"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("whose")
    bounds = load_bounds(
        options.mx_bounds, own, baselines=options.baselines, models=known_labels(options.baselines)
    )
    beyond, lacking = 0, list[Record]()
    for name, record in accepted.items():
        if isinstance(record, BaselineError):
            beyond += 1
            table.add_row(f"{name}: unreadable", style="bold red")
            say(f"mxcheck: {record}", error=True)
            continue
        found = bounds.find(record.case)
        if found is None and record.kl is not None:
            lacking.append(record)
        broken = (
            [] if found is None else [one for one in judge(record, None, found).failures if one.step == 5]
        )
        for one in broken:
            say(f"mxcheck: {record.case.name}: {one.message}", error=True)
        within = found is not None and not broken
        beyond += not within
        table.add_row(
            record.case.name,
            "" if record.kl is None else f"{record.kl:.6f}",
            "none" if found is None else f"{found.kl:g}",
            _used(record, None if found is None else found.kl),
            "" if record.kl is None else f"{first_bounds(record).kl:g}",
            "" if found is None else found.whose,
            style=None if within else "bold red",
        )
    console().print(table)
    for record in lacking:
        text = bounds_lines(record, first_bounds(record), Absolute(unknown="not tried"), today=_today())
        say(text, end="")
    return 1 if beyond else 0


def _today() -> date:
    return datetime.now(tz=UTC).date()


def _used(record: Record, bound: float | None) -> str:
    return f"{100 * record.kl / bound:.0f}%" if bound and record.kl is not None else ""
