"""Corpora that `--mx-datasets` may name, as data: the model's own tokens, data sets of the Hub, our prose,
files.

Standard library only: options are parsed before anything heavy is imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mxcheck.formats.choices import unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCorpus:
    """Tokens sampled from the model that is evaluated; not found by this module."""

    name: str = "self"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubCorpus:
    """A split of a data set on the Hugging Face Hub; `file` is its one file of that split."""

    name: str
    dataset: str
    split: str
    configuration: str | None = None
    file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCorpus:
    """A local file of documents; `builder` is the loader of `datasets` for its suffix."""

    name: str
    path: Path
    builder: str


Corpus = SelfCorpus | HubCorpus | FileCorpus

#: The loader of `datasets` by suffix. A .txt file is one document; the others have a column `text`.
BUILDERS = {".txt": "text", ".jsonl": "json", ".jsonl.zst": "json", ".parquet": "parquet"}

#: Corpora with a name. The pile's file is given because `datasets` 5.2 would otherwise take the folder
#: `train/` in its repository as its only split.
CORPORA: dict[str, Corpus] = {
    corpus.name: corpus
    for corpus in (
        SelfCorpus(),
        HubCorpus(
            name="pile",
            dataset="monology/pile-uncopyrighted",
            split="validation",
            file="val.jsonl.zst",
        ),
        HubCorpus(
            name="wikitext",
            dataset="Salesforce/wikitext",
            split="test",
            configuration="wikitext-2-raw-v1",
        ),
        FileCorpus(
            name="prose",
            path=Path(str(resources.files("mxcheck.evaluation"))) / "prose.txt",
            builder="text",
        ),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusChoice:
    """The corpora to try, in order: each after the first only if those before it cannot be reached."""

    corpora: tuple[Corpus, ...]

    @property
    def label(self) -> str:
        """Label in test ids and file names, such as `pile-or-wikitext`."""
        return "-or-".join(corpus.name for corpus in self.corpora)

    @property
    def is_self(self) -> bool:
        """True if the tokens are the model's own."""
        return isinstance(self.corpora[0], SelfCorpus)


def corpus_choice(names: Sequence[str], root: Path) -> CorpusChoice:
    """Return the corpora with these names of `CORPORA` or paths; relative paths start at `root`.

    Raises ValueError, in one line, for: no name; an unknown name or suffix; a file that does not exist or
    whose name does not fit into a test id; a name given twice; `self` beside others; a corpus that would
    never be read because the one before it is always available.
    """
    if not names:
        raise ValueError(f"no corpus named; allowed: {', '.join(_ALLOWED)}")
    corpora = tuple(CORPORA[name] if name in CORPORA else _file(name, root) for name in names)
    for place, (name, corpus) in enumerate(zip(names, corpora, strict=True)):
        if corpus in corpora[:place]:
            raise ValueError(f"corpus {name!r} is named twice; name each once")
    if len(corpora) > 1 and CORPORA["self"] in corpora:
        raise ValueError(f"corpus 'self' goes with no other, got {', '.join(names)}; name it alone")
    for name, corpus, after in zip(names, corpora, names[1:], strict=False):
        if not isinstance(corpus, HubCorpus):
            raise ValueError(
                f"corpus {after!r} would never be read: it stands in for {name!r}, which can always be had; "
                f"put it first, or name one of the two"
            )
    return CorpusChoice(corpora=corpora)


_ALLOWED = (*CORPORA, f"a path to a file ({', '.join(BUILDERS)})")


def _file(name: str, root: Path) -> FileCorpus:
    path = root / os.path.expanduser(name)  # noqa: PTH111  (unlike this, Path's raises for an unknown user)
    builder = next((builder for suffix, builder in BUILDERS.items() if path.name.endswith(suffix)), None)
    if builder is None:
        if path.is_file() or "/" in name:
            raise ValueError(
                f"corpus file {name!r} has no known suffix; allowed: {', '.join(BUILDERS)}; "
                f"convert or rename it"
            )
        raise unknown("corpus", name, _ALLOWED)
    if not path.is_file():
        raise ValueError(
            f"corpus file {name!r} does not exist; relative paths start at {root}, and {', '.join(CORPORA)} "
            f"go by their names"
        )
    if not re.fullmatch(r"[A-Za-z0-9._-]+", path.name):
        raise ValueError(
            f"corpus file {path.name!r} names tests and baselines, so its name must be of letters, digits, "
            f". _ - only; rename it"
        )
    return FileCorpus(name=path.name, path=path.absolute(), builder=builder)
