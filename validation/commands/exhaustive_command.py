"""`python -m validation exhaustive`: our casts on every fp32 number."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mxcheck.kernels.device_choice import resolve_device
from mxcheck.reporting.screen import Screen, console, say


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "exhaustive",
        help="compare our casts with the oracle on every fp32 number",
        description="Every one of the 2^32 fp32 bit patterns through our element casts and, each as a block "
        "of its own, through our scale rules. Exit code 0 if every bit is as the oracle has it, else 1.",
    )
    command.add_argument(
        "--format",
        action="append",
        default=[],
        metavar="NAMES",
        help="element formats (repeat or use commas; default: all)",
    )
    command.add_argument("--kernel", default="eager", help="eager (default), or cpp on a CPU")
    command.add_argument("--device", default="auto", help="auto (default), cpu, cuda")
    command.add_argument(
        "--state", type=Path, metavar="FILE", help="keep what is finished in it, and go on from it"
    )
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    command.add_argument(
        "--summary", type=Path, metavar="FILE", help="write a summary: Markdown to FILE.md, JSON beside it"
    )
    command.set_defaults(run=_exhaustive)


def _exhaustive(options: argparse.Namespace) -> int:
    from validation.sweeps.sweep import sweeps

    formats = [name.strip() for text in options.format for name in text.split(",") if name.strip()]
    chosen = sweeps(formats, options.kernel)
    device = resolve_device(options.device, option="--device")
    if options.kernel == "cpp" and device != "cpu":
        raise ValueError(f"--kernel=cpp runs on a CPU, got --device={options.device}; give --device=cpu")
    if options.jobs < 1:
        raise ValueError(f"--jobs must be at least 1, got {options.jobs}")
    if options.summary is not None and options.summary.suffix != ".md":
        raise ValueError(f"--summary names the Markdown file, NAME.md, got {options.summary}")

    import torch

    from validation.sweeps.sweep_run import describe_device, run
    from validation.sweeps.sweep_state import sweep_sources_digest
    from validation.sweeps.sweep_tables import as_json, describe, markdown, progress_bar, sweeps_table

    # Before the run: the facts must describe its start.
    facts = {"device": describe_device(device), "torch": torch.__version__, "sources": sweep_sources_digest()}
    try:
        with progress_bar(Screen(stderr=True)) as progress:
            results = run(
                chosen, device=device, state_path=options.state, progress=progress, jobs=options.jobs
            )
    except KeyboardInterrupt:
        kept = "nothing is kept without --state" if options.state is None else "the same command goes on"
        say(f"mxcheck: stopped; {kept}", error=True)
        return 130
    console().print(sweeps_table(results))
    for line in (line for one in results for line in describe(one)):
        say(line)
    if options.summary is not None:
        facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", **facts}
        options.summary.parent.mkdir(parents=True, exist_ok=True)
        options.summary.write_text(markdown(results, facts), "utf-8")
        options.summary.with_suffix(".json").write_text(as_json(results, facts), "utf-8")
    return 1 if any(one.mismatches for one in results) else 0
