"""How far losses have moved since they were accepted, and how far they may on this machine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mxcheck.gate.record import Record
from mxcheck.gate.statistics import differences, largest, rms

#: Where this machine multiplies as the accepting one did (`same_arithmetic`).
EXACT_TOLERANCE = 1e-9
#: Elsewhere: this multiple of the noise that was measured at acceptance, plus the floor (nats per token);
NOISE_MULTIPLE = 4.0
NOISE_FLOOR = 2e-6
#: and not less than these shares of what quantization itself does to a sequence (rms, maximum). Other
#: arithmetic flips few codes, some with a large effect, so two environments can miss what a third shows.
#: Over 48 MX cases in 5 environments the worst was 0.15 and 1.01 for losses, in units of the standard
#: deviation of a sequence's rise, and 0.013 and 0.09 of the KL: about half of what is allowed.
LOSS_SHARES = (0.3, 2.0)
KL_SHARES = (0.03, 0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Change of the per-sequence losses (or KL) against the accepted ones, and what is allowed."""

    rms: float
    max: float
    rms_bound: float
    max_bound: float

    @property
    def within(self) -> bool:
        return self.rms <= self.rms_bound and self.max <= self.max_bound


def same_arithmetic(record: Record, baseline: Record) -> bool:
    """Whether this machine multiplies as the accepting one did."""
    return record.arithmetic == baseline.arithmetic and record.reference_losses == baseline.reference_losses


def drift(record: Record, baseline: Record, quantity: str) -> Drift:
    """Drift of `quantity` (`reference`, `loss` or `kl`). Raises ValueError where there is nothing to pair."""
    field = {"reference": "reference_losses", "loss": "sequence_losses", "kl": "sequence_kl"}[quantity]
    change = differences(getattr(record, field), getattr(baseline, field))
    bounds = (
        (EXACT_TOLERANCE, EXACT_TOLERANCE)
        if same_arithmetic(record, baseline)
        else _noise_bounds(baseline, quantity)
    )
    return Drift(rms=rms(change), max=largest(change), rms_bound=bounds[0], max_bound=bounds[1])


def _noise_bounds(baseline: Record, quantity: str) -> tuple[float, float]:
    noise = baseline.noise
    measured = (
        (0.0, 0.0)
        if noise is None
        else (getattr(noise, f"{quantity}_rms"), getattr(noise, f"{quantity}_max"))
    )
    # To second order a token's rise has the variance 2 KL, so a sequence's mean has the one below.
    tokens_per_sequence = baseline.scored_tokens / len(baseline.sequence_losses)
    own = {
        "reference": (0.0, 0.0),
        "loss": [share * math.sqrt(2 * baseline.kl / tokens_per_sequence) for share in LOSS_SHARES],
        "kl": [share * baseline.kl for share in KL_SHARES],
    }[quantity]
    rms_bound, max_bound = (
        NOISE_FLOOR + max(NOISE_MULTIPLE * stored, least) for stored, least in zip(measured, own, strict=True)
    )
    return rms_bound, max_bound
