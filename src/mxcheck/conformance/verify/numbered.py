"""Find unique values by tables, where `np.unique` sorts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
_DIGIT = 13


def among(values: Int64, limit: int) -> tuple[Int64, Int64]:
    """Return the sorted unique values, all below `limit`, and the index of each value among them."""
    seen = np.zeros(limit, np.bool_)
    seen[values] = True
    return np.flatnonzero(seen), (np.cumsum(seen) - 1)[values]


def numbered(keys: Int64) -> tuple[Int64, Int64]:
    """Return the sorted unique keys, and the index of each key among them. Made for many keys of which few
    differ: first digits are numbered first, and so on."""
    if not keys.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    bits = int(keys.max()).bit_length()
    found, number = np.zeros(1, np.int64), np.zeros(keys.shape, np.int64)
    for shift in range((bits - 1) // _DIGIT * _DIGIT if bits else 0, -1, -_DIGIT):
        digits, digit = among(keys >> shift & ((1 << _DIGIT) - 1), 1 << _DIGIT)
        pairs, number = among(number * len(digits) + digit, len(found) * len(digits))
        found = (found[pairs // len(digits)] << _DIGIT) | digits[pairs % len(digits)]
    return found, number
