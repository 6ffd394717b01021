"""Baseline files that still have a former name of their precision, such as `fp8_e4m3-A.json`."""

from __future__ import annotations

import shlex
from pathlib import Path

from mxcheck.files.printed import some_of
from mxcheck.gate.case import case_of


def file_today(name: str) -> str:
    """Return the name of a baseline file, `MODEL/fp8_e4m3-A@cuda-sm90.json`, as mxcheck writes it today:
    `MODEL/mxfp8_e4m3-A@cuda-sm90.json`. The name of any other file is unchanged."""
    folder, slash, file = name.rpartition("/")
    stem, at, device_class = file.removesuffix(".json").partition("@")
    try:
        today = case_of("any", stem).name
    except ValueError:
        return name
    return f"{folder}{slash}{today}{at}{device_class}.json" if file.endswith(".json") else name


def former_names(folder: Path) -> dict[Path, Path]:
    """Return the baselines in a model's folder that have a former name, also links, each with its path today:
    a run reads links too."""
    files = sorted(path for path in folder.glob("*.json") if path.is_file())
    return {path: path.with_name(new) for path in files if (new := file_today(path.name)) != path.name}


def refuse_former_names(root: Path, models: list[str]) -> None:
    """Raise ValueError, in one line with the command that renames them, where baselines of these models below
    `root` have former names: a run would report each as missing."""
    found = [path for model in models for path in former_names(root / model)]
    if found:
        names = some_of([path.relative_to(root).as_posix() for path in found])
        command = shlex.join(["mxcheck", "baselines", "rename", "--baselines", str(root)])
        raise ValueError(
            f"baselines in {root} have former names of precisions: {names}; rename the files, which keeps "
            f"all that they hold: {command}"
        )


def rename_today(root: Path, models: list[str]) -> list[tuple[Path, Path]]:
    """Rename the baselines of these models that have former names, and return old and new paths. The files
    are not rewritten: a former name within is read as today's. A link keeps its target, unless that is
    renamed too. Raises ValueError, before any is renamed, where two files are of one case."""
    found = {old: new for model in models for old, new in former_names(root / model).items()}
    taken: dict[Path, Path] = {}
    for old, new in found.items():
        there = taken.setdefault(new, new if new.exists() or new.is_symlink() else old)
        if there != old:
            raise ValueError(
                f"{old} cannot be renamed to {new.name}: {there} is of the same case; remove the one that is "
                f"out of date"
            )
    for old, new in found.items():
        target = old.readlink() if old.is_symlink() else None
        moved = None if target is None else found.get(old.parent / target)
        if target is None or moved is None:
            old.rename(new)
        else:
            new.symlink_to(target.with_name(moved.name))
            old.unlink()
    return list(found.items())
