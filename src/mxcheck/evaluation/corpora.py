"""Evaluation tokens from text: as many documents as needed, joined and cut into equal blocks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from mxcheck.evaluation.corpus_names import Corpus, CorpusChoice, HubCorpus
from mxcheck.evaluation.documents import UNREACHABLE, in_one_line, open_documents, remedy

__all__ = ["CorpusTokens", "corpus_tokens"]

_SEPARATOR = "\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusTokens:
    """Evaluation tokens and their source.

    `tokens`: int64 [sequences, length], on the CPU. `facts`: for a record, in plain JSON types.
    `fingerprints`: `documents`, the SHA-256 of the documents read, each as UTF-8 after its length in bytes.
    """

    tokens: torch.Tensor
    facts: dict[str, Any]
    fingerprints: dict[str, str]


def corpus_tokens(
    choice: CorpusChoice, tokenizer: PreTrainedTokenizerBase, *, length: int, sequences: int
) -> CorpusTokens:
    """Return up to `sequences` blocks of `length` tokens from the first corpus of `choice` that can be
    reached.

    The convention of the quantization papers: documents are joined by an empty line, encoded as one text, and
    cut into blocks that neither overlap nor are padded; the remainder is dropped. If a tokenizer puts a BOS
    before an encoded text by default, one is put before each block here, as one of its `length` tokens. As
    elsewhere, a special token spelled out in a document is encoded as that token.

    Documents are read in order and only as needed, so `documents` counts those that were read. A text too
    short for `sequences` blocks gives fewer.

    Raises ValueError, in one line: no corpus can be reached (naming what to place where); the text is shorter
    than one block; a file is empty, damaged or has no column `text`. Only an unreachable Hub leads to the
    next corpus of `choice`; the facts then say so under `because`.
    """
    if length < 2 or sequences < 1:
        raise ValueError(
            f"at least 1 sequence of 2 tokens is needed, got {sequences} of {length}; "
            f"mend --mx-max-samples or --mx-sequence-length"
        )
    silent: dict[str, str] = {}
    remedies = []
    for corpus in choice.corpora:
        try:
            made = _from(corpus, tokenizer, length, sequences)
        except UNREACHABLE as error:
            if not isinstance(corpus, HubCorpus):
                raise
            silent[corpus.name] = in_one_line(error)
            remedies.append(remedy(corpus))
            continue
        made.facts["asked"] = [asked.name for asked in choice.corpora]
        if silent:
            made.facts["because"] = silent
        return made
    reasons = ", ".join(f"{name} ({reason})" for name, reason in silent.items())
    raise ValueError(f"out of reach: {reasons}; {'; or '.join(remedies)}; or name a local file or prose")


def _from(corpus: Corpus, tokenizer: PreTrainedTokenizerBase, length: int, sequences: int) -> CorpusTokens:
    bos = _bos(tokenizer)
    wanted = length - len(bos)
    source, documents = open_documents(corpus)
    read, ids = _read(documents, tokenizer, wanted * sequences)
    count = min(len(ids) // wanted, sequences)
    if count == 0:
        raise ValueError(
            f"corpus {corpus.name!r} has {len(ids)} tokens, too few for one block of {wanted}"
            f"{' after its BOS' if bos else ''}; give more text or a smaller --mx-sequence-length"
        )
    blocks = torch.tensor(ids[: count * wanted], dtype=torch.int64).view(count, wanted)
    return CorpusTokens(
        tokens=torch.cat([torch.tensor(bos, dtype=torch.int64).expand(count, -1), blocks], dim=1),
        facts={
            "used": corpus.name,
            **source,
            "documents": len(read),
            "joined_by": _SEPARATOR,
            "block_length": length,
            "bos_token_id": bos[0] if bos else None,
        },
        fingerprints={"documents": _digest(read)},
    )


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the BOS id that the tokenizer adds to a text by default, as a list of one; else an empty
    list."""
    first = list(tokenizer("a")["input_ids"])[:1]
    return first if first == [tokenizer.bos_token_id] else []


def _read(
    documents: Iterator[str], tokenizer: PreTrainedTokenizerBase, needed: int
) -> tuple[list[str], list[int]]:
    """Read documents until they give at least `needed` tokens, or all; return them and the tokens of their
    joined text.

    The number of tokens of a joined text is known only after encoding it, so documents are first counted one
    by one; if that overcounts, more are read and all is encoded again.
    """
    read: list[str] = []
    ids: list[int] = []
    while len(ids) < needed:
        own = len(ids)
        before = len(read)
        for document in documents:
            read.append(document)
            own += len(_encode(tokenizer, document + _SEPARATOR))
            if own >= needed:
                break
        if len(read) == before:
            break
        ids = _encode(tokenizer, _SEPARATOR.join(read))
    return read, ids


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    # verbose=False: a corpus is longer than the model's positions but is cut next, so no warning is due.
    encoded = tokenizer(text, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return list(encoded["input_ids"])


def _digest(documents: list[str]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        content = document.encode()
        digest.update(f"{len(content)}:".encode() + content)
    return digest.hexdigest()
