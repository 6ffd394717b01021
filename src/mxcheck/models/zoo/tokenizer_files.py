"""The fingerprint of a model's tokenizer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mxcheck.models.zoo.checkpoint import hub_file, unloadable
from mxcheck.models.zoo.known_models import ModelSource
from mxcheck.models.zoo.refusal import UnfitError, reading
from mxcheck.models.zoo.weight_files import read_json

#: Files that determine the token ids of a text, in this order.
_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"),
    *("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.tiktoken", "tiktoken.model"),
    *("added_tokens.json", "special_tokens_map.json"),
)
_CONFIG = "tokenizer_config.json"
#: Keys of the tokenizer's configuration that determine them too. Every version of transformers rewrites the
#: rest of that file (the class's name, the longest length, a chat template) without changing an id.
_KEYS = (
    *("add_bos_token", "add_eos_token", "add_prefix_space", "added_tokens_decoder", "do_lower_case"),
    *("additional_special_tokens", "extra_special_tokens", "legacy", "split_special_tokens"),
    *("strip_accents", "tokenize_chinese_chars"),
)


def tokenizer_fingerprint(source: ModelSource) -> str:
    """Return the SHA-256 of every file that determines a text's token ids: the vocabulary and merges in each
    form, added tokens, special tokens, and the related keys of the tokenizer's configuration.

    A single-file tokenizer without any of these keys has the hash of that file alone.
    """
    total = hashlib.sha256()
    found = False
    with reading(lambda error: unloadable(source, error)):
        for name in _FILES:
            path = _file(source, name)
            if path is not None:
                data = path.read_bytes()
                total.update(json.dumps([name, len(data)]).encode())
                total.update(data)
                found = True
        config = _file(source, _CONFIG)
        if config is not None and (said := _said(read_json(config))):
            total.update(json.dumps([_CONFIG, said], sort_keys=True).encode())
    return total.hexdigest() if found else "no tokenizer"


def _said(config: dict[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in _KEYS if config.get(key) not in (None, [], {})}


def _file(source: ModelSource, name: str) -> Path | None:
    if not source.is_directory:
        return hub_file(source, name)
    path = Path(source.location) / name
    if path.is_symlink() and not path.exists():
        raise UnfitError(f"{name} is a dangling link to {path.readlink()}; copy the file that it leads to")
    return path if path.is_file() else None
