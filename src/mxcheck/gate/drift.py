"""Changes of losses since acceptance, and their bounds on this machine.

Other arithmetic flips few codes (and, with experts, few routes), each at one token: most sequences hardly
change and some change a lot. A wrong cast or product changes all of them. So the median over sequences has a
narrow bound, and the maximum a bound that permits a flip at a single token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mxcheck.gate.record import Record
from mxcheck.gate.statistics import differences, largest, median_abs, rms

#: On a machine with the baseline's arithmetic (`same_arithmetic`).
EXACT_TOLERANCE = 1e-9
#: Elsewhere: this multiple of the noise measured at acceptance, plus the floor (nats per token);
NOISE_MULTIPLE = 4.0
NOISE_FLOOR = 2e-6
#: and at least these shares: of quantization's typical effect on a sequence (for the median: the standard
#: deviation of a sequence's rise, and the KL), and of its largest effect on a sequence (for the maximum).
#: docs/gate.md shows how they were chosen and tested.
LOSS_SHARES = (0.05, 2.0)
KL_SHARES = (0.01, 0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Absolute changes of the per-sequence losses (or KL) since acceptance, and their bounds."""

    median: float
    rms: float
    max: float
    median_bound: float
    rms_bound: float
    max_bound: float

    @property
    def within(self) -> bool:
        return self.median <= self.median_bound and self.rms <= self.rms_bound and self.max <= self.max_bound

    @property
    def share(self) -> float:
        """Largest ratio of a change to its bound."""
        return max(self.median / self.median_bound, self.rms / self.rms_bound, self.max / self.max_bound)


def same_arithmetic(record: Record, baseline: Record) -> bool:
    """Return whether this machine has the baseline's arithmetic."""
    return record.arithmetic == baseline.arithmetic and record.reference_losses == baseline.reference_losses


def drift(record: Record, baseline: Record, quantity: str) -> Drift:
    """Return the drift of `quantity` (`reference`, `loss` or `kl`). Raises ValueError where there is nothing
    to pair."""
    field = {"reference": "reference_losses", "loss": "sequence_losses", "kl": "sequence_kl"}[quantity]
    change = differences(getattr(record, field), getattr(baseline, field))
    return drift_of(change, None if same_arithmetic(record, baseline) else _noise_bounds(baseline, quantity))


def drift_of(change: list[float], bounds: tuple[float, float, float] | None = None) -> Drift:
    """Return the drift of these changes with `bounds` (median, rms, maximum; None: the exact tolerance)."""
    median_bound, rms_bound, max_bound = bounds or (EXACT_TOLERANCE,) * 3
    return Drift(
        median=median_abs(change),
        rms=rms(change),
        max=largest(change),
        median_bound=median_bound,
        rms_bound=rms_bound,
        max_bound=max_bound,
    )


def _noise_bounds(baseline: Record, quantity: str) -> tuple[float, float, float]:
    least = _least(baseline, quantity)
    return bounds_elsewhere(noise_of(baseline, quantity), least, sequences=len(baseline.sequence_losses))


def noise_of(baseline: Record, quantity: str) -> tuple[float, float, float]:
    """Return the median, rms and maximum change of `quantity` in other arithmetic, as measured at
    acceptance."""
    noise = baseline.noise
    if noise is None:
        return 0.0, 0.0, 0.0
    median, root, most = (
        float(getattr(noise, f"{quantity}_{statistic}")) for statistic in ("median", "rms", "max")
    )
    return median, root, most


def _least(baseline: Record, quantity: str) -> tuple[float, float]:
    """Return the minimum bounds: shares of quantization's typical effect, and of its largest effect on a
    sequence."""
    if quantity == "reference":
        return 0.0, 0.0
    if quantity == "kl":
        kl, sequence_kl = baseline.exact_kl
        return KL_SHARES[0] * kl, KL_SHARES[1] * largest(sequence_kl)
    # To second order a token's rise has variance 2 KL, so a sequence's mean has the one below.
    tokens = baseline.scored_tokens / len(baseline.sequence_losses)
    rises = differences(baseline.sequence_losses, baseline.reference_losses)
    least = LOSS_SHARES[0] * math.sqrt(2 * max(0.0, _distance(baseline)) / tokens)
    return least, LOSS_SHARES[1] * largest(rises)


def _distance(baseline: Record) -> float:
    """Return the KL over the whole vocabulary, else by k3, in nats per token."""
    if baseline.kl is not None:
        return baseline.kl
    return 0.0 if baseline.predictions is None else baseline.predictions.k3


#: Elsewhere, entropies: shares as for the losses, the second of quantization's largest change.
ENTROPY_SHARES = (0.05, 2.0)
#: Elsewhere, top-1 agreement: this multiple of the square root of the number of disagreeing tokens (the
#: scatter of that number), plus one token. docs/statistics.md shows how these were chosen.
TOP1_SHARE = 3.0


def entropy_drift(
    now: Sequence[float],
    then: Sequence[float],
    *,
    same_arithmetic: bool,
    reference: Sequence[float],
    kl: float,
    scored_tokens: int,
    noise: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Drift:
    """Return the drift of the model's entropies, in nats per token by sequence.

    Args:
        now: the entropies of the record.
        then: the accepted ones; all that follow are of the accepted record, too.
        same_arithmetic: whether this machine has the baseline's arithmetic.
        reference: the reference's entropies.
        kl: the KL, in nats per token.
        scored_tokens: the number over all sequences.
        noise: median, rms and maximum change of the *losses* in other arithmetic, as measured at acceptance:
            entropies change by about as much.

    Raises ValueError where the lengths differ.
    """
    change = differences(now, then)
    if same_arithmetic:
        return drift_of(change)
    typical_effect = math.sqrt(2 * max(0.0, kl) / (scored_tokens / len(then)))
    largest_effect = largest(differences(then, reference))
    least = ENTROPY_SHARES[0] * typical_effect, ENTROPY_SHARES[1] * largest_effect
    return drift_of(change, bounds_elsewhere(noise, least, sequences=len(then)))


def bounds_elsewhere(
    noise: tuple[float, float, float], least: tuple[float, float], *, sequences: int
) -> tuple[float, float, float]:
    """Return the bounds of median, rms and maximum in other arithmetic, from the measured `noise` of each,
    and at least `least` (median and maximum)."""
    median, root, most = (NOISE_MULTIPLE * figure for figure in noise)
    most = NOISE_FLOOR + max(most, least[1])
    # A single sequence may move by the maximum; with one or two, that moves the median too.
    alone = most / math.sqrt(sequences)
    middle = most / sequences if sequences < 3 else 0.0
    # The median of few sequences is uncertain, here and at acceptance, as their standard error is.
    few = 1 + 5 / max(1, sequences - 1)
    return max(NOISE_FLOOR + few * max(median, least[0]), middle), max(NOISE_FLOOR + root, alone), most


def top1_held(now: float, then: float, *, same_arithmetic: bool, scored_tokens: int) -> tuple[bool, str]:
    """Compare the top-1 agreement (share of the scored tokens) with the accepted one, in either direction.

    Returns whether it is within tolerance, and the figures in words.
    """
    scatter = (1 + TOP1_SHARE * math.sqrt(max(0.0, 1 - then) * scored_tokens)) / scored_tokens
    # both are shares of whole tokens: the tolerance covers the rounding of their difference
    bound = EXACT_TOLERANCE + (0.0 if same_arithmetic else scatter)
    return abs(now - then) <= bound, (
        f"top-1 agreement {now:.6f}, accepted {then:.6f}: moved by {abs(now - then):.2e} (bound {bound:.2e})"
    )
