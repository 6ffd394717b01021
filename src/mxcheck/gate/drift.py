"""How far losses have moved since they were accepted, and how far they may on this machine.

Other arithmetic flips few codes (and, with experts, few routes), each at one token: most sequences hardly
move and some move a lot. A wrong cast or product moves all of them. So the median over sequences has the
narrow bound, and the largest change one that a single token's flip stays within.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mxcheck.gate.record import Record
from mxcheck.gate.statistics import differences, largest, rms, typical

#: Where this machine multiplies as the accepting one did (`same_arithmetic`).
EXACT_TOLERANCE = 1e-9
#: Elsewhere: this multiple of the noise that was measured at acceptance, plus the floor (nats per token);
NOISE_MULTIPLE = 4.0
NOISE_FLOOR = 2e-6
#: and not less than these shares: of what quantization does to a sequence typically (for the median: the
#: standard deviation of a sequence's rise, and the KL), and of what it did to the sequence that it moved most
#: (for the maximum). docs/gate.md shows what they were chosen from and what they were tried on.
LOSS_SHARES = (0.05, 2.0)
KL_SHARES = (0.01, 0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Absolute change of the per-sequence losses (or KL) against the accepted ones, and what is allowed."""

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
        """The largest share of its bound."""
        return max(self.median / self.median_bound, self.rms / self.rms_bound, self.max / self.max_bound)


def same_arithmetic(record: Record, baseline: Record) -> bool:
    """Whether this machine multiplies as the accepting one did."""
    return record.arithmetic == baseline.arithmetic and record.reference_losses == baseline.reference_losses


def drift(record: Record, baseline: Record, quantity: str) -> Drift:
    """Drift of `quantity` (`reference`, `loss` or `kl`). Raises ValueError where there is nothing to pair."""
    field = {"reference": "reference_losses", "loss": "sequence_losses", "kl": "sequence_kl"}[quantity]
    change = differences(getattr(record, field), getattr(baseline, field))
    return moved(change, None if same_arithmetic(record, baseline) else _noise_bounds(baseline, quantity))


def moved(change: list[float], bounds: tuple[float, float, float] | None = None) -> Drift:
    """The drift of these changes, within `bounds` (median, rms, maximum; None: the exact tolerance)."""
    median_bound, rms_bound, max_bound = bounds or (EXACT_TOLERANCE,) * 3
    return Drift(
        median=typical(change),
        rms=rms(change),
        max=largest(change),
        median_bound=median_bound,
        rms_bound=rms_bound,
        max_bound=max_bound,
    )


def _noise_bounds(baseline: Record, quantity: str) -> tuple[float, float, float]:
    median, root, most = (
        0.0 if baseline.noise is None else NOISE_MULTIPLE * getattr(baseline.noise, f"{quantity}_{statistic}")
        for statistic in ("median", "rms", "max")
    )
    least_median, least_max = _least(baseline, quantity)
    most = NOISE_FLOOR + max(most, least_max)
    # One sequence alone may move by the maximum; of one or two it moves the median, too.
    sequences = len(baseline.sequence_losses)
    alone = most / math.sqrt(sequences)
    middle = most / sequences if sequences < 3 else 0.0
    return max(NOISE_FLOOR + max(median, least_median), middle), max(NOISE_FLOOR + root, alone), most


def _least(baseline: Record, quantity: str) -> tuple[float, float]:
    """Shares of what quantization itself does: of its typical effect, and of its largest on a sequence."""
    if quantity == "reference":
        return 0.0, 0.0
    if quantity == "kl":
        kl, sequence_kl = baseline.exact_kl
        return KL_SHARES[0] * kl, KL_SHARES[1] * largest(sequence_kl)
    # To second order a token's rise has the variance 2 KL, so a sequence's mean has the one below.
    tokens = baseline.scored_tokens / len(baseline.sequence_losses)
    rises = differences(baseline.sequence_losses, baseline.reference_losses)
    return LOSS_SHARES[0] * math.sqrt(2 * max(0.0, _distance(baseline)) / tokens), LOSS_SHARES[1] * largest(
        rises
    )


def _distance(baseline: Record) -> float:
    """The KL divergence over the whole vocabulary, else by k3, in nats per token."""
    if baseline.kl is not None:
        return baseline.kl
    return 0.0 if baseline.predictions is None else baseline.predictions.k3
