"""The table search over bit patterns: the code of each of the 2^32 fp32 numbers.

Codes are monotonic in the magnitude, and bits of fp32 magnitudes are in order of value. So a cast is a list
of bits at which the code changes; each entry is found by the exact searches of `search.py`, and applying it
takes no arithmetic.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from fractions import Fraction
from functools import cache, lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mxcheck.formats.choices import choose
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.spec import E8M0_RULES
from validation.second_oracle.search import (
    FP32_INF,
    GREATEST_REACHED,
    element_table,
    fp32_value,
    nearest_index,
    scale_bounds,
)

_Array = TypeVar("_Array", bound=NDArray[np.generic])
UInt32 = NDArray[np.uint32]
UInt8 = NDArray[np.uint8]

#: Roundings that a table can hold: an element's bits do not include a random integer.
TABLE_ROUNDINGS = ("even", "away", "zero")
_FINITE = range(FP32_INF)


@cache
def element_thresholds(element: ElementFormat, rounding: str, exponent: int = 0) -> UInt32:
    """Return the bits where the magnitude code changes: entry k - 1 belongs to the smallest positive fp32
    number that is encoded, at scale 2^exponent, with a magnitude code of at least k.

    Returns:
        uint32 [element.max_magnitude], sorted, read-only; the bits of Inf where no finite number is so large.

    Raises:
        ValueError: the rounding is not one of `TABLE_ROUNDINGS`.
    """
    choose("rounding of a table", rounding, TABLE_ROUNDINGS)
    scale = Fraction(2) ** exponent

    def index(bits: int) -> int:
        return nearest_index(element, fp32_value(bits) / scale, rounding)

    found: list[int] = []
    for code in range(1, len(element_table(element).sizes)):
        # Search from the last threshold on: they are sorted.
        found.append(bisect_left(_FINITE, code, lo=found[-1] if found else 0, key=index))
    return _frozen(np.array(found, np.uint32))


@cache
def scale_thresholds(element: ElementFormat, rule: str) -> UInt32:
    """Return the bits where the scale changes: `np.searchsorted(thresholds, amax_bits, side="right")` is the
    E8M0 code for the bits of any finite amax, zero included.

    Returns:
        uint32 [254], sorted, read-only; the bits of Inf where no finite amax gives so large a scale.

    Raises:
        ValueError: not a rule of E8M0 scales.
    """
    choose("scale rule", rule, E8M0_RULES)
    bounds = scale_bounds(element, rule)
    if rule in GREATEST_REACHED:
        found = [bisect_left(_FINITE, bound, key=fp32_value) for bound in bounds[1:]]
    else:
        found = [bisect_right(_FINITE, bound, key=fp32_value) for bound in bounds[:-1]]
    return _frozen(np.array(found, np.uint32))


@lru_cache(maxsize=1024)
def _runs(element: ElementFormat, rounding: str, exponent: int) -> tuple[UInt32, UInt8]:
    """First bits of each run of one code, over all of 0 to 2^32 - 1, and the codes."""
    table, thresholds = element_table(element), element_thresholds(element, rounding, exponent)
    half = np.concatenate([[0], thresholds, [FP32_INF + 1]]).astype(np.uint32)  # zeros, ..., NaNs
    starts = np.concatenate([half, half | np.uint32(1 << 31)])
    codes = [code for sign in (0, 1) for code in (*table.codes[sign], table.nan[sign])]
    return _frozen(starts), _frozen(np.array(codes, np.uint8))


def encode_bits(bits: UInt32, element: ElementFormat, rounding: str, exponent: int = 0) -> UInt8:
    """Encode fp32 numbers at scale 2^exponent.

    Args:
        bits: bits of the numbers, uint32, any shape.
        rounding: one of `TABLE_ROUNDINGS`.

    Returns:
        uint8, of the shape of bits, with the sign. Inf saturates. NaN has the NaN code with all bits of the
        magnitude set and its own sign (fp8), or 0 where the format has no NaN.
    """
    starts, codes = _runs(element, rounding, exponent)
    return codes[np.searchsorted(starts, bits, side="right") - 1]


def encode_range(start: int, stop: int, element: ElementFormat, rounding: str, exponent: int = 0) -> UInt8:
    """Encode the consecutive bits start, ..., stop - 1 as `encode_bits` does, a hundred times faster.

    Raises:
        ValueError: not 0 <= start <= stop <= 2^32.
    """
    if not 0 <= start <= stop <= 1 << 32:
        raise ValueError(f"bits {start} to {stop} are no range within 0 to 2^32")
    starts, codes = _runs(element, rounding, exponent)
    edges = np.clip(np.append(starts.astype(np.int64), 1 << 32), start, stop)
    return np.repeat(codes, np.diff(edges))


def _frozen(array: _Array) -> _Array:
    array.flags.writeable = False  # the array is cached and shared
    return array
