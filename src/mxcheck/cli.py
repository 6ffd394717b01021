"""The side door: `mxcheck baselines …` and `mxcheck sample`. Measuring goes through pytest."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mxcheck.gate.case import Case, model_label
from mxcheck.models.recipe import MX, TIERS, WHOLE_MODEL
from mxcheck.models.zoo import REFERENCE_MODELS, model_source
from mxcheck.reporting.baselines import diff_table, list_table, read_directory, read_revision


def main(arguments: list[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0, 1 where `diff` or `prune` found something, 2 for bad input."""
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    if others and options.run is not _recentre:
        parser.error(f"unknown arguments: {' '.join(others)}")
    options.pytest = others
    try:
        return int(options.run(options))
    except ValueError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"mxcheck: {error}", markup=False)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mxcheck", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    baselines = commands.add_parser("baselines", help="look at accepted baselines, prune and re-centre them")
    actions = baselines.add_subparsers(required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="every accepted case and its figures")
    listing.set_defaults(run=_list)

    diff = actions.add_parser(
        "diff", help="what changed between two directories or git revisions, as a table"
    )
    diff.add_argument("before", nargs="?", default="HEAD", help="directory or git revision (default: HEAD)")
    diff.add_argument("after", nargs="?", help="directory or git revision (default: the baselines directory)")
    diff.set_defaults(run=_diff)

    prune = actions.add_parser("prune", help="find files that no case of the default matrix owns")
    prune.add_argument("--delete", action="store_true", help="delete them (default: name them)")
    prune.add_argument(
        "--models",
        default=",".join(REFERENCE_MODELS),
        help="models of the matrix, with commas (default: ours)",
    )
    prune.set_defaults(run=_prune)

    recentre = actions.add_parser(
        "recentre",
        help="measure again and rewrite baselines that are within tolerance; "
        "other arguments go to pytest, such as -k fp8_e4m3",
    )
    recentre.set_defaults(run=_recentre)
    for action in (listing, diff, prune, recentre):
        action.add_argument("--baselines", type=Path, default=Path("baselines"), help="default: baselines")

    sample = commands.add_parser("sample", help="sample evaluation tokens from a model of your own")
    sample.add_argument("model", help="directory or hub id")
    sample.add_argument(
        "--baselines", type=Path, default=Path("baselines"), help="where to (default: baselines)"
    )
    sample.add_argument("--sequences", type=int, default=64)
    sample.add_argument("--length", type=int, default=256, help="tokens a sequence, the first one included")
    sample.add_argument("--seed", type=int, default=0)
    sample.set_defaults(run=_sample)
    return parser


def _list(options: argparse.Namespace) -> int:
    baselines = read_directory(options.baselines)
    _console().print(list_table(baselines))
    return 0


def _diff(options: argparse.Namespace) -> int:
    sides = [
        read_directory(Path(side)) if Path(side).is_dir() else read_revision(side, options.baselines)
        for side in (options.before, options.after or str(options.baselines))
    ]
    table = diff_table(*sides)
    _console().print("no differences" if table is None else table)
    return 0 if table is None else 1


def _prune(options: argparse.Namespace) -> int:
    owned = {
        case.baseline.as_posix()
        for model in map(str.strip, options.models.split(","))
        for case in _default_matrix(model_label(model) if model not in REFERENCE_MODELS else model)
    }
    # An override for one device class (`…@cuda-sm90.json`) belongs to the case whose name it carries.
    orphans = [
        name
        for name in read_directory(options.baselines)
        if f"{name.removesuffix('.json').partition('@')[0]}.json" not in owned
    ]
    for name in orphans:
        if options.delete:
            (options.baselines / name).unlink()
        print(f"{'deleted' if options.delete else 'orphan'}: {options.baselines / name}")  # noqa: T201  (for pipes)
    if orphans and not options.delete:
        # With this run's own directory and models: the bare command would delete another set.
        words = ["mxcheck", "baselines", "prune", "--baselines", str(options.baselines)]
        words += ["--models", options.models, "--delete"]
        print(f"delete them with: {shlex.join(words)}", file=sys.stderr)  # noqa: T201
    return 1 if orphans and not options.delete else 0


def _default_matrix(label: str) -> list[Case]:
    whole = [Case(model=label, precision=precision) for precision in WHOLE_MODEL]
    return whole + [Case(model=label, precision=precision, tier=tier) for precision in MX for tier in TIERS]


def _recentre(options: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "pytest", "--pyargs", "mxcheck.suite.models"]
    command += ["--snapshot-update", "--mx-recentre", "--mx-baselines", str(options.baselines.resolve())]
    command += options.pytest
    return subprocess.run(command, check=False).returncode  # noqa: S603  (pytest of this interpreter, no shell)


def _sample(options: argparse.Namespace) -> int:
    from mxcheck.evaluation.sampling import sample_tokens
    from mxcheck.evaluation.tokens import save_tokens
    from mxcheck.models.load import load

    if options.model in REFERENCE_MODELS:
        raise ValueError(f"{options.model} ships with its tokens; name a directory or a hub id")
    if options.length < 2 or options.sequences < 1:
        raise ValueError(
            f"nothing to score in {options.sequences} sequences of {options.length} tokens; "
            f"give at least one sequence of two"
        )
    source = model_source(options.model)
    target = options.baselines / model_label(options.model) / "tokens.safetensors"
    if target.exists():
        raise ValueError(
            f"{target} exists already, and accepted baselines may rest on it; delete it to sample anew"
        )
    loaded = load(source.name)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed} tokens"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"sampling {options.model}", total=options.sequences * (options.length - 1))
        tokens = sample_tokens(
            loaded.model,
            sequences=options.sequences,
            length=options.length,
            seed=options.seed,
            progress=lambda count: progress.advance(task, count),
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    save_tokens(tokens, target)
    print(f"{target}: {options.sequences} sequences of {options.length} tokens")  # noqa: T201
    return 0


def _console() -> Console:
    """Wide enough that no figure is folded where the output is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


if __name__ == "__main__":
    sys.exit(main())
