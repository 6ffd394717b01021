"""Figures of a model's predictions beside the reference's, token by token, as plain data.

Here p(t) is the reference's probability of the true next token t, and q(t) the model's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any

from mxcheck.gate.statistics import differences, in_standard_errors, mean_and_error

#: Percentiles over tokens of the KL, and of Δp = q(t) - p(t); 0 is the minimum, 100 the maximum. Those of Δp
#: match llama.cpp's `llama-perplexity --kl-divergence`.
KL_PERCENTILES = (50, 90, 99, 99.9, 100)
PROBABILITY_CHANGE_PERCENTILES = (0, 0.1, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)
#: Number of parts into which the scored positions of a sequence are cut (fewer where there are fewer
#: positions).
POSITION_PARTS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """The model's predictions compared with the reference's, on the same tokens.

    Attributes:
        sequence_entropies: the model's entropy, one mean a sequence, in nats per token.
        sequence_top1: share of the positions at which both rank the same token first, one a sequence.
        sequence_k3: the KL by the estimator k3, one mean a sequence, in nats per token.
        kl_percentiles: of the KL of single tokens, in nats, by the percentile's name ("99.9").
        kl_by_position: mean KL of each part of the sequence, first part first, in nats per token.
        probability_change: mean of Δp over tokens.
        probability_change_rms: root mean square of Δp over tokens.
        probability_change_percentiles: of Δp, by the percentile's name.

    k3 is the mean of q(t)/p(t) - 1 - log(q(t)/p(t)) (J. Schulman, "Approximating KL divergence", 2020). On
    text sampled from the reference its expectation is KL(reference || model); no term is negative.
    """

    sequence_entropies: list[float]
    sequence_top1: list[float]
    sequence_k3: list[float]
    kl_percentiles: dict[str, float]
    kl_by_position: list[float]
    probability_change: float
    probability_change_rms: float
    probability_change_percentiles: dict[str, float]

    @property
    def k3(self) -> float:
        """KL by k3, in nats per token."""
        return mean_and_error(self.sequence_k3)[0]

    @property
    def k3_error(self) -> float:
        """Standard error of `k3`, clustered by sequence; infinite for one sequence."""
        return mean_and_error(self.sequence_k3)[1]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


#: Names of a field's percentiles, in ascending order.
_PERCENTILES = {
    "kl_percentiles": tuple(map(str, KL_PERCENTILES)),
    "probability_change_percentiles": tuple(map(str, PROBABILITY_CHANGE_PERCENTILES)),
}
_SEQUENCES = ("sequence_entropies", "sequence_top1", "sequence_k3")


def predictions_from_dict(data: object) -> Predictions:
    """Decode the output of `Predictions.as_dict`.

    Raises ValueError, in one line, for missing or unknown fields, for a value that is no number or list of
    numbers, for lists by sequence of different lengths or none, and for other percentiles.
    """
    if not isinstance(data, dict):
        raise ValueError(f"predictions must be a dict, got {data!r:.40}")
    expected = {field.name for field in fields(Predictions)}
    missing, unknown = sorted(expected - data.keys()), sorted(data.keys() - expected, key=str)
    if missing or unknown:
        raise ValueError(f"predictions: missing fields: {missing or 'none'}, unknown: {unknown or 'none'}")
    for name in ("probability_change", "probability_change_rms"):
        if not _is_number(data[name]):
            raise ValueError(f"{name} must be a number, got {data[name]!r:.40}")
    for name in (*_SEQUENCES, "kl_by_position"):
        if not (isinstance(data[name], list) and data[name] and all(map(_is_number, data[name]))):
            raise ValueError(f"{name} must be a list of at least one number, got {data[name]!r:.40}")
    lengths = {name: len(data[name]) for name in _SEQUENCES}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"lists by sequence must be of one length, got {lengths}")
    if len(data["kl_by_position"]) > POSITION_PARTS:
        parts = len(data["kl_by_position"])
        raise ValueError(f"kl_by_position has {parts} parts, allowed 1 to {POSITION_PARTS}")
    for name, allowed in _PERCENTILES.items():
        found = data[name]
        if not isinstance(found, dict) or found.keys() != set(allowed):
            raise ValueError(f"{name} must be a dict of {', '.join(allowed)}, got {found!r:.40}")
        if not all(map(_is_number, found.values())):
            raise ValueError(f"{name} must hold numbers, got {found!r:.40}")
    return Predictions(**data)


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def percentiles_of(found: Predictions, field: str) -> list[float]:
    """Return the values of `kl_percentiles` or `probability_change_percentiles`, lowest percentile first."""
    values: dict[str, float] = getattr(found, field)
    return [values[name] for name in _PERCENTILES[field]]


def part_bounds(positions: int) -> list[int]:
    """Return the start of each part of a sequence with this number of scored positions, and the end of the
    last."""
    parts = min(POSITION_PARTS, positions)
    return [part * positions // parts for part in range(parts + 1)]


#: Permitted difference of two unbiased estimates of the KL in standard errors, and the largest KL, in nats
#: per token, at which k3 is used. With a coarser model few tokens carry most of q/p: a text without them has
#: a mean below 1 and a standard error that is far too small. docs/statistics.md shows how both were chosen.
ESTIMATES_Z = 8.0
K3_UP_TO = 0.2


def check_estimates(
    sequence_k3: Sequence[float],
    losses: Sequence[float],
    reference_losses: Sequence[float],
    sequence_kl: Sequence[float] | None = None,
) -> tuple[bool, str]:
    """Check that the estimates of the KL agree, as they must on text sampled from the reference.

    There the rise of the loss, k3 and the exact KL have one expectation for any model. k3 minus the rise is
    the mean of q(t)/p(t) - 1, which must be 0: the only check where the exact KL is unknown.

    Args:
        sequence_k3: the KL by k3, one mean a sequence, in nats per token.
        losses: the model's losses, likewise.
        reference_losses: the reference's losses, likewise.
        sequence_kl: the KL over the whole vocabulary, likewise; None where only the probabilities of the true
            next tokens are known.

    For a model coarser than `K3_UP_TO` only the rise is compared with the KL, and nothing without the KL.

    Returns whether they agree, and the worst pair in words. Raises ValueError where the lengths differ.
    """
    rises = differences(losses, reference_losses)
    known = rises if sequence_kl is None else sequence_kl
    pairs: dict[str, list[float]] = {}
    if sequence_kl is not None:
        pairs["the rise and the KL"] = differences(rises, sequence_kl)
    coarse = K3_UP_TO < fmean(known) < math.inf  # NaN must fail below
    if not coarse:
        pairs["k3 and the rise (mean of q/p - 1)"] = differences(sequence_k3, rises)
        if sequence_kl is not None:
            pairs["k3 and the KL"] = differences(sequence_k3, sequence_kl)
    if not pairs:
        return True, f"k3 says nothing about a rise of {fmean(known):.3g} nats/token (more than {K3_UP_TO:g})"
    scores = {pair: in_standard_errors(apart) for pair, apart in pairs.items()}
    # NaN is worse than any number
    worst = max(scores, key=lambda pair: math.inf if math.isnan(scores[pair]) else abs(scores[pair]))
    mean, error = mean_and_error(pairs[worst])
    # as in step 2: a standard error of few sequences is itself uncertain
    bound = ESTIMATES_Z * (1 + 5 / max(1, len(rises) - 1))
    return abs(scores[worst]) <= bound, (
        f"KL on the reference's own samples: {worst} are {mean:+.2e} ± {error:.2e} nats/token apart, "
        f"{scores[worst]:+.2f} standard errors (bound {bound:.1f})"
    )
