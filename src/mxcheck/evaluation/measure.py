"""True next-token losses of a causal language model, and their distance from a reference model's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from transformers import PreTrainedModel

from mxcheck.evaluation.finite import NonFiniteLogitsError, first_non_finite_module
from mxcheck.evaluation.tokens import fingerprint


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measurement:
    """What a model makes of a set of tokens. Everything is in nats per scored token, summed in float64.

    `tokens_fingerprint` says on which tokens. `sequence_*` list one mean a sequence, in the order of the
    tokens. `kl` is KL(reference || model); `top1_agreement` the share of positions where both rank the same
    token first; both are None where no reference was given. `bit_equal` says whether all log-probabilities
    equal the reference's exactly. `log_probabilities` (float64, [sequences, length - 1, vocabulary], only
    where kept) serve as reference.
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
    log_probabilities: torch.Tensor | None = field(default=None, repr=False)

    @property
    def perplexity(self) -> float:
        """exp(cross-entropy)."""
        return math.exp(self.cross_entropy)


def evaluate(
    model: nn.Module,
    tokens: torch.Tensor,
    *,
    reference: Measurement | None = None,
    batch_size: int = 8,
    keep_log_probabilities: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Measurement:
    """Score every token but the first of each sequence against the *true next token*.

    Args:
        model: a causal language model: called with int64 [batch, length], returns `.logits`
            [batch, length, vocabulary].
        tokens: int64 [sequences, length], fixed-length blocks without padding.
        reference: a measurement of the reference on the same tokens, made with
            `keep_log_probabilities=True`; gives KL, top-1 agreement and bit-equality.
        batch_size: sequences a forward pass.
        progress: called with the number of sequences after each batch.

    Raises ValueError for tokens of another shape or outside the vocabulary, or a reference of other
    tokens; NonFiniteLogitsError, naming the first module at fault, where logits are NaN or infinite.
    """
    _check_tokens(model, tokens)
    reference_log_p = None if reference is None else _log_probabilities_of(reference, tokens)
    device = next(model.parameters()).device
    losses, entropies, divergences, agreements, kept = [], [], [], [], []
    bit_equal = True
    with torch.inference_mode():
        for start in range(0, len(tokens), batch_size):
            batch = tokens[start : start + batch_size].to(device)
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
            log_p = torch.log_softmax(logits.double(), dim=-1)
            if not torch.isfinite(log_p.sum()):
                raise NonFiniteLogitsError(first_non_finite_module(model, batch))
            target = batch[:, 1:].unsqueeze(-1)
            losses.append(-log_p.gather(-1, target).squeeze(-1).mean(-1))
            entropies.append(-(log_p.exp() * log_p).sum(-1).mean(-1))
            if reference_log_p is not None:
                reference_batch = reference_log_p[start : start + batch_size]
                if reference_batch.shape != log_p.shape:
                    raise ValueError(
                        f"the reference has a vocabulary of {reference_batch.shape[-1]}, this model one of "
                        f"{log_p.shape[-1]}; a KL divergence needs the same"
                    )
                bit_equal = bit_equal and torch.equal(reference_batch, log_p)
                divergence = (reference_batch.exp() * (reference_batch - log_p)).sum(-1)
                divergences.append(divergence.mean(-1))
                agreements.append((reference_batch.argmax(-1) == log_p.argmax(-1)).double().mean(-1))
            if keep_log_probabilities:
                kept.append(log_p)
            if progress is not None:
                progress(len(batch))
    sequence_losses, sequence_entropies = torch.cat(losses), torch.cat(entropies)
    has_reference = reference_log_p is not None
    return Measurement(
        tokens_fingerprint=fingerprint(tokens),
        cross_entropy=sequence_losses.mean().item(),
        entropy=sequence_entropies.mean().item(),
        sequence_losses=sequence_losses.tolist(),
        sequence_entropies=sequence_entropies.tolist(),
        kl=torch.cat(divergences).mean().item() if has_reference else None,
        sequence_kl=torch.cat(divergences).tolist() if has_reference else None,
        top1_agreement=torch.cat(agreements).mean().item() if has_reference else None,
        bit_equal=bit_equal if has_reference else None,
        log_probabilities=torch.cat(kept) if keep_log_probabilities else None,
    )


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


def _log_probabilities_of(reference: Measurement, tokens: torch.Tensor) -> torch.Tensor:
    log_p = reference.log_probabilities
    if log_p is None:
        raise ValueError(
            "the reference keeps no log-probabilities; evaluate it with keep_log_probabilities=True"
        )
    if reference.tokens_fingerprint != fingerprint(tokens):
        raise ValueError(
            f"the reference was measured on other tokens ({log_p.shape[0]} sequences of "
            f"{log_p.shape[1] + 1}) than these ({tokens.shape[0]} of {tokens.shape[1]}); "
            f"measure both on the same tokens"
        )
    return log_p
