"""Exhaustive sweeps: a bar during the run, then the table, and the summary as Markdown and as JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from mxcheck.reporting.markdown import cell, fenced
from mxcheck.reporting.markdown import table as markdown_table
from mxcheck.reporting.tables import titled_table
from validation.sweeps.sweep import Sweep, SweepResult

_COLUMNS = ("sweep", "inputs", "NaNs left out", "mismatches", "seconds")
_WHAT = (
    "element: the element cast alone, at the scale 1, on every fp32 bit pattern; NaNs are left out where the "
    "format has no code for them. block: every fp32 bit pattern as a block of its own, scale and element."
)


@contextmanager
def progress_bar(console: Console) -> Iterator[Callable[[Sweep, int, int], None]]:
    """Show a bar with the time left; where the output is no terminal, a line every 5 percent.

    Yields the `progress` argument of `validation.sweeps.sweep_run.run`.
    """
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("exhaustive", total=None)

        def update(sweep: Sweep, done: int, total: int) -> None:
            if bar.tasks[0].total is None:  # the first call: an earlier run's part does not affect the speed
                bar.reset(task, total=total, completed=done)
            bar.update(task, description=sweep.name, completed=done)

        yield update


def _lines(console: Console) -> Callable[[Sweep, int, int], None]:
    began = time.monotonic()
    before: int | None = None

    def line(sweep: Sweep, done: int, total: int) -> None:
        nonlocal before
        if before is None:
            before = done
            console.print(f"{done:,} of {total:,} chunks finished before")
        elif done * 20 // total > (done - 1) * 20 // total:
            left = (time.monotonic() - began) / (done - before) * (total - done)
            console.print(f"{100 * done // total} % ({sweep.name}), {left / 60:.0f} min left")

    return line


def sweeps_table(results: Sequence[SweepResult]) -> Table:
    """Return a table with one line for each sweep."""
    table = titled_table("mxcheck: exhaustive sweeps", _WHAT)
    for number, name in enumerate(_COLUMNS):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for one in results:
        table.add_row(*_cells(one), style="bold red" if one.mismatches else None)
    return table


def _cells(one: SweepResult) -> tuple[str, ...]:
    return (
        one.sweep.name,
        f"{one.compared:,}",
        f"{one.excluded:,}",
        f"{one.mismatches:,}",
        f"{one.seconds:.0f}",
    )


def describe(result: SweepResult) -> list[str]:
    """Describe a sweep with mismatches, in lines; none where all is exact."""
    if not result.mismatches:
        return []
    sweep = result.sweep
    lines = [f"mxcheck: {sweep.name}: {result.mismatches:,} of {result.compared:,} inputs differ; the first:"]
    lines += [f"  {one}" for one in result.first]
    if sweep.scale_rule is not None:
        lines.append(
            f"  mxcheck explain {sweep.format} --hex {result.first[0].bits:08x} --block-size 1 "
            f"--scale-rule {sweep.scale_rule} --kernel {sweep.kernel}"
        )
    return lines


def markdown(results: Sequence[SweepResult], facts: Mapping[str, str]) -> str:
    """Return the summary for people.

    Args:
        facts: the basis of the run, by name: date, device, versions.
    """
    compared = sum(one.compared for one in results)
    mismatches = sum(one.mismatches for one in results)
    cells = [list(map(cell, _cells(one))) for one in results]
    lines = [
        "# Exhaustive sweeps",
        "",
        "Our casts against the exact table search; written by `python -m validation exhaustive --summary`.",
        _WHAT,
        "",
        f"**{compared:,} inputs in {len(results)} sweeps, {mismatches:,} mismatches.**",
        "Seconds are of one process, added up where there were more.",
        "",
        "; ".join(f"{name}: {value}" for name, value in facts.items()) + ".",
        "",
        *markdown_table(_COLUMNS, cells, right=[False, *[True] * (len(_COLUMNS) - 1)]),
        "",
    ]
    for one in results:
        if found := describe(one):
            lines += [*fenced("\n".join(found)), ""]
    return "\n".join(lines)


def as_json(results: Sequence[SweepResult], facts: Mapping[str, str]) -> str:
    """Return the summary for programs."""
    rows: list[dict[str, Any]] = [
        {
            "sweep": one.sweep.name,
            "format": one.sweep.format,
            "rounding": one.sweep.rounding,
            "scale_rule": one.sweep.scale_rule,
            "inputs": one.compared,
            "excluded": one.excluded,
            "mismatches": one.mismatches,
            "first": [
                {
                    "input": f"{diff.bits:08x}",
                    "got": [f"{code:02x}" for code in diff.got],
                    "expected": [f"{code:02x}" for code in diff.expected],
                }
                for diff in one.first
            ],
            "seconds": round(one.seconds, 1),
        }
        for one in results
    ]
    return json.dumps({**facts, "sweeps": rows}, indent=1) + "\n"
