"""Paired statistics over sequences. Every sequence has the same number of scored tokens, so a mean over
sequences is a mean over tokens, and clustering by sequence is the plain standard error of sequence means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

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


def exponential(value: float) -> float:
    """exp, and infinity where it overflows: a ruined model is still a row of the table."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def rms(values: Sequence[float]) -> float:
    return math.sqrt(fmean(value * value for value in values))


def largest(values: Sequence[float]) -> float:
    return max(abs(value) for value in values)
