"""`mxcheck baselines …`: list, compare, prune, rename and re-centre accepted baselines."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mxcheck.files.printed import some_of
from mxcheck.files.write import PART
from mxcheck.gate.baseline import BaselineError, read, states_path
from mxcheck.gate.bounds_tables import load_bounds
from mxcheck.gate.case import Case, named_model
from mxcheck.gate.former_names import file_today, refuse_former_names, rename_today
from mxcheck.gate.shipped import BASELINES
from mxcheck.models.recipes.ladder import ALL_LINEARS, LADDER, WHOLE_MODEL, with_tiers
from mxcheck.models.zoo.known_models import REFERENCE_MODELS, known_labels
from mxcheck.models.zoo.weight_files import TOKENS
from mxcheck.reporting.baseline_tables import diff_table, list_table, read_directory, read_revision
from mxcheck.reporting.detectable_table import detectable_table
from mxcheck.reporting.screen import console, say
from mxcheck.run.own_recipes import own_recipes


def add_commands(commands: Any) -> None:
    """Add the commands to the parser."""
    baselines = commands.add_parser("baselines", help="list, compare, prune and re-centre accepted baselines")
    actions = baselines.add_subparsers(required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="list every accepted case and its figures")
    listing.set_defaults(run=_list)

    diff = actions.add_parser(
        "diff", help="show as a table what changed between two directories or git revisions"
    )
    diff.add_argument("before", nargs="?", default="HEAD", help="directory or git revision (default: HEAD)")
    diff.add_argument("after", nargs="?", help="directory or git revision (default: the baselines directory)")
    diff.set_defaults(run=_diff)

    seen = actions.add_parser(
        "detectable", help="show the smallest change of each accepted case that the gate detects"
    )
    seen.add_argument(
        "--mx-bounds", "--mx-budgets", metavar="FILE", help="TOML file of bounds, as for the suite"
    )
    seen.set_defaults(run=_detectable)

    prune = actions.add_parser(
        "prune",
        help="list baselines of no known case (of the ladder or a recipe of ./pyproject.toml), reference "
        "states that no baseline uses, and leftovers of interrupted writes",
    )
    prune.add_argument("--delete", action="store_true", help="delete them (default: only list them)")
    prune.add_argument(
        "--models",
        default="",
        help="models whose cases are known, with commas (default: the reference models, and those with "
        "stored tokens here or accepted on a corpus)",
    )
    prune.set_defaults(run=_prune)

    recentre = actions.add_parser(
        "recentre",
        help="measure again and rewrite the baselines of passing cases; "
        "other arguments go to pytest, such as -k mxfp8_e4m3",
    )
    recentre.set_defaults(run=_recentre, passes_on=True)

    renaming = actions.add_parser(
        "rename", help="rename baselines that have former names of precisions (fp8_e4m3-A: mxfp8_e4m3-A)"
    )
    renaming.set_defaults(run=_rename)

    for action in (listing, diff, seen, prune, recentre, renaming):
        action.add_argument("--baselines", type=Path, default=BASELINES, help=f"default: {BASELINES}")


def _list(options: argparse.Namespace) -> int:
    baselines = read_directory(options.baselines)
    console().print(list_table(baselines))
    return 0


def _diff(options: argparse.Namespace) -> int:
    sides = [
        read_directory(Path(side)) if Path(side).is_dir() else read_revision(side, options.baselines)
        for side in (options.before, options.after or str(options.baselines))
    ]
    table = diff_table(*map(_by_names_of_today, sides))
    console().print("no differences" if table is None else table)
    return 0 if table is None else 1


def _by_names_of_today(side: dict[str, Any]) -> dict[str, Any]:
    """Return baselines by their names today, so that a renamed one is no difference. One that is beside a
    file of today's name keeps its own."""
    return {name if (today := file_today(name)) in side else today: side[name] for name in side}


def _detectable(options: argparse.Namespace) -> int:
    own = tuple(own_recipes(Path("pyproject.toml"), kernel="auto"))
    bounds = load_bounds(
        options.mx_bounds, own, baselines=options.baselines, models=known_labels(options.baselines)
    )
    table = detectable_table(read_directory(options.baselines), bounds)
    console(at_least=200).print(table)
    return 0


def _prune(options: argparse.Namespace) -> int:
    models = [*REFERENCE_MODELS, *_own(options.baselines)]
    refuse_former_names(options.baselines, _models_of(options.baselines))
    owned = {
        case.baseline.as_posix()
        for model in filter(None, map(str.strip, (options.models or ",".join(models)).split(",")))
        for case in _default_matrix(model if model in REFERENCE_MODELS else named_model(model)[0])
    }
    orphans = [name for name in _files(options.baselines) if _case_of(name) not in owned]
    orphans += _unused_states(options.baselines, orphans)
    orphans += [path.relative_to(options.baselines).as_posix() for path in _left_over(options.baselines)]
    for name in orphans:
        if options.delete:
            (options.baselines / name).unlink()
        say(f"{'deleted' if options.delete else 'orphan'}: {options.baselines / name}")
    if not orphans:
        say(f"nothing to prune in {options.baselines}", error=True)
    if orphans and not options.delete:
        # With this run's own directory and models: the bare command would delete another set.
        words = ["mxcheck", "baselines", "prune", "--baselines", str(options.baselines)]
        words += ["--models", options.models, "--delete"] if options.models else ["--delete"]
        say(f"delete them with: {shlex.join(words)}", error=True)
    return 1 if orphans and not options.delete else 0


def _rename(options: argparse.Namespace) -> int:
    models = _models_of(options.baselines)
    linked = sorted(folder for folder in options.baselines.glob("*/") if folder.is_symlink())
    # a run reads a linked folder too; one that is here under two names is renamed once
    once = {folder.resolve(): folder.name for folder in linked}
    here = {(options.baselines / model).resolve() for model in models}
    models += [name for folder, name in once.items() if folder not in here]
    renamed = rename_today(options.baselines, models)
    for old, new in renamed:
        say(f"{old} -> {new.name}")
    if not renamed:
        say(f"nothing to rename in {options.baselines}", error=True)
    return 0


def _models_of(root: Path) -> list[str]:
    """Return the models that have a folder. Raises ValueError where there is no such directory, or it is a
    model's folder."""
    if not root.is_dir():
        raise ValueError(f"baselines directory {root} does not exist; name one with --baselines")
    if any(map(_was_accepted, sorted(root.glob("*.json")))):
        raise ValueError(
            f"{root} has baselines itself, so it is the folder of a model; name the directory above it: "
            f"--baselines {shlex.quote(str(root.absolute().parent))}"
        )
    return [folder.name for folder in _folders(root)]


def _own(root: Path) -> list[str]:
    """Return the users' own models among the folders: their tokens are stored here, or a baseline of theirs
    was accepted on a corpus, which needs none."""
    found = {path.parent.name for path in root.glob(f"*/{TOKENS}")}
    for folder in root.glob("*/"):
        if folder.name not in found and any(map(_on_a_corpus, sorted(folder.glob("*.json")))):
            found.add(folder.name)
    return sorted(found)


def _on_a_corpus(path: Path) -> bool:
    """Return whether the baseline at `path` was accepted on a corpus; False where it cannot be read."""
    try:
        return not read(path).self_sampled
    except (BaselineError, FileNotFoundError):
        return False


def _left_over(root: Path) -> list[Path]:
    """Return temporary files of processes that died while writing, at least an hour old: a run may be writing
    a newer one."""
    old = time.time() - _WRITING
    parts = [path for folder in (root, *_folders(root)) for path in folder.glob(f".*{PART}")]
    return sorted(
        path for path in parts if path.is_file() and not path.is_symlink() and path.stat().st_mtime < old
    )


#: Maximum duration of a write, in seconds.
_WRITING = 3600.0


def _files(root: Path) -> list[str]:
    """Return every baseline below `root`, by its relative path."""
    found = [
        path for folder in _folders(root) for path in sorted(folder.glob("*.json")) if _was_accepted(path)
    ]
    return [path.relative_to(root).as_posix() for path in found]


def _folders(root: Path) -> list[Path]:
    """Return the folders of models. Links are skipped: their targets belong to others."""
    return sorted(path for path in root.glob("*/") if not path.is_symlink())


def _was_accepted(path: Path) -> bool:
    """Return whether a file is a baseline, sound or damaged. Other files may lie beside them."""
    if path.is_symlink() or not path.is_file():
        return False
    content = path.read_bytes()
    return all(f'"{key}"'.encode() in content for key in ("format_version", "seal", "sequence_losses"))


def _unused_states(root: Path, orphans: list[str]) -> list[str]:
    """Return the reference states that no baseline beside them uses, once `orphans` are gone. Where one of
    the baselines cannot be read, all states beside it count as used."""
    unused = []
    for states in (path for folder in _folders(root) for path in sorted(folder.glob("states-*.safetensors"))):
        beside = [
            path for path in states.parent.glob("*.json") if path.relative_to(root).as_posix() not in orphans
        ]
        try:
            used = {states_path(path.parent, read(path).fingerprints.get("weights", "")) for path in beside}
        except (BaselineError, FileNotFoundError):
            continue
        if states not in used:
            unused.append(states.relative_to(root).as_posix())
    return unused


def _case_of(name: str) -> str:
    """Return the file of the plain case: an override for one device class (`…@cuda-sm90.json`) and a case
    with options (`…+attention.json`) belong to the case whose name they contain."""
    return f"{name.removesuffix('.json').partition('@')[0].partition('+')[0]}.json"


def _default_matrix(label: str) -> list[Case]:
    linears = [(name, ALL_LINEARS) for name in LADDER if name not in (*WHOLE_MODEL, "mixed")]
    own = [(name, None) for name in own_recipes(Path("pyproject.toml"), kernel="auto")]
    return [
        Case(model=label, precision=precision, tier=tier)
        for precision, tier in (*with_tiers(), *linears, *own)
    ]


def _recentre(options: argparse.Namespace) -> int:
    chosen = any(word.partition("=")[0] == "--mx-models" for word in options.pytest)
    here = [name for name in REFERENCE_MODELS if (options.baselines / name).is_dir()]
    if not chosen and not here:
        # without a name pytest would measure ours, and copy their baselines into the project
        say(
            f"mxcheck: {options.baselines} has no baselines of the reference models to re-centre; name your "
            f"models with --mx-models, as when they were accepted",
            error=True,
        )
        return 2
    others = sorted({path.name for path in options.baselines.glob("*/")} - {*REFERENCE_MODELS})
    if not chosen and others:
        names = some_of(others)
        say(f"mxcheck: not re-centred: {names}; name user models with --mx-models", error=True)
    command = [sys.executable, "-m", "pytest", "--pyargs", "mxcheck.suite.models"]
    command += [] if chosen else [f"--mx-models={','.join(here)}"]
    command += ["--snapshot-update", "--mx-recentre", f"--mx-baselines={options.baselines.resolve()}"]
    command += options.pytest
    return subprocess.run(command, check=False).returncode  # noqa: S603  (pytest of this interpreter, no shell)
