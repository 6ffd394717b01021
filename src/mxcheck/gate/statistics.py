"""Paired statistics over sequences. Every sequence has the same number of scored tokens, so a mean over
sequences is a mean over tokens, and clustering by sequence is the plain standard error of sequence means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist, fmean, median, stdev

#: One-sided 95 % quantile of the normal distribution; with 64 sequences Student's t gives 1.669.
UPPER_95 = NormalDist().inv_cdf(0.95)


def differences(after: Sequence[float], before: Sequence[float]) -> list[float]:
    """Pairwise `after - before`. Raises ValueError where the lengths differ."""
    if len(after) != len(before):
        raise ValueError(f"cannot pair {len(after)} sequences with {len(before)}")
    return [a - b for a, b in zip(after, before, strict=True)]


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error (infinite for a single value; both NaN where a value is not finite)."""
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    if len(values) < 2:
        return fmean(values), math.inf
    return fmean(values), stdev(values) / math.sqrt(len(values))


def in_standard_errors(values: Sequence[float]) -> float:
    """The mean in standard errors, 0 for the mean 0; NaN where a value is not finite."""
    mean, error = mean_and_error(values)
    if error == 0:
        return 0.0 if mean == 0 else math.copysign(math.inf, mean)
    return mean / error


def exponential(value: float) -> float:
    """Return exp(value), or infinity where it overflows: a ruined model still needs a row of the table."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def rms(values: Sequence[float]) -> float:
    return math.sqrt(fmean(value * value for value in values))


def median_abs(values: Sequence[float]) -> float:
    """Return the median of the absolute values; NaN where one is NaN, since NaN has no order."""
    if any(map(math.isnan, values)):
        return math.nan
    return median(abs(value) for value in values)


def largest(values: Sequence[float]) -> float:
    return max(abs(value) for value in values)


@cache
def student_quantile(probability: float, degrees: int) -> float:
    """Return the quantile of Student's t with a whole number of degrees of freedom, from the median upwards.

    Uses bisection of the exact distribution function, to about 1e-12. Raises ValueError for a probability
    below 0.5, for 1 or more, and without a degree of freedom.
    """
    if not 0.5 <= probability < 1 or degrees < 1:
        raise ValueError(
            f"no quantile for probability {probability} and {degrees} degrees of freedom; "
            f"allowed: 0.5 <= probability < 1 and degrees >= 1"
        )
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _student_within(middle, degrees) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return math.sqrt(degrees) * math.tan(low)


def _student_within(angle: float, degrees: int) -> float:
    """P(|t| < sqrt(degrees) tan(angle)): a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    odd = degrees % 2
    term, total = math.cos(angle) ** odd, 0.0
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * math.cos(angle) ** 2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
