"""`python -m validation false-alarms`: the gate in control environments."""

from __future__ import annotations

import argparse
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mxcheck.cli.progress_lines import progress_bar
from mxcheck.reporting.screen import Screen, console, say, show


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "false-alarms",
        help="run the gate in control environments, and count what is red for nothing",
        description="The whole gate on the reference models in environments that differ in instruction sets, "
        "threads, workers, batch sizes and more. Exit code 0 if nothing is red, else 1.",
    )
    command.add_argument(
        "--environment",
        action="append",
        default=[],
        metavar="NAME",
        help="only this one (repeat; default: all)",
    )
    command.add_argument("--list", action="store_true", help="list the environments and run none")
    command.add_argument("--project", type=Path, default=Path(), metavar="DIR", help="with baselines/ in it")
    command.add_argument(
        "--state",
        type=Path,
        default=Path("build/false-alarms"),
        metavar="DIR",
        help="keep results in it, and go on from them (default: build/false-alarms)",
    )
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="gates at a time (default: 1)")
    command.add_argument(
        "--other-python",
        metavar="FILE",
        help="an interpreter with mxcheck and another release of torch, for the environments that want one",
    )
    command.add_argument(
        "--judge-anew",
        action="store_true",
        help="run nothing: judge the records that are kept by the gate and the baselines as they are now",
    )
    command.add_argument(
        "--summary", type=Path, metavar="FILE", help="write a summary: Markdown to FILE.md, JSON beside it"
    )
    command.set_defaults(run=_false_alarms, passes_on=True)


def _false_alarms(options: argparse.Namespace) -> int:
    from mxcheck.reporting.table import render
    from validation.control_environments.environments import ENVIRONMENTS, environment_named, left_out
    from validation.control_environments.false_alarm_tables import (
        as_json,
        describe,
        false_alarms_table,
        headline,
        markdown,
    )
    from validation.control_environments.false_alarms import summarise
    from validation.control_environments.gate_runs import Plan, is_finished, result_path, run_all

    chosen = [environment_named(name) for name in options.environment] or list(ENVIRONMENTS)
    if options.list:
        for one in chosen:
            say(one.name)
        return 0
    if options.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {options.jobs}")
    if options.summary is not None and options.summary.suffix != ".md":
        raise ValueError(f"--summary names the Markdown file, NAME.md, got {options.summary}")
    if options.other_python is not None:
        program = shutil.which(options.other_python)
        if program is None:
            raise ValueError(f"--other-python {options.other_python}: no such program; name an interpreter")
        options.other_python = str(Path(program).absolute())
    missing = left_out(chosen, other_torch=options.other_python is not None)
    for name, why in missing.items():
        say(f"mxcheck: left out, {why}: {name}", error=True)
    chosen = [one for one in chosen if one.name not in missing]
    if not chosen:
        raise ValueError("no environment is left to run in; name others with --environment")
    plan = Plan(
        project=options.project.absolute(),
        state=options.state,
        arguments=tuple(options.pytest),
        other_python=options.other_python,
    )
    if options.judge_anew:
        chosen = [one for one in chosen if result_path(plan, one).is_file()]
        if not chosen:
            raise ValueError(f"--judge-anew: {plan.state} has no results; run without it first")
    else:
        try:
            with progress_bar(Screen(stderr=True), "false alarms") as progress:
                done = sum(is_finished(plan, one) for one in chosen)
                progress("finished before" if done else "starting", done, len(chosen))
                for count, one in enumerate(run_all(plan, chosen, jobs=options.jobs), start=done + 1):
                    progress(one.name, count, len(chosen))
        except KeyboardInterrupt:
            say("mxcheck: stopped; the same command goes on", error=True)
            return 130
    rows = [
        summarise(result_path(plan, one), plan.project / "baselines", one.breaks, anew=options.judge_anew)
        for one in chosen
    ]
    show(render(false_alarms_table(rows), color=console().is_terminal) + "\n")
    for line in (*describe(rows), headline(rows)):
        say(line)
    if options.summary is not None:
        import torch

        facts = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "torch": torch.__version__,
            "processor": platform.processor() or platform.machine(),
            **({"judged": "anew, from kept records"} if options.judge_anew else {}),
        }
        options.summary.parent.mkdir(parents=True, exist_ok=True)
        options.summary.write_text(markdown(rows, facts), "utf-8")
        options.summary.with_suffix(".json").write_text(as_json(rows, facts), "utf-8")
    return 1 if any(row.red for row in rows) else 0
