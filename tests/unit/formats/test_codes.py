"""Code tables against ml_dtypes and gfloat, code by code; encode against decode."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest

from mxcheck.formats.codes import (
    code_values,
    decode,
    encode,
    finite_codes,
    floor_log2,
    scale_values,
    split_sign,
)
from mxcheck.formats.elements import ELEMENT_FORMATS, element_format

GFLOAT = {
    "fp8_e4m3": gfloat.formats.format_info_ocp_e4m3,
    "fp8_e5m2": gfloat.formats.format_info_ocp_e5m2,
    "fp6_e3m2": gfloat.formats.format_info_ocp_e3m2,
    "fp6_e2m3": gfloat.formats.format_info_ocp_e2m3,
    "fp4_e2m1": gfloat.formats.format_info_ocp_e2m1,
    "mxint8": gfloat.formats.format_info_ocp_int8,
    # gfloat has no E3M0, but decodes it when its data say so.
    "fp4_e3m0": replace(gfloat.formats.format_info_ocp_e2m1, name="e3m0", precision=1, bias=3),
}
ML_DTYPES = {
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp6_e3m2": ml_dtypes.float6_e3m2fn,
    "fp6_e2m3": ml_dtypes.float6_e2m3fn,
    "fp4_e2m1": ml_dtypes.float4_e2m1fn,
}
each_format = pytest.mark.parametrize("name", list(ELEMENT_FORMATS))


def same(left: float, right: float) -> bool:
    """Equal as values of a code: -0 is not 0, and NaNs are equal."""
    if math.isnan(left) or math.isnan(right):
        return math.isnan(left) and math.isnan(right)
    return left == right and math.copysign(1, left) == math.copysign(1, right)


@each_format
def test_values_equal_gfloat(name: str) -> None:
    values = code_values(element_format(name))
    theirs = [gfloat.decode_float(GFLOAT[name], code).fval for code in range(len(values))]
    assert all(map(same, values, theirs))


@pytest.mark.parametrize("name", list(ML_DTYPES))
def test_values_equal_ml_dtypes(name: str) -> None:
    values = code_values(element_format(name))
    theirs = np.arange(len(values), dtype=np.uint8).view(ML_DTYPES[name]).astype(np.float64)
    assert all(map(same, values, theirs.tolist()))


def test_values_of_e3m0() -> None:
    """No library has it as its own type: the table by hand."""
    sizes = [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    theirs = [*sizes, *(-size for size in sizes)]
    assert all(map(same, code_values(element_format("fp4_e3m0")), theirs))


def test_every_format_has_an_independent_table() -> None:
    assert set(GFLOAT) == set(ELEMENT_FORMATS)
    assert set(ML_DTYPES) == set(ELEMENT_FORMATS) - {"mxint8", "fp4_e3m0"}


def test_scale_values_equal_gfloat() -> None:
    theirs = [gfloat.decode_float(gfloat.formats.format_info_ocp_e8m0, code).fval for code in range(256)]
    assert all(map(same, scale_values(), theirs))


def test_scale_values_equal_ml_dtypes() -> None:
    theirs = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    assert all(map(same, scale_values(), theirs.tolist()))


@each_format
def test_every_finite_code_encodes_to_itself(name: str) -> None:
    element = element_format(name)
    for code in finite_codes(element):
        negative, _ = split_sign(element, code)
        assert encode(element, decode(element, code), negative=negative) == code


def test_mxint8_has_no_negative_zero_and_never_produces_80() -> None:
    element = element_format("mxint8")
    assert decode(element, 0x80) == -2
    assert encode(element, Fraction(0), negative=True) == 0
    assert encode(element, Fraction(-2), negative=True) == 0x81
    assert 0x80 not in finite_codes(element)


@each_format
def test_encode_saturates(name: str) -> None:
    element = element_format(name)
    assert decode(element, encode(element, Fraction(10**9), negative=False)) == element.max_value


def test_a_tie_without_mantissa_bits_goes_to_the_larger() -> None:
    element = element_format("fp4_e3m0")
    ties = {Fraction(1, 8): 0, Fraction(3, 8): 2, Fraction(3, 4): 3, Fraction(3): 5, Fraction(12): 7}
    assert {tie: encode(element, tie, negative=False) for tie in ties} == ties


def test_not_finite_and_too_wide_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="fp8_e5m2 code 0x7c is not a finite number"):
        decode(element_format("fp8_e5m2"), 0x7C)
    with pytest.raises(ValueError, match="fp4_e2m1 has no code 16; allowed: 0 to 15"):
        decode(element_format("fp4_e2m1"), 16)


def test_floor_log2_is_exact() -> None:
    for exponent in (-149, -3, 0, 7, 127):
        power = Fraction(2) ** exponent
        below = power - Fraction(1, 2**400)
        assert (floor_log2(power), floor_log2(below)) == (exponent, exponent - 1)
    with pytest.raises(ValueError, match="must be positive"):
        floor_log2(Fraction(0))
