"""The figures of `Predictions`, from the losses and the KL of single tokens."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mxcheck.gate.predictions import (
    KL_PERCENTILES,
    PROBABILITY_CHANGE_PERCENTILES,
    Predictions,
    part_bounds,
)

#: Float64 [sequences, positions].
ByToken = NDArray[np.float64]


def predictions(
    *,
    losses: ByToken,
    reference_losses: ByToken,
    kl: ByToken,
    sequence_entropies: list[float],
    sequence_top1: list[float],
) -> Predictions:
    """Compute the figures of a case.

    Args:
        losses: -log q(t) of each scored token, in nats, float64 [sequences, positions].
        reference_losses: -log p(t) of the same tokens.
        kl: KL(reference || model) at each position over the whole vocabulary, in nats, the same shape.
        sequence_entropies: the model's entropy, one mean per sequence, in nats per token.
        sequence_top1: share of the positions at which both rank the same token first, one per sequence.
    """
    bounds = part_bounds(kl.shape[1])
    change = np.exp(-losses) - np.exp(-reference_losses)
    return Predictions(
        sequence_entropies=sequence_entropies,
        sequence_top1=sequence_top1,
        sequence_k3=_k3(losses, reference_losses).mean(1).tolist(),
        kl_percentiles=_percentiles(kl, KL_PERCENTILES),
        kl_by_position=[float(kl[:, start:stop].mean()) for start, stop in pairwise(bounds)],
        probability_change=float(change.mean()),
        probability_change_rms=float(np.sqrt(np.square(change).mean())),
        probability_change_percentiles=_percentiles(change, PROBABILITY_CHANGE_PERCENTILES),
    )


def _k3(losses: ByToken, reference_losses: ByToken) -> ByToken:
    """Return q/p - 1 - log(q/p) of each token; infinite where q/p overflows, as with a ruined reference."""
    log_ratio = reference_losses - losses
    with np.errstate(over="ignore"):
        # expm1: near 0 the terms cancel to second order, where exp(x) - 1 would leave few digits
        terms: ByToken = np.expm1(log_ratio) - log_ratio
    # rounding may leave a negative value, by 2^-53 of the terms; no true value is negative
    return np.maximum(terms, 0.0)


def _percentiles(values: ByToken, percents: tuple[float, ...]) -> dict[str, float]:
    """Return percentiles by name, linearly interpolated between two values as in llama.cpp."""
    found = np.percentile(values, percents).tolist()
    return {str(percent): value for percent, value in zip(percents, found, strict=True)}
