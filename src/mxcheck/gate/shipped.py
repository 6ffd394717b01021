"""The baselines that come with mxcheck: those of its reference models. They are read, and never written.

A wheel has them as data of the package. In a source tree they are the folder of accepted baselines itself.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

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


def in_force(root: Path, name: Path) -> Path:
    """Where a file of the accepted baselines is read, by its name below `root`: the project's own where there
    is one, else ours where there is one, else where the project's would be."""
    own, ours = root / name, shipped()
    if own.exists() or own.is_symlink() or ours is None or name.parts[0] not in SHIPPED:
        return own
    return ours / name if (ours / name).is_file() else own


def taken_from_ours(root: Path, models: list[str]) -> list[str]:
    """Those of the models that have no folder below `root`, and baselines of ours."""
    ours = shipped()
    return [
        model
        for model in models
        if ours is not None and model in SHIPPED and not (root / model).exists() and (ours / model).is_dir()
    ]
