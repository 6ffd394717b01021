"""Estimate a model's memory and time before anything of it is loaded. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mxcheck.models.zoo.cards import GIB, ITEM_BYTES
from mxcheck.models.zoo.known_models import ModelSource
from mxcheck.models.zoo.refusal import UnfitError, reading, refused, words_of
from mxcheck.models.zoo.weight_files import CONFIG, TOKENS, read_header, read_json, stored_tensors

#: Memory of a process with torch, transformers and the ladder's libraries, plus what the allocator keeps of
#: earlier models: a worker has several. (Measured, including models of a few MiB: 0.48 to 0.59 GiB for the
#: first case, 0.55 to 0.57 for a case of each of four reference models.)
PROCESS_BYTES = GIB * 65 // 100
#: Size of a model and of its largest quantized weight with the temporaries of its cast, over the model's.
LEAN = 1.15
#: Maximum size of the logits of all tokens that are kept whole. Larger ones are computed in chunks, and the
#: decoder's output is kept instead, at most this many bytes (`evaluation.logits`).
_KEPT_LOGITS, _CHUNK_LOGITS, _KEPT_BYTES = 2**25, 2**23, GIB
#: Rows of logits that are processed together: the model's, the reference's, and the product they come from.
#: Their float64 copies, a tile at a time, are small beside them.
_COPIES = 3
#: Multiply-adds per second of a nominal core: only ratios between cases matter. Durations of an earlier run
#: replace the estimates.
_NOMINAL_SPEED = 2e10
#: Fixed cost of a case with any text: its probe, digests and layers.
_CASE_SECONDS = 0.3
#: Bytes per second for reading and checking a checkpoint, and the fixed cost of a load.
_NOMINAL_READING, _LOAD_SECONDS = 2e8, 1.5
#: Larger than any count in a model.
_ABSURD = 2**50


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Estimated resources of one model.

    Attributes:
        weight_bytes: the weights, as loaded plus a quantized copy of each where it is kept.
        least_weight_bytes: the weights where no copy need be kept, by `--mx-memory=auto`; 0: as weight_bytes.
        working_bytes: everything besides the weights, needed on each of several devices.
        case_seconds: time of a nominal case.
        load_seconds: time to load it and measure its reference.
        guessed: why the estimate uses the sizes of its files only; empty where it does not.
    """

    weight_bytes: int
    working_bytes: int
    case_seconds: float
    load_seconds: float
    guessed: str = ""
    least_weight_bytes: int = 0

    def fitted(self, device_bytes: int, *, several: bool) -> Footprint:
        """Return it without a kept copy where that needs fewer devices of `device_bytes`, of which there are
        `several`, or where one does not hold it with the copy."""
        least = replace(self, weight_bytes=self.least_weight_bytes or self.weight_bytes)
        if several and self.working_bytes < device_bytes:
            return least if least.devices(device_bytes) < self.devices(device_bytes) else self
        return self if self.bytes_needed <= device_bytes else least

    @property
    def bytes_needed(self) -> int:
        """Bytes on one device."""
        return self.weight_bytes + self.working_bytes

    def devices(self, device_bytes: int) -> int:
        """Return the fewest devices of `device_bytes` that hold a share of the weights each and the working
        bytes. Raises ValueError where the working bytes alone exceed a device."""
        room = device_bytes - self.working_bytes
        if room <= 0:
            raise ValueError(
                f"needs {self.working_bytes / GIB:.1f} GiB beside its weights, got a device of "
                f"{device_bytes / GIB:.1f} GiB; give a smaller --mx-batch-size or --mx-sequence-length"
            )
        return max(1, math.ceil(self.weight_bytes / room))

    def bytes_per_device(self, devices: int) -> int:
        """Return the bytes needed on each of this many devices."""
        return math.ceil(self.weight_bytes / devices) + self.working_bytes


def footprint(
    source: ModelSource,
    *,
    dtype: str | None,
    sequences: int,
    length: int | None,
    batch_size: int,
    text: tuple[int, int] | None = None,
    reference_cache: int = 0,
    memory: str = "kept",
) -> Footprint | None:
    """Estimate from a model's card, or from the headers of its safetensors files; where these cannot be read,
    from the sizes of its files.

    Args:
        source: the model.
        dtype: the dtype of loading; None: the source's.
        sequences, length: maximum numbers of measured sequences and tokens in each; None: the usual.
        batch_size: sequences in a forward pass.
        text: sequences, and tokens in each, of the measured text, if known.
        reference_cache: most bytes of the reference's logits that are kept of a large vocabulary.
        memory: `kept`, `lean` or `auto`.

    Returns None where nothing is known before loading: a hub id without a card.
    """
    item = ITEM_BYTES[dtype or source.dtype]
    if text is not None:
        sequences, length = min(sequences, text[0]), min(length or text[1], text[1])
    batch_size = min(batch_size, sequences)
    card, guessed = source.card, ""
    if card is not None:
        parameters, vocabulary = card.parameters, card.vocabulary
        length = length or card.sequence_length
        fixed = card.working_bytes(dtype) - _scores_and_logits(
            card.batch_size, card.sequence_length, vocabulary, card.attention_heads, item
        )
        working = fixed + _scores_and_logits(batch_size, length, vocabulary, card.attention_heads, item)
    elif source.is_directory:
        try:
            with reading(lambda error: UnfitError(words_of(error))):
                shape = _read(Path(source.location))
        except UnfitError as error:  # the loader reports it too, for this model alone
            shape, guessed = _by_sizes(Path(source.location)), str(refused(source.name, str(error)))
        parameters, vocabulary = shape.parameters, shape.vocabulary
        length = length or min(shape.positions, 2048)
        working = PROCESS_BYTES + _working(shape, sequences, length, batch_size, item)
    else:
        return None
    lean = math.ceil(LEAN * parameters * item)
    scored = sequences * length
    if scored * vocabulary > _KEPT_LOGITS:
        working += min(reference_cache, scored * vocabulary * item)
    case_seconds = _CASE_SECONDS + scored * (parameters + 8 * vocabulary) / _NOMINAL_SPEED
    return Footprint(
        weight_bytes=lean if memory == "lean" else 2 * parameters * item,
        least_weight_bytes=lean if memory == "auto" else 0,
        working_bytes=working,
        case_seconds=case_seconds,
        load_seconds=_LOAD_SECONDS + parameters * item / _NOMINAL_READING + case_seconds,
        guessed=guessed,
    )


def _scores_and_logits(batch: int, length: int, vocabulary: int, heads: int, item: int) -> int:
    """Return the bytes of one pass's logits, and of one layer's attention scores (product, fp32 softmax,
    cast)."""
    return batch * length * vocabulary * item + batch * heads * length**2 * (2 * item + 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    parameters: int
    vocabulary: int
    heads: int
    positions: int
    hidden: int


def _working(shape: _Shape, sequences: int, length: int, batch: int, item: int) -> int:
    """Return the bytes besides the weights and the process: scores, the logits or states of the reference,
    and the logits that are processed together."""
    whole = sequences * length * shape.vocabulary
    if whole <= _KEPT_LOGITS:
        kept, together = whole * item, batch * length * shape.vocabulary
    else:
        kept, together = min(_KEPT_BYTES, sequences * length * shape.hidden * item), _CHUNK_LOGITS
    looked_at = min(length * shape.vocabulary, _CHUNK_LOGITS) * _COPIES * item
    return kept + looked_at + together * item + batch * shape.heads * length**2 * (2 * item + 4)


def _read(folder: Path) -> _Shape:
    """Read the shape of a model directory. Raises UnfitError where it cannot be determined."""
    config = read_json(folder / CONFIG)
    stored = stored_tensors([path for path in sorted(folder.glob("*.safetensors")) if _is_model(path)])
    parameters = sum(math.prod(tensor.shape) for tensor in stored)
    text = config.get("text_config", config)
    if not isinstance(text, dict):
        raise UnfitError(f"text_config of {CONFIG} is no object")
    vocabulary = _number(text, ("vocab_size",), 0)
    # Each token has a row of the embedding.
    if not 0 < vocabulary <= parameters < _ABSURD:
        raise UnfitError(f"{CONFIG} and the weights name {vocabulary} tokens and {parameters} parameters")
    return _Shape(
        parameters=parameters,
        vocabulary=vocabulary,
        heads=_number(text, ("num_attention_heads", "num_heads", "n_head", "n_heads"), 32),
        positions=_number(text, ("max_position_embeddings", "max_seq_len", "n_positions"), 2048),
        hidden=min(_number(text, ("hidden_size", "n_embd", "d_model"), 4096), parameters // vocabulary),
    )


def _by_sizes(folder: Path) -> _Shape:
    """Guess the shape from the size of the files: weights of two bytes each, a usual vocabulary, the usual
    width for this number of parameters, heads of 128."""
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors") if path.is_file()]
    parameters = sum(sizes) // 2
    # 12 width^2 parameters in a layer, and a layer for each 128 of the width
    width = max(1, round((parameters * 128 / 12) ** (1 / 3)))
    return _Shape(
        parameters=parameters,
        vocabulary=min(50_000, parameters),
        heads=max(1, width // 128),
        positions=2048,
        hidden=width,
    )


def _number(config: dict[str, Any], keys: tuple[str, ...], usual: int) -> int:
    """Return the first of the keys that holds a plausible count."""
    for key in keys:
        value = config.get(key)
        if type(value) is int and 0 < value < _ABSURD:
            return value
    return usual


def _is_model(path: Path) -> bool:
    return path.name != TOKENS


def text_shape(tokens: Path) -> tuple[int, int] | None:
    """Return sequences and tokens in each of a text's file; None where it is missing or unreadable, which the
    measurement reports."""
    if not tokens.is_file():
        return None
    try:
        (text,) = read_header(tokens)
        sequences, length = text.shape
    except (OSError, ValueError):
        return None
    return sequences, length
