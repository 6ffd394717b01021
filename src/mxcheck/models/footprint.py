"""What a model takes, estimated before anything of it is loaded: memory and time. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mxcheck.models.cards import GIB, ITEM_BYTES
from mxcheck.models.refusal import UnfitError, reading, words_of
from mxcheck.models.weight_files import CONFIG, read_header, read_json, stored_tensors
from mxcheck.models.zoo import ModelSource

#: A process with torch and transformers imported, and its working tensors of small models (measured: 0.55 to
#: 0.9 GiB for the reference models with all steps); on a GPU the context and cuBLAS's workspace.
PROCESS_BYTES = GIB
#: The log-probabilities of the reference that are kept, at most, and the float64 chunks beside them.
_KEPT_LOGITS, _CHUNK_BYTES = 2**25, 6 * GIB // 5
#: Multiply-adds a second of a nominal core: only ratios between cases matter. Where a run was before, its own
#: durations stand in their place.
_NOMINAL_SPEED = 2e10
#: Bytes a second that a checkpoint is read and checked at, and what a load takes besides.
_NOMINAL_READING, _LOAD_SECONDS = 2e8, 1.5
#: No model has as many of anything.
_ABSURD = 2**50


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What one model takes.

    Attributes:
        weight_bytes: the weights, as loaded and once more quantized.
        working_bytes: everything beside the weights: it is needed on each device of several.
        case_seconds: a nominal case.
        load_seconds: loading it, and measuring its reference.
    """

    weight_bytes: int
    working_bytes: int
    case_seconds: float
    load_seconds: float

    @property
    def bytes_needed(self) -> int:
        """On one device."""
        return self.weight_bytes + self.working_bytes

    def devices(self, device_bytes: int) -> int:
        """The fewest devices of `device_bytes` that hold a share of the weights each and the working bytes.
        Raises ValueError where the working bytes alone exceed a device."""
        room = device_bytes - self.working_bytes
        if room <= 0:
            raise ValueError(
                f"needs {self.working_bytes / GIB:.1f} GiB beside its weights, got a device of "
                f"{device_bytes / GIB:.1f} GiB; give a smaller --mx-batch-size or --mx-sequence-length"
            )
        return max(1, math.ceil(self.weight_bytes / room))

    def bytes_per_device(self, devices: int) -> int:
        """Needed on each of so many."""
        return math.ceil(self.weight_bytes / devices) + self.working_bytes


def footprint(
    source: ModelSource,
    *,
    dtype: str | None,
    sequences: int,
    length: int | None,
    batch_size: int,
    tokens: Path | None = None,
) -> Footprint | None:
    """An estimate by a model's card, or by the headers of its safetensors files.

    Args:
        source: the model.
        dtype: what it is loaded in; None: the source's.
        sequences, length: how many tokens are measured at most; None: as many as usual.
        batch_size: sequences a forward pass.
        tokens: the file of the model's own text, where it is measured on that.

    Returns None where nothing is known before it is loaded: a hub id that the zoo has no card for.
    """
    item = ITEM_BYTES[dtype or source.dtype]
    card = source.card
    if card is not None:
        parameters, vocabulary, heads = card.parameters, card.vocabulary, card.attention_heads
        length = length or card.sequence_length
        fixed = card.working_bytes(dtype) - _scores_and_logits(
            card.batch_size, card.sequence_length, vocabulary, heads, item
        )
    elif source.is_directory:
        found = _read(Path(source.location))
        if found is None:
            return None  # not complete: loading says so, by name
        parameters, vocabulary, heads, positions = found
        text = _shape_of(source.tokens or tokens)
        length = length or (text[1] if text else min(positions, 2048))
        sequences = min(sequences, text[0]) if text else sequences
        batch_size = min(batch_size, sequences)
        kept = min(_KEPT_LOGITS, sequences * length * vocabulary)
        fixed = PROCESS_BYTES + kept * item + min(_CHUNK_BYTES, 6 * length * vocabulary * 8)
    else:
        return None
    scored = sequences * length
    case_seconds = scored * (parameters + 8 * vocabulary) / _NOMINAL_SPEED
    return Footprint(
        weight_bytes=2 * parameters * item,
        working_bytes=fixed + _scores_and_logits(batch_size, length, vocabulary, heads, item),
        case_seconds=case_seconds,
        load_seconds=_LOAD_SECONDS + parameters * item / _NOMINAL_READING + case_seconds,
    )


def _scores_and_logits(batch: int, length: int, vocabulary: int, heads: int, item: int) -> int:
    """The logits of one pass, and the scores of one layer of attention (product, fp32 softmax, cast)."""
    return batch * length * vocabulary * item + batch * heads * length**2 * (2 * item + 4)


def _read(folder: Path) -> tuple[int, int, int, int] | None:
    """Parameters, vocabulary, attention heads and positions of a model directory; None where they cannot be
    read: whatever is wrong with its files, the loader tells it, of this model alone."""
    try:
        with reading(lambda error: UnfitError(words_of(error))):
            config = read_json(folder / CONFIG)
            stored = stored_tensors(
                [path for path in sorted(folder.glob("*.safetensors")) if _is_model(path)]
            )
    except ValueError:
        return None
    parameters = sum(math.prod(tensor.shape) for tensor in stored)
    text = config.get("text_config", config)
    if not isinstance(text, dict):
        return None
    vocabulary = _number(text, ("vocab_size",), 0)
    heads = _number(text, ("num_attention_heads", "num_heads", "n_head", "n_heads"), 32)
    positions = _number(text, ("max_position_embeddings", "max_seq_len", "n_positions"), 2048)
    # Each token has a row of the embedding.
    if not 0 < vocabulary <= parameters < _ABSURD:
        return None
    return parameters, vocabulary, heads, positions


def _number(config: dict[str, Any], keys: tuple[str, ...], usual: int) -> int:
    """The first of the keys that holds a count that a model can have."""
    for key in keys:
        value = config.get(key)
        if type(value) is int and 0 < value < _ABSURD:
            return value
    return usual


def _is_model(path: Path) -> bool:
    return path.name != "tokens.safetensors"


def _shape_of(tokens: Path | None) -> tuple[int, int] | None:
    """Sequences and tokens in each of a text's file; None where there is none, or none that can be read: who
    measures it says so."""
    if tokens is None or not tokens.is_file():
        return None
    try:
        (text,) = read_header(tokens)
        sequences, length = text.shape
    except (OSError, ValueError):
        return None
    return sequences, length
