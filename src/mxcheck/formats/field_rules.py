"""Scale rules, roundings and NaN/Inf policies of implementations in the field, as data for `mxcheck
identify`.

Computed in integers, and in numpy's fp32 where a rule is defined by it; shares no code with a kernel. Our own
rules are computed by the oracle. The others:

- `floor_max`: floor(log2(amax / max)), exactly: the largest power of two that does not exceed amax / max.
- `nearest`: fp32(amax / max) as torch casts it to float8_e8m0fnu: the nearer power of two, from 1.5 on up.
- `reciprocal_one`: `reciprocal`; elements under the scale code 00 are divided by 1, and so are zeros. As
  Transformer Engine published it up to 2.12 (common/util/ptx.cuh: exp2f_rcp); flashinfer's CPU reference.
- `floor_log2`: floor(log2(amax)) - emax, the logarithm rounded to fp32: too large just below a power of two.
- `rceil_log2`: ceil(log2(fp32(amax / max))), likewise; under 00 as `reciprocal_one`. torchao's `rceil`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mxcheck.formats.codes import E8M0_BIAS, E8M0_NAN
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.oracle import Bool, Int64, magnitude_codes, scale_exponents, signed_codes
from mxcheck.formats.spec import DIALECTS, E8M0_RULES

_MAGNITUDE, _INF = 0x7FFF_FFFF, 0x7F80_0000
_FRACTION, _HALF = 0x7F_FFFF, 0x40_0000


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRule:
    """A rule for a scale.

    Attributes:
        name: the name that users read.
        codes: the bits of finite fp32 amax -> E8M0 codes.
        one_at_zero: elements under the scale code 00 are divided by 1 and not by 2^-127.
    """

    name: str
    codes: Callable[[Int64, ElementFormat], Int64]
    one_at_zero: bool = False


def _ours(name: str) -> FieldRule:
    return FieldRule(name=name, codes=lambda amax, element: scale_exponents(amax, element, name) + E8M0_BIAS)


def _floor_max(amax: Int64, element: ElementFormat) -> Int64:
    # `rceil` is the least s with amax <= max * 2^s: for the next fp32 number above amax it is one more than
    # the largest s with max * 2^s <= amax. (max * 2^s has few bits, so it never lies between the two.)
    above = scale_exponents(amax + 1, element, "rceil")
    return np.where(amax == 0, 0, np.maximum(above - 1, -E8M0_BIAS) + E8M0_BIAS)


def _nearest(amax: Int64, element: ElementFormat) -> Int64:
    quotient = _bits(_floats(amax) / np.float32(element.max_value))
    field, fraction = quotient >> 23, quotient & _FRACTION
    # torch rounds subnormals above 2^-127 up to 2^-126.
    up = np.where(field > 0, fraction >= _HALF, fraction > _HALF)
    codes: Int64 = field + up
    return codes


def _floor_log2(amax: Int64, element: ElementFormat) -> Int64:
    return _clamped(np.floor(_log2(_floats(amax))) - element.emax)


def _rceil_log2(amax: Int64, element: ElementFormat) -> Int64:
    return _clamped(np.ceil(_log2(_floats(amax) / np.float32(element.max_value))))


def _log2(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return log2 rounded once to fp32 (float64 has enough bits); for 0 that of the smallest fp32 number."""
    return np.log2(np.maximum(values, np.float32(2.0**-149)).astype(np.float64)).astype(np.float32)


def _clamped(exponents: NDArray[np.float32]) -> Int64:
    return np.clip(exponents, -E8M0_BIAS, E8M0_BIAS).astype(np.int64) + E8M0_BIAS


def _floats(bits: Int64) -> NDArray[np.float32]:
    return bits.astype(np.uint32).view(np.float32)


def _bits(values: NDArray[np.float32]) -> Int64:
    return values.view(np.uint32).astype(np.int64)


FIELD_RULES: Mapping[str, FieldRule] = MappingProxyType(
    {
        rule.name: rule
        for rule in (
            *map(_ours, E8M0_RULES),
            FieldRule(name="floor_max", codes=_floor_max),
            FieldRule(name="nearest", codes=_nearest),
            FieldRule(name="floor_log2", codes=_floor_log2),
            FieldRule(name="rceil_log2", codes=_rceil_log2, one_at_zero=True),
            FieldRule(name="reciprocal_one", codes=_ours("reciprocal").codes, one_at_zero=True),
        )
    }
)

#: name -> how an element between two codes is rounded.
FIELD_ROUNDINGS: Mapping[str, str] = MappingProxyType(
    {
        "even": "ties to even",
        "away": "ties away from zero",
        "half_zero": "ties toward zero",
        "zero": "truncation",
    }
)

#: name -> what NaN and Inf do. `element` is Transformer Engine's policy up to 2.5 and since 2.13, with 2^-127
#: as reciprocal of FE; in between that was 0 (its issue 2408).
FIELD_POLICIES: Mapping[str, str] = MappingProxyType(
    {
        "block": "a NaN or Inf makes its block NaN",
        "element": "a NaN stays in its element; Inf gives the scale FE and saturates",
        "element_fe_zero": "a NaN stays in its element; Inf gives the scale FE and NaN, all others are zeros",
    }
)

#: (rule, rounding, policy) -> its name in the field: our dialects, and Transformer Engine by release.
FIELD_DIALECTS: Mapping[tuple[str, str, str], str] = MappingProxyType(
    {
        **{(one["scale_rule"], one["rounding"], one["nonfinite"]): name for name, one in DIALECTS.items()},
        ("reciprocal", "even", "element"): "te (Transformer Engine since 2.13)",
        ("reciprocal_one", "even", "element"): "Transformer Engine 2.0 to 2.5",
        ("reciprocal_one", "even", "element_fe_zero"): "Transformer Engine 2.6 to 2.12",
    }
)


def rules_of(element: ElementFormat) -> tuple[FieldRule, ...]:
    """Return the rules defined for an element format."""
    return tuple(rule for rule in FIELD_RULES.values() if rule.name != "even" or not element.twos_complement)


def policies_of(element: ElementFormat) -> tuple[str, ...]:
    """Return the policies defined for an element format: without NaN, it cannot keep one in an element."""
    return tuple(FIELD_POLICIES) if element.nan_magnitudes else ("block",)


def quantize_blocks(
    blocks: NDArray[np.float32], element: ElementFormat, rule: FieldRule, rounding: str, policy: str = "block"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return codes [rows, n] and E8M0 codes [rows] of blocks [rows, n]. Under scale FF codes are
    meaningless."""
    bits = _bits(np.ascontiguousarray(blocks))
    magnitude = bits & _MAGNITUDE
    is_nan, is_inf = magnitude > _INF, magnitude == _INF
    finite = np.where(is_nan | is_inf, 0, magnitude)
    scales = rule.codes(finite.max(-1, keepdims=True), element)
    infinite = is_inf.any(-1, keepdims=True)
    if policy == "block":
        scales = np.where(infinite | is_nan.any(-1, keepdims=True), E8M0_NAN, scales)
    else:
        scales = np.where(infinite, E8M0_NAN - 1, scales)
    exponents = np.where((scales == 0) & rule.one_at_zero, 0, scales - E8M0_BIAS)
    magnitudes = magnitude_codes(finite, exponents, element, rounding)
    if policy != "block":
        nan = max(element.nan_magnitudes)
        zeroed: Bool = infinite & (policy == "element_fe_zero")
        magnitudes = np.where(zeroed, 0, magnitudes)
        at_inf = np.where(zeroed, nan, element.max_magnitude)
        magnitudes = np.where(is_nan, nan, np.where(is_inf, at_inf, magnitudes))
    codes = signed_codes(magnitudes, bits >> 31 == 1, element)
    return codes.astype(np.uint8), scales[..., 0].astype(np.uint8)
