"""True next-token losses of a causal language model, and its distance from a reference model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from mxcheck.evaluation.finite import NonFiniteLogitsError, first_non_finite_module
from mxcheck.evaluation.logits import (
    CACHED_BYTES,
    HeadLogits,
    Limits,
    Logits,
    LogitsCache,
    WholeLogits,
    check_keeping,
    chunks,
    passes,
    too_large_to_keep,
)
from mxcheck.evaluation.metrics import Metric, as_metrics
from mxcheck.evaluation.prediction_figures import predictions
from mxcheck.evaluation.spent import each_spent_on, spent_on
from mxcheck.evaluation.token_figures import NotFiniteError, TokenFigures
from mxcheck.evaluation.tokens import fingerprint
from mxcheck.files.printed import got
from mxcheck.gate.predictions import Predictions
from mxcheck.gate.statistics import exponential
from mxcheck.kernels.usual_settings import check_subnormals
from mxcheck.models.conversion.convert import sequences_a_pass

if TYPE_CHECKING:
    from mxcheck.evaluation.metrics import MetricFunction


#: Figures kept for each token, besides the mean of each sequence.
_BY_TOKEN = ("loss", "reference_loss", "kl")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measurement:
    """Figures of a model on a set of tokens. Everything is in nats per scored token, summed in float64.

    `tokens_fingerprint` identifies the tokens. `sequence_*` list one mean per sequence, in the order of the
    tokens. `kl` is KL(reference || model); `top1_agreement` the share of positions where both rank the same
    token first. `bit_equal` says whether all log-probabilities equal the reference's exactly. `predictions`
    has the figures over single tokens. All of these are None where no reference was given. `metrics` are the
    user's own, by name: one mean per sequence. `logits` is what log-probabilities are computed from: with it
    the measurement serves as a reference. If it was not kept it is None, and `not_kept` says why.
    """

    tokens_fingerprint: str
    cross_entropy: float
    entropy: float
    sequence_losses: list[float]
    sequence_entropies: list[float]
    kl: float | None = None
    sequence_kl: list[float] | None = None
    top1_agreement: float | None = None
    bit_equal: bool | None = None
    predictions: Predictions | None = None
    metrics: dict[str, list[float]] = field(default_factory=dict)
    logits: Logits | None = field(default=None, repr=False)
    not_kept: str = ""

    @property
    def perplexity(self) -> float:
        """exp(cross-entropy); infinite where that overflows."""
        return exponential(self.cross_entropy)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Turn off dropout, whatever the modules' modes, and restore the modes afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def evaluate(
    model: nn.Module,
    tokens: torch.Tensor,
    *,
    reference: Measurement | None = None,
    batch_size: int = 8,
    keep_log_probabilities: bool | None = None,
    reference_cache: int = CACHED_BYTES,
    metrics: Mapping[str, MetricFunction] | Sequence[Metric] = (),
    progress: Callable[[int], None] | None = None,
    limits: Limits | None = None,
) -> Measurement:
    """Score every token but the first of each sequence against the *true next token*.

    Works in chunks of positions, in float64: 2,048 tokens of a vocabulary of 128,256 take less than 0.4 GiB
    besides the model and the cache of a reference.

    Args:
        model: a causal language model: called with int64 [batch, length], returns `.logits`
            [batch, length, vocabulary].
        tokens: int64 [sequences, length], fixed-length blocks without padding.
        reference: a measurement of the reference on the same tokens; needed for KL, top-1 agreement,
            bit-equality, `predictions` and `metrics`.
        batch_size: most sequences per forward pass. If `convert` made the model by a recipe whose casts span
            the batch (a scale per tensor, a library's statistics), one sequence runs at a time in any case,
            as in the gate.
        keep_log_probabilities: whether the result is to serve as reference. None: if it has no reference
            itself, and what must be kept is within the bound. Up to 2^25 logits of all tokens are kept as
            they are (128 MiB in fp32). Beyond that, the decoder's output is kept in host memory (None: at
            most 1 GiB; True: no limit), and its logits are computed again, bit for bit, each time: the model
            may be converted meanwhile, but its output embedding must not be overwritten in place.
        reference_cache: most bytes, on the model's device, in which such logits are kept all the same, from
            the first sequence on, where the result is to serve as reference: they need not be computed again.
            Changes no result.
        metrics: the user's own: functions by name, or what `resolve_metrics` returns.
        progress: called with the number of sequences after each batch.
        limits: sizes of chunks, for tests of the chunks themselves. They change no result.

    Raises ValueError for tokens of another shape or outside the vocabulary; sizes that are no whole numbers;
    a reference of other tokens, or one whose logits change when computed again; too many logits to keep of a
    model that cannot compute them again; a metric at fault; more or fewer tokens scored than there are; and a
    process that flushes subnormal numbers to zero. Raises NonFiniteLogitsError, naming the first module at
    fault, where logits are NaN or infinite.
    """
    check_subnormals()
    _check_tokens(model, tokens)
    for name, value, least in (("batch_size", batch_size, 1), ("reference_cache", reference_cache, 0)):
        if type(value) is not int or value < least:
            raise ValueError(f"{name} must be a whole number from {least} on, got {got(value)}")
    own = as_metrics(metrics)
    if own and reference is None:
        raise ValueError(f"metric {own[0].name!r} compares with a reference, got none; give reference=")
    if reference is not None:
        _check_reference(reference, tokens)
    batch_size = min(batch_size, sequences_a_pass(model) or batch_size)
    means: dict[str, list[float]] = defaultdict(list)
    # one array per figure, allocated before any logits, leaves no small pieces in memory between these
    by_token = {name: np.full((len(tokens), tokens.shape[1] - 1), np.nan) for name in _BY_TOKEN}
    keep = keep_log_probabilities
    not_kept = "it was evaluated with a reference of its own" if keep is None else "it was told not to"
    if keep is None and reference is not None:
        keep = False
    kept: list[torch.Tensor] = []
    cache = LogitsCache(reference_cache)
    last: Logits | None = None
    figures: TokenFigures | None = None
    scored = 0
    # not in inference mode, where torch counts no writes: there each projection would cast its input anew
    with torch.no_grad(), _evaluating(model):
        for batch, logits in each_spent_on("forward", passes(model, tokens, batch_size, limits)):
            if keep is None:
                reason = too_large_to_keep(model, tokens, logits)
                keep, not_kept = reason is None, reason or ""
            if keep:
                check_keeping(model, tokens, logits)
                kept += logits.copies()
                last = logits
            for index in range(len(batch)):
                by_row: dict[str, list[float]] = defaultdict(list)
                for rows in chunks(batch.shape[1] - 1, logits.vocabulary, limits):
                    with spent_on("forward"):
                        own_rows = logits.rows(index, rows)
                    if keep and isinstance(logits, HeadLogits):
                        cache.put(len(means["loss"]), rows, own_rows, positions=batch.shape[1] - 1)
                    targets = batch[index, 1:][rows].to(own_rows.device)
                    with spent_on("metrics"):
                        reference_rows = _reference_rows(reference, len(means["loss"]), rows, own_rows)
                        figures = figures or TokenFigures(own_rows.shape[-1], own_rows.device, own)
                        try:
                            found = figures.of(own_rows, targets, reference_rows)
                        except NotFiniteError:
                            raise NonFiniteLogitsError(_culprit(model, batch, logits, index, rows)) from None
                    for name, values in found.items():
                        by_row[name] += values
                scored += len(by_row["loss"])
                for name, numbers in by_row.items():
                    means[name].append(_mean(numbers))
                if reference is not None:
                    for name, values_by_token in by_token.items():
                        values_by_token[len(means["loss"]) - 1] = by_row[name]
                    _check_recomputed(reference, means["reference_loss"])
            if progress is not None:
                progress(len(batch))
    if scored != (there := tokens.shape[0] * (tokens.shape[1] - 1)):
        raise ValueError(
            f"{scored} tokens were scored, where {there} have one before them; the evaluation is broken, not "
            f"the model"
        )
    return Measurement(
        tokens_fingerprint=fingerprint(tokens),
        cross_entropy=_mean(means["loss"]),
        entropy=_mean(means["entropy"]),
        sequence_losses=means["loss"],
        sequence_entropies=means["entropy"],
        kl=None if reference is None else _mean(means["kl"]),
        sequence_kl=None if reference is None else means["kl"],
        top1_agreement=None if reference is None else _mean(means["top1_agreement"]),
        bit_equal=None if reference is None else _mean(means["bit_equal"]) == 1.0,
        predictions=None
        if reference is None
        else predictions(
            losses=by_token["loss"],
            reference_losses=by_token["reference_loss"],
            kl=by_token["kl"],
            sequence_entropies=means["entropy"],
            sequence_top1=means["top1_agreement"],
        ),
        metrics={one.name: means[one.name] for one in own},
        logits=None if last is None else last.frozen(kept, cache),
        not_kept=not_kept if last is None else "",
    )


def _reference_rows(
    reference: Measurement | None, sequence: int, rows: slice, own_rows: torch.Tensor
) -> torch.Tensor | None:
    """Return the reference's logits for the same rows of a sequence, if there is a reference."""
    if reference is None:
        return None
    assert reference.logits is not None
    found = reference.logits.rows(sequence, rows)
    if found.shape != own_rows.shape:
        raise ValueError(
            f"the reference has a vocabulary of {found.shape[-1]}, this model one of {own_rows.shape[-1]}; "
            f"a KL divergence needs the same"
        )
    return found


def _mean(values: list[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).mean().item()


def _culprit(model: nn.Module, batch: torch.Tensor, logits: Logits, index: int, rows: slice) -> str:
    if isinstance(logits, WholeLogits):
        return first_non_finite_module(model, batch)
    positions = torch.arange(rows.start, rows.stop, device=batch.device)
    return first_non_finite_module(model, batch[index : index + 1], logits_to_keep=positions)


def _check_tokens(model: nn.Module, tokens: torch.Tensor) -> None:
    if tokens.dtype != torch.int64 or tokens.dim() != 2 or tokens.shape[0] == 0 or tokens.shape[1] < 2:
        raise ValueError(
            f"tokens must be int64 [sequences, length] with length >= 2, "
            f"got {tokens.dtype} {list(tokens.shape)}"
        )
    embedding = model.get_input_embeddings() if isinstance(model, PreTrainedModel) else None
    if not isinstance(embedding, nn.Embedding):
        return
    for token in (int(tokens.min()), int(tokens.max())):
        if not 0 <= token < embedding.num_embeddings:
            raise ValueError(
                f"token {token} is outside the model's vocabulary of {embedding.num_embeddings}; "
                f"were the tokens made for another model?"
            )


def _check_reference(reference: Measurement, tokens: torch.Tensor) -> None:
    if reference.logits is None:
        remedy = "" if "; " in reference.not_kept else "; evaluate it with keep_log_probabilities=True"
        raise ValueError(f"the reference keeps no log-probabilities: {reference.not_kept}{remedy}")
    if reference.tokens_fingerprint != fingerprint(tokens):
        kept = reference.logits.sequences
        raise ValueError(
            f"the reference was measured on other tokens ({len(kept)} sequences of {len(kept[0]) + 1}) than "
            f"these ({tokens.shape[0]} of {tokens.shape[1]}); measure both on the same tokens"
        )


def _check_recomputed(reference: Measurement, losses: list[float]) -> None:
    sequence = len(losses) - 1
    if losses[sequence] != reference.sequence_losses[sequence]:
        raise ValueError(
            f"the reference's logits came out otherwise when computed again (loss of sequence {sequence}: "
            f"{losses[sequence]!r} instead of {reference.sequence_losses[sequence]!r}): its output embedding "
            f"was overwritten, or threads or device changed; measure the reference again"
        )
