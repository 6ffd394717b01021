"""A Hugging Face hub cache as huggingface_hub lays it out, holding tiny random models under the zoo's ids.

hub/models--<organisation>--<model>/
    refs/main            the commit that a branch points at; none for a model pinned to a commit
    blobs/<etag>         the contents: SHA-256 of large files, git's SHA-1 of the others
    snapshots/<commit>/  one symbolic link a file
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from mxcheck.models.zoo.cards import CARDS, ModelCard
from mxcheck.models.zoo.known_models import model_source

#: Of a branch: any commit will do.
MAIN = hashlib.sha1(b"main", usedforsecurity=False).hexdigest()

#: A vocabulary of 1024, which fits every one of the tiny models.
TOKENIZER_OF = "ref-neo"

#: Files that git keeps as large ones.
_LARGE = (".safetensors", ".bin")


def _gpt_neo() -> PreTrainedModel:
    config = GPTNeoConfig(
        vocab_size=1024,
        hidden_size=64,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=2,
        max_position_embeddings=512,
        window_size=64,
        initializer_range=0.05,
        bos_token_id=0,
        eos_token_id=1,
    )
    return GPTNeoForCausalLM(config)


def _llama() -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.05,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


TINY: Mapping[str, Callable[[], PreTrainedModel]] = {
    "GPTNeoForCausalLM": _gpt_neo,
    "LlamaForCausalLM": _llama,
}


def save_tiny(
    folder: Path, card: ModelCard, *, pickled: bool = False, max_shard_size: str = "1GB"
) -> PreTrainedModel:
    """Save a random model of the card's architecture and dtype, with a tokenizer: the same one every time."""
    torch.manual_seed(0)
    model = TINY[card.architecture]()
    model.to(getattr(torch, card.dtype)).eval()  # in place
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    if pickled:
        for file in folder.glob("*.safetensors"):
            file.unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    for file in Path(model_source(TOKENIZER_OF).location).glob("tokenizer*.json"):
        shutil.copy(file, folder)
    return model


def place(home: Path, hub_id: str, revision: str, folder: Path) -> Path:
    """Put the files of `folder` into the cache under `home` (HF_HOME). Returns the snapshot."""
    pinned = len(revision) == 40
    repository = home / "hub" / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / (revision if pinned else MAIN)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir(exist_ok=True)
    if not pinned:
        (repository / "refs").mkdir()
        (repository / "refs" / revision).write_text(MAIN)
    for file in sorted(folder.iterdir()):
        blob = repository / "blobs" / _etag(file)
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def place_tiny(home: Path, name: str, *, pickled: bool = False, max_shard_size: str = "1GB") -> Path:
    """Put a tiny random model into the cache under `home` (HF_HOME) as the zoo's `name`, at the revision that
    its card asks for. Returns the snapshot."""
    card = CARDS[name]
    with tempfile.TemporaryDirectory() as folder:
        save_tiny(Path(folder), card, pickled=pickled, max_shard_size=max_shard_size)
        return place(home, card.hub_id, card.revision, Path(folder))


def environment(home: Path) -> dict[str, str]:
    """The environment of a process that sees this cache alone, and no hub."""
    others = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_MODULES_CACHE", "HF_TOKEN", "HF_ENDPOINT")
    kept = {key: value for key, value in os.environ.items() if key not in others}
    return {**kept, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def _etag(file: Path) -> str:
    data = file.read_bytes()
    if file.suffix in _LARGE:
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
