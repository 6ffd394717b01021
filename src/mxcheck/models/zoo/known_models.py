"""The known models and the locations of their files. Torch-free."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from mxcheck.formats.choices import unknown
from mxcheck.models.zoo.cards import CARDS, ModelCard
from mxcheck.models.zoo.refusal import refused
from mxcheck.models.zoo.weight_files import TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedText:
    """Text for a model without tokens of its own: the start of a corpus, encoded by the model's tokenizer, in
    this many sequences of this many tokens."""

    corpus: str
    sequences: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reference:
    """An embedded model.

    Attributes:
        weights: the model whose files it uses; empty: its own.
        outliers: insert activation outliers. The function is unchanged, so its text is the other model's.
        positions, rope_theta: replace the configuration's. A larger base rotates slower, so that 1,024
            positions stay within the angles that training on 256 has seen (reference/README.md).
        dtype: dtype in which it is loaded.
        text: measured text, in place of tokens of its own.
        anew: reload it for each case, as a process does that returns to a model.
    """

    weights: str = ""
    outliers: bool = False
    positions: int | None = None
    rope_theta: float | None = None
    dtype: str = "float32"
    text: EncodedText | None = None
    anew: bool = False


_REFERENCES = {
    "ref-llama": _Reference(),
    "ref-neo": _Reference(),
    "ref-moe": _Reference(),
    "outlier-llama": _Reference(weights="ref-llama", outliers=True),
    "long-llama": _Reference(weights="ref-llama", positions=1024, rope_theta=150_000.0),
    "short-moe": _Reference(weights="ref-moe"),
    "bf16-llama": _Reference(
        weights="ref-llama",
        dtype="bfloat16",
        text=EncodedText(corpus="prose", sequences=8, length=90),
    ),
    "wide-gpt2": _Reference(anew=True),
}
#: The embedded reference models.
REFERENCE_MODELS = tuple(_REFERENCES)
#: Files that users pass for models, and why each is refused.
_FILE_KINDS = {
    ".gguf": "a GGUF file, whose weights are quantized or converted",
    ".safetensors": "a safetensors file, which is not the whole model",
    ".bin": "a pickle, which may execute code and is never loaded",
    ".pt": "a pickle, which may execute code and is never loaded",
    ".pth": "a pickle, which may execute code and is never loaded",
}
#: Models that a make target writes, and their paths relative to the directory in which mxcheck runs.
MADE_MODELS = {"smollm2-135m-instruct-q4": "make real-model"}
MADE = Path("build/real-model")

#: Names of branches, tags and commits that are accepted, a subset of git's.
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """The source of a model: a directory or a hub id at a revision, the dtype in which it is loaded, its card
    if the zoo has one, whether activation outliers are inserted, and the positions and the rotary base that
    replace its configuration's.

    `tokens` is the file of its own text where it is not beside the baselines, `text` the text measured
    instead, and `anew` whether each case reloads it.
    """

    name: str
    location: str
    is_directory: bool
    revision: str = "main"
    dtype: str = "float32"
    card: ModelCard | None = None
    outliers: bool = False
    positions: int | None = None
    rope_theta: float | None = None
    tokens: Path | None = None
    text: EncodedText | None = None
    anew: bool = False


def model_source(name: str) -> ModelSource:
    """Resolve a name of the zoo, a directory, or a hub id `organisation/model`, in this order: a bare zoo
    name refers to the zoo even where a directory has that name, and `./name` is the directory.

    A hub id with a card in the zoo is loaded with the card's revision and dtype. `organisation/model@
    revision` pins any hub id to a branch, a tag or a commit. Raises ValueError, in one line, for a missing
    directory, for an invalid revision, and for a name that is none of these.
    """
    if name in REFERENCE_MODELS:
        return _embedded(name, _REFERENCES[name])
    if name in MADE_MODELS:
        return _made(name)
    if name in CARDS:
        return _of_card(name, CARDS[name])
    path = Path(os.path.expanduser(name))  # noqa: PTH111  (Path's raises for an unknown user, this does not)
    try:
        is_directory, is_file = name != "" and path.is_dir(), path.is_file()
    except OSError as error:
        raise refused(name, f"cannot be looked for: {error.strerror}; give a directory") from error
    if is_directory:
        return ModelSource(name=name, location=str(path), is_directory=True)
    if is_file:
        kind = next((kind for suffix, kind in _FILE_KINDS.items() if name.endswith(suffix)), "a file")
        raise refused(
            name, f"{kind}; give the directory of the original model, with config.json and safetensors"
        )
    if name.startswith((".", "/", "~")):
        raise ValueError(
            f"model directory {name!r} does not exist; give a directory with config.json and *.safetensors"
        )
    hub_id, at, revision = name.partition("@")
    if hub_id.count("/") == 1 and all(hub_id.split("/")):
        if at and not _REVISION.fullmatch(revision):
            raise ValueError(
                f"model {name!r}: {revision!r} cannot be a revision of the hub: a branch, a tag or a commit, "
                f"of letters, digits, '.', '_', '-' and '/'; write {hub_id}@REVISION"
            )
        cards = [card for card in CARDS.values() if card.hub_id == hub_id]
        source = (
            _of_card(name, cards[0]) if cards else ModelSource(name=name, location=hub_id, is_directory=False)
        )
        return replace(source, revision=revision) if at else source
    known = [*REFERENCE_MODELS, *MADE_MODELS, *CARDS]
    raise unknown("model", name, [*known, "a directory", "a hub id organisation/model"])


def _embedded(name: str, kind: _Reference) -> ModelSource:
    folder = Path(str(resources.files("mxcheck.models.zoo"))) / "reference"
    weights = folder / (kind.weights or name)
    own = (weights if kind.outliers else folder / name) / TOKENS
    return ModelSource(
        name=name,
        location=str(weights),
        is_directory=True,
        dtype=kind.dtype,
        outliers=kind.outliers,
        positions=kind.positions,
        rope_theta=kind.rope_theta,
        tokens=None if kind.text else own,
        text=kind.text,
        anew=kind.anew,
    )


def known_labels(baselines: Path, more: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the labels for which bounds may exist: of our models, of the cards, of every folder of accepted
    baselines, and `more`."""
    accepted = [path.name for path in baselines.glob("*/") if path.is_dir()]
    return tuple(sorted({*REFERENCE_MODELS, *MADE_MODELS, *CARDS, *accepted, *more}))


def _made(name: str) -> ModelSource:
    folder = MADE / name
    if not folder.is_dir():
        raise ValueError(
            f"model {name!r} is not in {folder}: `{MADE_MODELS[name]}` in a clone of mxcheck makes it there, "
            f"in that clone; from elsewhere give {name}=CLONE/{folder}"
        )
    return ModelSource(name=name, location=str(folder), is_directory=True)


def _of_card(name: str, card: ModelCard) -> ModelSource:
    return ModelSource(
        name=name,
        location=card.hub_id,
        is_directory=False,
        revision=card.revision,
        dtype=card.dtype,
        card=card,
    )
