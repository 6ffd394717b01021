"""The baselines that come with mxcheck: those of its reference models. They are read, and never written.

A wheel has them as data of the package. In a source tree they are the folder of accepted baselines itself.
Models are told by their label: of another model that bears one of these, every record says that its weights
are others.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from mxcheck.files.write import PART, WriteError

#: The models that have some.
SHIPPED = (
    *("ref-llama", "ref-neo", "ref-moe", "outlier-llama", "long-llama"),
    *("short-moe", "bf16-llama", "wide-gpt2"),
)


@cache
def shipped() -> Path | None:
    """The folder of those baselines; None where there is none."""
    package = Path(__file__).parent.parent
    tree = package.parent.parent if package.parent.name == "src" else package
    return next((folder for folder in (package / "baselines", tree / "baselines") if folder.is_dir()), None)


def folder_in_force(root: Path, model: str) -> Path:
    """Where the accepted baselines of a model are read: all from the project's folder below `root` where it
    has one, else from ours where there is one, else where the project's would be."""
    own, ours = root / model, shipped()
    if own.exists() or own.is_symlink() or ours is None or model not in SHIPPED:
        return own
    return ours / model if (ours / model).is_dir() else own


def in_force(root: Path, name: Path) -> Path:
    """Where a file of the accepted baselines is read, by its name below `root`: MODEL/FILE."""
    return folder_in_force(root, name.parts[0]).joinpath(*name.parts[1:])


def taken_from_ours(root: Path, models: list[str]) -> list[str]:
    """Those of the models whose baselines are ours."""
    return [model for model in models if folder_in_force(root, model) != root / model]


def adopt(root: Path, model: str) -> None:
    """Give the project a copy of our baselines of a model, where they are what it reads, before anything of
    them is accepted anew: from then on it has its own alone. Raises WriteError."""
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
