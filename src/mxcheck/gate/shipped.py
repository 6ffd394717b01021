"""The read-only baselines of the reference models that mxcheck ships.

A wheel holds them as package data. In a source tree they are the folder of accepted baselines itself. Models
are identified by label: if another model has the same label, every record reports that its weights differ.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from mxcheck.files.write import PART, WriteError

#: Folder of a project's accepted baselines, unless an option names another.
BASELINES = Path("baselines")
#: Models that have shipped baselines.
SHIPPED = (
    *("ref-llama", "ref-neo", "ref-moe", "outlier-llama", "long-llama"),
    *("short-moe", "bf16-llama", "wide-gpt2"),
)


@cache
def shipped() -> Path | None:
    """Return the folder of those baselines, or None."""
    package = Path(__file__).parent.parent
    tree = package.parent.parent if package.parent.name == "src" else package
    return next((folder for folder in (package / BASELINES, tree / BASELINES) if folder.is_dir()), None)


def folder_in_force(root: Path, model: str) -> Path:
    """Return the folder from which a model's accepted baselines are read: the project's folder below `root`
    if the model has one, else ours if present, else the project's future folder."""
    own, ours = root / model, shipped()
    if own.exists() or own.is_symlink() or ours is None or model not in SHIPPED:
        return own
    return ours / model if (ours / model).is_dir() else own


def in_force(root: Path, name: Path) -> Path:
    """Return the path from which a file of the accepted baselines is read; `name` is MODEL/FILE below
    `root`."""
    return folder_in_force(root, name.parts[0]).joinpath(*name.parts[1:])


def taken_from_ours(root: Path, models: list[str]) -> list[str]:
    """Return those of the models whose baselines are ours."""
    return [model for model in models if folder_in_force(root, model) != root / model]


def adopt(root: Path, model: str) -> None:
    """Copy our baselines of a model into the project, if the project reads ours, before one of them is
    accepted again: afterwards it reads its own only. Raises WriteError."""
    ours, own = folder_in_force(root, model), root / model
    if ours == own:
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=f".{model}.", suffix=PART) as temporary:
            copied = Path(temporary) / model
            copied.mkdir()
            for path in ours.iterdir():
                shutil.copyfile(path, copied / path.name)
            copied.rename(own)
    except OSError as error:
        if not own.is_dir():  # another worker's copy
            raise WriteError(own, error) from error
