"""Check the tokens that `corpus_tokens` makes of a few short documents."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mxcheck.evaluation.corpora import corpus_tokens
from mxcheck.evaluation.corpus_names import corpus_choice

#: Token ids: BOS is 0, a line's end 1, then the letters.
_LETTERS = "abcdefgh"
_DOCUMENTS = ("ab", "cde", "fgh")
#: Joined by an empty line, the documents are twelve tokens; `fgh` is the last block of three.
_BLOCKS = [[2, 3, 1], [1, 4, 5], [6, 1, 1], [7, 8, 9]]


def tokenized() -> Iterator[tuple[str, str]]:
    """Yield the texts that become other tokens: which, and what is wrong."""
    with tempfile.TemporaryDirectory(prefix="mxcheck-smoke-check-") as folder:
        path = Path(folder) / "text.jsonl"
        path.write_text("".join(f"{json.dumps({'text': one})}\n" for one in _DOCUMENTS), encoding="utf-8")
        for what, bos, length, sequences, expected in (
            ("a text with BOS", True, 4, 9, [[0, *block] for block in _BLOCKS]),
            ("a text without BOS", False, 3, 9, _BLOCKS),
            ("the first two blocks of a text", True, 4, 2, [[0, *block] for block in _BLOCKS[:2]]),
            ("a text whose end fills no block", False, 5, 9, [[2, 3, 1, 1, 4], [5, 6, 1, 1, 7]]),
        ):
            choice = corpus_choice([str(path)], Path(folder))
            made = corpus_tokens(choice, _tokenizer(bos=bos), length=length, sequences=sequences)
            read = _DOCUMENTS[:2] if sequences == 2 else _DOCUMENTS
            facts = (len(read), length, 0 if bos else None)
            found = tuple(made.facts[name] for name in ("documents", "block_length", "bos_token_id"))
            if (tokens := made.tokens.tolist()) != expected:
                yield what, f"expected {expected}, got {tokens}"
            if found != facts:
                yield what, f"expected documents, length and BOS {facts}, got {found}"
            if made.fingerprints != {"documents": _digest(read)}:
                yield what, f"expected the fingerprint of {read}"


def _tokenizer(*, bos: bool) -> Any:
    """Return a tokenizer with a token per letter, which puts a BOS before a text by default, or not."""
    vocabulary = {word: index for index, word in enumerate(["<s>", "\n", *_LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")  # noqa: S106  (no password)


def _digest(documents: tuple[str, ...]) -> str:
    return sha256("".join(f"{len(one)}:{one}" for one in documents).encode()).hexdigest()
