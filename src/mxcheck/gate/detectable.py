"""The smallest changes of a case that the gate, and a statistical test on its tokens, would detect."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import stdev

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.drift import Drift, drift
from mxcheck.gate.record import Record
from mxcheck.gate.statistics import exponential, student_quantile
from mxcheck.gate.verdict import rise

#: One-sided level and power of the test in `minimal_detectable_effect`.
LEVEL = 0.05
POWER = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Detectable:
    """Smallest detectable changes of one case, in nats per token unless named a percentage.

    `rise` is the minimal detectable effect of a paired test clustered by sequence, `rise_percent` the same
    for the perplexity, `unpaired_percent` that of two independent samples of as many sequences. `*_here` and
    `*_elsewhere` are the bounds of step 6 on a machine with the baseline's arithmetic, and on any
    other: a uniform change of all sequences is detected from the median's bound on (with few sequences,
    perhaps from the root mean square's), a change of a single sequence from the maximum's. `kl_headroom` is
    the increase that step 5 still permits.
    """

    sequences: int
    scored_tokens: int
    rise_error: float
    rise: float
    rise_percent: float
    unpaired_percent: float
    loss_here: float
    loss_median_elsewhere: float
    loss_max_elsewhere: float
    kl_median_elsewhere: float
    kl_max_elsewhere: float
    kl_headroom: float


def minimal_detectable_effect(error: float, sequences: int) -> float:
    """Return the smallest true mean that a one-sided test at `LEVEL` detects with probability `POWER`, given
    the standard error `error` of the mean of `sequences` independent sequence means: (t_0.95 + t_0.8) error
    with `sequences` - 1 degrees of freedom (Bloom, Evaluation Review 19(5), 1995). Infinite for one
    sequence."""
    if sequences < 2:
        return math.inf
    degrees = sequences - 1
    return (student_quantile(1 - LEVEL, degrees) + student_quantile(POWER, degrees)) * error


def detectable(baseline: Record, bounds: Bounds) -> Detectable:
    """Return the changes detectable in the accepted case `baseline` under `bounds`. Raises ValueError where
    it has no KL."""
    accepted_kl, _ = baseline.exact_kl
    sequences = len(baseline.sequence_losses)
    _, error, _ = rise(baseline)
    smallest = minimal_detectable_effect(error, sequences)
    elsewhere = replace(baseline, arithmetic="of another machine")
    loss, kl = (drift(elsewhere, baseline, quantity) for quantity in ("loss", "kl"))
    return Detectable(
        sequences=sequences,
        scored_tokens=baseline.scored_tokens,
        rise_error=error,
        rise=smallest,
        rise_percent=_percent(smallest),
        unpaired_percent=_percent(
            minimal_detectable_effect(_unpaired_error(baseline.sequence_losses), sequences)
        ),
        loss_here=drift(baseline, baseline, "loss").median_bound,
        loss_median_elsewhere=_narrowest(loss),
        loss_max_elsewhere=loss.max_bound,
        kl_median_elsewhere=_narrowest(kl),
        kl_max_elsewhere=kl.max_bound,
        kl_headroom=bounds.kl - accepted_kl,
    )


def _narrowest(found: Drift) -> float:
    """Return the smallest detectable uniform change of all sequences: the median's bound, or that of the root
    mean square, which may be narrower with few sequences."""
    return min(found.median_bound, found.rms_bound, found.max_bound)


def _percent(nats: float) -> float:
    """Convert a rise of the cross-entropy in nats to a percentage of the perplexity."""
    return 100 * (exponential(nats) - 1)


def _unpaired_error(losses: list[float]) -> float:
    """Return the standard error of the difference of the means of two independent samples like this one."""
    return math.sqrt(2 / len(losses)) * stdev(losses) if len(losses) > 1 else math.inf
