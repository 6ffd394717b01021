"""Which models there are and where they lie. Torch-free."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from mxcheck.formats.choices import unknown
from mxcheck.models.cards import CARDS, ModelCard
from mxcheck.models.refusal import refused


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedText:
    """Text that a model is measured on in place of tokens of its own: the start of a corpus, by the model's
    tokenizer, in so many sequences of so many tokens."""

    corpus: str
    sequences: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reference:
    """An embedded model.

    Attributes:
        weights: the one whose files it is made from; empty: its own.
        outliers: activation outliers are built in. It computes what it did: its text is the other model's.
        positions, rope_theta: in place of the configuration's. A larger base turns slower, so that 1,024
            positions stay within the angles that training on 256 has seen (reference/README.md).
        dtype: that it is loaded in.
        text: that it is measured on in place of tokens of its own.
        anew: each case loads it again, as a process does that comes back to a model.
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
#: Files that are taken for models.
_FILE_KINDS = {
    ".gguf": "a GGUF file, whose weights are quantized or converted",
    ".safetensors": "a safetensors file, which is not the whole model",
    ".bin": "a pickle, which may execute code and is never loaded",
    ".pt": "a pickle, which may execute code and is never loaded",
    ".pth": "a pickle, which may execute code and is never loaded",
}
#: Models that a make target writes, and where to: relative to the directory in which mxcheck runs.
MADE_MODELS = {"smollm2-135m-instruct-q4": "make real-model"}
MADE = Path("build/real-model")

#: What git allows as a name of a branch or tag, as far as it is used; commits too.
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a model comes from: a directory or a hub id at a revision, the dtype it is loaded in, its card if
    it is one of the zoo, whether activation outliers are built in, and the positions and the rotary base that
    it has in place of its configuration's.

    `tokens` is the file of its own text where it does not lie with the baselines, `text` what it is measured
    on instead, and `anew` whether each case loads it again.
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
    """Resolve a name of the zoo, a directory, or a hub id `organisation/model`, in this order: a bare name of
    the zoo is the zoo's even where a directory is called so, and `./name` is the directory.

    A hub id that the zoo has a card for is loaded as the card says: revision and dtype. `organisation/model@
    revision` pins any hub id to a branch, a tag or a commit. Raises ValueError, in one line, for a directory
    that does not exist, for what cannot be a revision, and for a name that is none of these.
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
    folder = Path(str(resources.files("mxcheck.models"))) / "reference"
    weights = folder / (kind.weights or name)
    own = (weights if kind.outliers else folder / name) / "tokens.safetensors"
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
    """The labels that somebody may have written bounds for: of our models, of the cards, of every folder of
    accepted baselines, and `more`."""
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
