"""Which models there are and where they lie. Torch-free."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mxcheck.formats.choices import unknown

#: The embedded reference models, by directory; an outlier model is made from another one's weights.
REFERENCE_MODELS = ("ref-llama", "ref-neo", "ref-moe", "outlier-llama")
_WEIGHTS_OF = {"outlier-llama": "ref-llama"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model comes from: a directory or a hub id, and whether activation outliers are built in."""

    name: str
    location: str
    is_directory: bool
    outliers: bool = False
    tokens: Path | None = None


def model_source(name: str) -> ModelSource:
    """Resolve a name of the zoo, a directory, or a hub id `organisation/model`.

    Raises ValueError, in one line, for a directory that does not exist and for a name that is none of these.
    """
    if name in REFERENCE_MODELS:
        folder = Path(str(resources.files("mxcheck.models"))) / "reference" / _WEIGHTS_OF.get(name, name)
        return ModelSource(
            name=name,
            location=str(folder),
            is_directory=True,
            outliers=name in _WEIGHTS_OF,
            tokens=folder / "tokens.safetensors",
        )
    path = Path(os.path.expanduser(name))  # noqa: PTH111  (Path's raises for an unknown user, this does not)
    if name and path.is_dir():
        return ModelSource(name=name, location=str(path), is_directory=True)
    if name.startswith((".", "/", "~")):
        raise ValueError(
            f"model directory {name!r} does not exist; give a directory with config.json and *.safetensors"
        )
    if name.count("/") == 1 and all(name.split("/")):
        return ModelSource(name=name, location=name, is_directory=False)
    raise unknown("model", name, [*REFERENCE_MODELS, "a directory", "a hub id organisation/model"])
