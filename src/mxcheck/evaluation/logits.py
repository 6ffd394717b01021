"""Logits by rows: with a large vocabulary, memory never holds more than a chunk of positions.

A model whose forward takes `logits_to_keep` promises that its logits at a position depend on its decoder's
output at that position alone. So the decoder runs once, and the model's own forward runs again for each
chunk, with these rows of the decoder's output in place of the decoder: the output embedding and all that
follows it (soft-capping, scales) stay the model's own.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

#: Up to this many logits of all tokens together (256 MiB in float64), a batch is one plain forward and its
#: logits are kept whole. Only tokens and vocabulary decide: neither batch size nor what is kept may change
#: which products are computed.
SMALL = 2**25

#: Entries of one chunk [rows, vocabulary], 64 MiB in float64: 65 positions of a vocabulary of 128,256. If the
#: output embedding itself is cast with one scale per tensor, a chunk is that tensor.
CHUNK = 2**23


#: Most bytes of the reference's logits that a process keeps by default, of a vocabulary whose logits are
#: computed in chunks: 512 MiB, 2,700 tokens of a vocabulary of 49,152 in fp32.
CACHED_BYTES = 2**29

#: Most bytes of a reference kept by default: 1 GiB of the decoder's output in host memory (four million
#: tokens at width 64, 65,536 tokens at width 4,096 in fp32).
KEPT_BYTES = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Number of logits from which a batch is computed by decoder and head, and number of logits per chunk."""

    small: int
    chunk: int


def usual_limits() -> Limits:
    """Return the limits of every measurement, except a check of the chunks themselves."""
    return Limits(small=SMALL, chunk=CHUNK)


class LogitsCache:
    """Logits of whole sequences, [positions, vocabulary] by sequence: as many as fit into `room` bytes."""

    def __init__(self, room: int) -> None:
        self._room = room
        self.sequences: dict[int, torch.Tensor] = {}

    def put(self, sequence: int, rows: slice, logits: torch.Tensor, *, positions: int) -> None:
        """Keep `logits` [rows, vocabulary] of a sequence of so many positions, whose rows come in order."""
        size = positions * logits[0].nbytes
        if rows.start == 0 and size <= self._room:
            self._room -= size
            self.sequences[sequence] = logits.new_empty(positions, logits.shape[-1])
        if sequence in self.sequences:
            self.sequences[sequence][rows] = logits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WholeLogits:
    """Logits as they are: `sequences` lists [positions, vocabulary]."""

    sequences: torch.Tensor | Sequence[torch.Tensor]

    @property
    def vocabulary(self) -> int:
        """The length of a row."""
        return self.sequences[0].shape[-1]

    def rows(self, sequence: int, rows: slice) -> torch.Tensor:
        """Return [rows, vocabulary] in the model's dtype."""
        return self.sequences[sequence][rows]

    def copies(self) -> list[torch.Tensor]:
        """Return what must be kept of each sequence to have its logits later."""
        return [logits.clone() for logits in self.sequences]

    def frozen(self, kept: list[torch.Tensor], _cache: LogitsCache) -> WholeLogits:
        """Return the logits of the sequences that were `kept`, independent of the model."""
        return WholeLogits(sequences=kept)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadLogits:
    """Logits computed on demand, by the head of `model` (all that follows its `decoder`) from the decoder's
    output: `sequences` lists [positions, width], `output` is the type that the decoder returns. Those of the
    sequences in `cached` were computed before, [positions, vocabulary]."""

    model: PreTrainedModel
    decoder: nn.Module
    output: type[ModelOutput]
    device: torch.device
    sequences: torch.Tensor | Sequence[torch.Tensor]
    cached: Mapping[int, torch.Tensor] = field(default_factory=dict)

    @property
    def vocabulary(self) -> int:
        """The length of a row."""
        return vocabulary_of(self.model)

    def rows(self, sequence: int, rows: slice) -> torch.Tensor:
        """Return [rows, vocabulary] in the model's dtype, the same bits each time."""
        if sequence in self.cached:
            return self.cached[sequence][rows]
        hidden = self.sequences[sequence][rows].to(self.device)
        answer = self.output(last_hidden_state=hidden[None])
        unread = torch.zeros(1, len(hidden), dtype=torch.int64, device=self.device)
        with _answering(self.decoder, answer):
            logits: torch.Tensor = self.model(input_ids=unread, use_cache=False).logits[0]
        return logits

    def copies(self) -> list[torch.Tensor]:
        """Return what must be kept of each sequence to have its logits later, in host memory."""
        return [hidden.to("cpu", copy=True) for hidden in self.sequences]

    def frozen(self, kept: list[torch.Tensor], cache: LogitsCache) -> HeadLogits:
        """Return the logits of the sequences that were `kept`, valid even after the model is converted.

        The head is copied, its parameters are not: the copies have tensors of their own on the same storage,
        which a conversion does not change, as it replaces tensors.
        """
        decoder = nn.Module()  # a placeholder for the decoder's output
        same_storage: dict[int, Any] = {id(self.decoder): decoder}
        for parameter in self.model.parameters():
            same_storage[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
        for buffer in self.model.buffers():
            same_storage[id(buffer)] = buffer.detach()
        head = copy.deepcopy(self.model, same_storage)
        return replace(self, model=head, decoder=decoder, sequences=kept, cached=cache.sequences)


Logits = WholeLogits | HeadLogits


def passes(
    model: nn.Module, tokens: torch.Tensor, batch_size: int, limits: Limits | None = None
) -> Iterator[tuple[torch.Tensor, Logits]]:
    """Run `model` over tokens [sequences, length] and yield, for each pass, its sequences and their logits at
    every position but the last.

    `batch_size` is an upper limit: with a large vocabulary whose logits come only whole, fewer sequences
    share a pass.
    """
    device = next(model.parameters()).device
    small = (limits or usual_limits()).small
    large = logits_of(model, tokens) > small
    decoder = decoder_of(model) if large else None
    if large and decoder is None:
        batch_size = max(1, min(batch_size, small * len(tokens) // logits_of(model, tokens)))
    for start in range(0, len(tokens), batch_size):
        batch = tokens[start : start + batch_size].to(device)
        if decoder is not None:
            assert isinstance(model, PreTrainedModel)
            yield batch, _decode(model, decoder, batch)
        else:
            yield batch, WholeLogits(sequences=model(input_ids=batch, use_cache=False).logits[:, :-1])


def chunks(positions: int, vocabulary: int, limits: Limits | None = None) -> Iterator[slice]:
    """Yield the rows of one sequence, in chunks of at most `CHUNK` logits, or of as many as `limits` says."""
    size = max(1, (limits or usual_limits()).chunk // vocabulary)
    for start in range(0, positions, size):
        yield slice(start, min(start + size, positions))


def vocabulary_of(model: nn.Module) -> int:
    """Return the length of a row of logits; 0 where the model does not say."""
    return int(model.config.get_text_config().vocab_size) if isinstance(model, PreTrainedModel) else 0


def logits_of(model: nn.Module, tokens: torch.Tensor) -> int:
    """Return the number of logits of tokens [sequences, length]; 0 where the model does not say."""
    return tokens.numel() * vocabulary_of(model)


def decoder_of(model: nn.Module) -> nn.Module | None:
    """Return the module whose output the head of `model` reads row by row; None if there is none."""
    if not isinstance(model, PreTrainedModel) or model.get_output_embeddings() is None:
        return None
    if "logits_to_keep" not in inspect.signature(type(model).forward).parameters:
        return None
    decoder: nn.Module = model.get_decoder()
    return None if decoder is model else decoder


def _decode(model: PreTrainedModel, decoder: nn.Module, batch: torch.Tensor) -> HeadLogits:
    outputs: list[Any] = []
    handle = decoder.register_forward_hook(lambda _module, _args, output: outputs.append(output))
    try:
        model(input_ids=batch, use_cache=False, logits_to_keep=1)  # one row: the logits are not needed yet
    finally:
        handle.remove()
    hidden = getattr(outputs[0], "last_hidden_state", None) if len(outputs) == 1 else None
    if hidden is None or hidden.shape[:2] != batch.shape:
        raise ValueError(
            f"{type(model).__name__} does not call its decoder ({type(decoder).__name__}) once for one "
            f"hidden state a token, so its logits cannot be computed in chunks; take so few sequences, or so "
            f"short ones, that tokens times vocabulary ({vocabulary_of(model)}) are at most {SMALL}"
        )
    return HeadLogits(
        model=model, decoder=decoder, output=type(outputs[0]), device=hidden.device, sequences=hidden[:, :-1]
    )


@contextmanager
def _answering(module: nn.Module, answer: Any) -> Iterator[None]:
    """Make `module` return `answer`, whatever it is called with, within the context."""
    before = vars(module).get("forward")
    module.forward = lambda *_args, **_kwargs: answer
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def check_keeping(model: nn.Module, tokens: torch.Tensor, logits: Logits) -> None:
    """Raise ValueError if the logits of tokens [sequences, length] are too many to keep whole, and the model
    cannot compute them again."""
    if (reason := _not_keepable(model, tokens, logits)) is not None:
        raise ValueError(reason)


def too_large_to_keep(model: nn.Module, tokens: torch.Tensor, logits: Logits) -> str | None:
    """Return why the logits of tokens [sequences, length] are not kept by default; None if they are."""
    if (reason := _not_keepable(model, tokens, logits)) is not None:
        return reason
    if isinstance(logits, WholeLogits):
        return None
    sequences, length = tokens.shape
    row = logits.sequences[0][0]
    size = sequences * (length - 1) * row.numel() * row.element_size()
    if size <= KEPT_BYTES:
        return None
    return (
        f"the decoder's output for {sequences} sequences of {length} tokens takes {size / 2**30:.4g} GiB of "
        f"host memory, and without being asked for at most {KEPT_BYTES / 2**30:.4g} GiB are kept; evaluate "
        f"the reference with keep_log_probabilities=True, or take fewer or shorter sequences"
    )


def _not_keepable(model: nn.Module, tokens: torch.Tensor, logits: Logits) -> str | None:
    sequences, length = tokens.shape
    size = sequences * length * logits.vocabulary
    if not isinstance(logits, WholeLogits) or size <= SMALL:
        return None
    return (
        f"{sequences} sequences of {length} tokens over a vocabulary of {logits.vocabulary} are too many "
        f"log-probabilities to keep ({8 * size / 2**30:.4g} GiB, allowed {8 * SMALL / 2**30:.4g}), and "
        f"{type(model).__name__} cannot compute them again (that takes a forward with logits_to_keep, a "
        f"decoder and an output embedding); take fewer or shorter sequences"
    )
