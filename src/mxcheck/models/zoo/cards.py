"""Model cards: facts about a zoo model that are known before loading. Torch-free."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import get_type_hints

from mxcheck.files.plain_data import toml_data
from mxcheck.files.printed import got
from mxcheck.formats.choices import choose, unknown

#: Loadable dtypes, with bytes for each element.
ITEM_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}

GIB = 2**30

#: Memory for tensors on a device of 80 GB.
DEVICE_BYTES = 72 * GIB

#: Memory that a device reserves, plus the chunks for cross-entropy and KL (under 1.2 GiB).
_FIXED_BYTES = 2 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One model of the zoo. Memory is an estimate from the number of parameters and is never stored."""

    name: str
    #: `organisation/model` on the Hugging Face hub, and the commit or branch to load.
    hub_id: str
    revision: str = "main"
    #: The transformers class.
    architecture: str
    #: The checkpoint's dtype, in which the model is loaded.
    dtype: str
    #: Counted once where embeddings are tied.
    parameters: int
    vocabulary: int
    attention_heads: int
    #: Sequences in a batch, and tokens in each.
    batch_size: int
    sequence_length: int
    #: Whether the hub requires an account that has accepted the licence.
    gated: bool = False
    #: Whether the hub's repository holds safetensors files: nothing else is loaded.
    safetensors: bool = True
    notes: str = ""

    def weight_bytes(self, dtype: str | None = None) -> int:
        """Return the bytes of the weights in `dtype` (None: the checkpoint's)."""
        return self.parameters * _item_bytes(dtype or self.dtype)

    def working_bytes(self, dtype: str | None = None) -> int:
        """Return the bytes needed besides the weights: the logits of one batch, the scores of one layer of
        eager attention (product, fp32 softmax, cast back) and a fixed allowance of 2 GiB."""
        item = _item_bytes(dtype or self.dtype)
        logits = self.batch_size * self.sequence_length * self.vocabulary * item
        scores = self.batch_size * self.attention_heads * self.sequence_length**2 * (2 * item + 4)
        return logits + scores + _FIXED_BYTES

    def bytes_needed(self, dtype: str | None = None) -> int:
        """Return the bytes needed to measure the model on one device: conversion in place holds the original
        weights and at worst a quantized copy of each."""
        return 2 * self.weight_bytes(dtype) + self.working_bytes(dtype)

    def devices(self, dtype: str | None = None, *, device_bytes: int = DEVICE_BYTES) -> int:
        """Return the fewest devices of `device_bytes` that hold their share of the weights and the working
        bytes. Raises ValueError where the working bytes alone exceed a device."""
        room = device_bytes - self.working_bytes(dtype)
        if room <= 0:
            raise ValueError(
                f"{self.name} needs {self.working_bytes(dtype) / GIB:.1f} GiB beside its weights, "
                f"got a device of {device_bytes / GIB:.1f} GiB; give a smaller batch or shorter sequences"
            )
        return math.ceil(2 * self.weight_bytes(dtype) / room)

    def bytes_per_device(self, dtype: str | None = None, *, device_bytes: int = DEVICE_BYTES) -> int:
        """Return the bytes needed on each of `devices(...)`, with the weights spread evenly."""
        share = math.ceil(2 * self.weight_bytes(dtype) / self.devices(dtype, device_bytes=device_bytes))
        return share + self.working_bytes(dtype)


def _item_bytes(dtype: str) -> int:
    return ITEM_BYTES[choose("dtype", dtype, ITEM_BYTES)]


def read_cards(text: str) -> dict[str, ModelCard]:
    """Parse the cards of a TOML text, one table for each model. Raises ValueError for an unknown or missing
    key and for a value of another type."""
    hints = get_type_hints(ModelCard)
    fields = {field.name: field for field in dataclasses.fields(ModelCard) if field.name != "name"}
    cards = {}
    for name, entry in toml_data(text).items():
        where = f"model card {got(name)}"
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: must be a table, got {got(entry)}")
        for key, value in entry.items():
            if key not in fields:
                raise ValueError(f"{where}: {unknown('key', key, fields)}")
            if type(value) is not hints[key] or (hints[key] is int and value <= 0):
                kind = "a positive integer" if hints[key] is int else hints[key].__name__
                raise ValueError(f"{where}: {key} must be {kind}, got {got(value)}")
        missing = [key for key in fields if key not in entry and fields[key].default is dataclasses.MISSING]
        if missing:
            raise ValueError(f"{where}: {', '.join(missing)} missing")
        if entry["dtype"] not in ITEM_BYTES:
            raise ValueError(f"{where}: {unknown('dtype', entry['dtype'], ITEM_BYTES)}")
        cards[name] = ModelCard(name=name, **entry)
    return cards


class _Cards(Mapping[str, ModelCard]):
    """zoo.toml, read at the first access."""

    @cached_property
    def _table(self) -> dict[str, ModelCard]:
        return read_cards(
            resources.files("mxcheck.models.zoo").joinpath("zoo.toml").read_text(encoding="utf-8")
        )

    def __getitem__(self, name: str) -> ModelCard:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


#: The cards by name.
CARDS: Mapping[str, ModelCard] = _Cards()
