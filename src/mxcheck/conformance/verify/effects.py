"""Classify a wrong scale, code or value relative to the right one."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxcheck.formats.codes import E8M0_NAN, code_values
from mxcheck.formats.elements import ElementFormat

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

# Effects of a mismatch; arrays hold the index.
EFFECTS = ("other", "one up", "one down", "to zero", "sign", "NaN", "last place", "-128", "tensor scale")
OTHER, UP, DOWN, TO_ZERO, SIGN, NAN, LAST_PLACE, MINUS_128, TENSOR = range(len(EFFECTS))


def scale_effects(got: NDArray[Any], expected: NDArray[Any]) -> Int64:
    """Effects of wrong scales: E8M0 or E4M3 codes, or fp32 numbers."""
    if got.dtype == np.float32:
        steps = got.view(np.int32).astype(np.int64) - expected.view(np.int32)
        close = (np.abs(steps) == 1) & np.isfinite(got) & np.isfinite(expected)
        found = np.where(close, LAST_PLACE, np.where(got == 0, TO_ZERO, OTHER))
        return np.asarray(np.where(np.isnan(got), NAN, found), np.int64)
    steps = got.astype(np.int64) - expected
    found = effects(steps, got == 0, np.ones(got.shape, np.bool_), np.ones(got.shape, np.bool_))
    return np.where(expected == E8M0_NAN, OTHER, np.where(got == E8M0_NAN, NAN, found))


def code_effects(element: ElementFormat, got: NDArray[np.uint8], expected: NDArray[np.uint8]) -> Int64:
    """Effects of wrong element codes."""
    magnitudes = magnitudes_of(element)
    got_size, size = magnitudes[got], magnitudes[expected]
    same_sign = ((got ^ expected) & element.sign_bit == 0) | (got_size == 0) | (size == 0)
    is_code = got.astype(np.int64) < 2 * element.sign_bit
    found = effects(got_size - size, got_size == 0, same_sign, is_code)
    return np.where(got == element.sign_bit, MINUS_128, found) if element.twos_complement else found


def effects(steps: Int64, zero: Bool, same_sign: Bool, is_code: Bool) -> Int64:
    """Effects of magnitudes that are `steps` codes too high; `other` for what is no code."""
    found = np.where(zero, TO_ZERO, OTHER)
    found = np.where(steps == 1, UP, np.where(steps == -1, DOWN, found))
    found = np.where(same_sign, found, np.where(steps == 0, SIGN, OTHER))
    return np.asarray(np.where(is_code, found, OTHER), np.int64)


@cache
def magnitudes_of(element: ElementFormat) -> Int64:
    """The magnitude code of each byte."""
    codes = np.arange(256)
    if element.twos_complement:
        return np.where(codes > element.sign_bit, 256 - codes, codes)
    return codes & (element.sign_bit - 1)


@cache
def ladder_of(element: ElementFormat) -> Float64:
    """The values of the magnitude codes, and one step above the last."""
    values = list(code_values(element)[: element.max_magnitude + 1])
    return np.array([*values, 2 * values[-1] - values[-2]], np.float64)
