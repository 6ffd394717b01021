"""The tables over fp32 bit patterns against the rational encode, at and beside every threshold."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest

from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0
from mxcheck.formats.codes import encode
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.oracle import scale_exponent
from validation.second_oracle.bit_tables import (
    TABLE_ROUNDINGS,
    element_thresholds,
    encode_bits,
    encode_range,
    scale_thresholds,
)

FINITE = 0x7F80_0000
SIGN = 1 << 31
each_rounding = pytest.mark.parametrize("rounding", TABLE_ROUNDINGS)
each_format = pytest.mark.parametrize("name", list(ELEMENT_FORMATS))


def value(bits: int) -> Fraction:
    return Fraction(struct.unpack("<f", struct.pack("<I", bits & ~SIGN))[0])


def exact(bits: int, element: ElementFormat, rounding: str, exponent: int = 0) -> int:
    return encode(element, value(bits) / Fraction(2) ** exponent, negative=bits >= SIGN, rounding=rounding)


@each_rounding
@each_format
def test_every_element_threshold_is_the_first_of_its_code(name: str, rounding: str) -> None:
    element = ELEMENT_FORMATS[name]
    thresholds = element_thresholds(element, rounding).tolist()
    assert len(thresholds) == element.max_magnitude
    for magnitude, bits in enumerate(thresholds, start=1):
        assert exact(bits, element, rounding) == magnitude
        assert exact(bits - 1, element, rounding) == magnitude - 1


@each_rounding
@each_format
@pytest.mark.parametrize("exponent", [-127, -126, -20, 0, 90, 127])
def test_encode_bits_at_any_scale(name: str, rounding: str, exponent: int) -> None:
    element = ELEMENT_FORMATS[name]
    drawn = np.random.default_rng(0).integers(0, FINITE, 300).tolist()
    near = [
        bits + step
        for bits in element_thresholds(element, rounding, exponent).tolist()
        for step in (-1, 0, 1)
    ]
    edges = [0, 1, 0x7F_FFFF, 0x80_0000, FINITE - 1]
    magnitudes = [bits for bits in (*drawn, *near, *edges) if bits < FINITE]
    bits = np.array([*magnitudes, *(one | SIGN for one in magnitudes)], np.uint32).reshape(2, -1)
    codes = encode_bits(bits, element, rounding, exponent)
    assert codes.shape == bits.shape
    expected = [exact(one, element, rounding, exponent) for one in bits.ravel().tolist()]
    assert codes.ravel().tolist() == expected


@pytest.mark.parametrize(
    ("name", "inf", "nan"),
    [
        pytest.param("fp8_e4m3", (0x7E, 0xFE), (0x7F, 0xFF), id="fp8_e4m3"),
        pytest.param("fp8_e5m2", (0x7B, 0xFB), (0x7F, 0xFF), id="fp8_e5m2"),
        pytest.param("fp6_e2m3", (0x1F, 0x3F), (0, 0), id="fp6_e2m3"),
        pytest.param("mxint8", (0x7F, 0x81), (0, 0), id="mxint8"),
    ],
)
def test_inf_saturates_and_nan_has_one_code(name: str, inf: tuple[int, int], nan: tuple[int, int]) -> None:
    bits = np.array(
        [FINITE, FINITE | SIGN, FINITE + 1, 0x7FFF_FFFF, (FINITE | SIGN) + 1, 0xFFFF_FFFF], np.uint32
    )
    codes = encode_bits(bits, ELEMENT_FORMATS[name], "even")
    assert codes.tolist() == [*inf, nan[0], nan[0], nan[1], nan[1]]


@each_rounding
@each_format
def test_a_range_equals_its_bits_one_by_one(name: str, rounding: str) -> None:
    element = ELEMENT_FORMATS[name]
    first, last = element_thresholds(element, rounding)[[0, -1]].tolist()
    for middle in (first, last, FINITE, SIGN, SIGN | first, SIGN | FINITE):
        bits = np.arange(middle - 999, middle + 999, dtype=np.uint32)
        codes = encode_range(middle - 999, middle + 999, element, rounding)
        assert codes.dtype == np.uint8
        assert np.array_equal(codes, encode_bits(bits, element, rounding))
    end = np.arange(2**32 - 5, 2**32).astype(np.uint32)
    assert np.array_equal(
        encode_range(2**32 - 5, 2**32, element, rounding), encode_bits(end, element, rounding)
    )
    assert np.array_equal(encode_range(0, 1, element, rounding), [0])
    assert encode_range(7, 7, element, rounding).shape == (0,)
    scaled = encode_range(first, first + 99, element, rounding, exponent=-3)
    assert np.array_equal(
        scaled, encode_bits(np.arange(first, first + 99, dtype=np.uint32), element, rounding, exponent=-3)
    )


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        pytest.param(block.name, rule, id=f"{block.name}-{rule}")
        for block in BLOCK_FORMATS.values()
        if block.scale == E8M0
        for rule in block.scale_rules
    ],
)
def test_every_scale_threshold_is_the_first_of_its_code(name: str, rule: str) -> None:
    element = ELEMENT_FORMATS[name]
    thresholds = scale_thresholds(element, rule)
    assert thresholds.shape == (254,)
    near = {int(bits) + step for bits in thresholds for step in (-1, 0, 1)}
    amax = sorted(bits for bits in near | {0, 1, FINITE - 1} if 0 <= bits < FINITE)
    codes = np.searchsorted(thresholds, np.array(amax, np.uint32), side="right")
    assert codes.tolist() == [scale_exponent(value(bits), element, rule) + 127 for bits in amax]


def test_tables_are_shared_and_so_read_only() -> None:
    element = ELEMENT_FORMATS["fp4_e2m1"]
    for table in (element_thresholds(element, "even"), scale_thresholds(element, "floor")):
        assert table.dtype == np.uint32
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 0


def test_what_no_table_holds_is_refused() -> None:
    element = ELEMENT_FORMATS["fp4_e2m1"]
    with pytest.raises(
        ValueError, match="unknown rounding of a table 'stochastic'; allowed: even, away, zero"
    ):
        element_thresholds(element, "stochastic")
    with pytest.raises(ValueError, match="unknown scale rule 'amax'; allowed: floor, ceil, even, rceil, rec"):
        scale_thresholds(element, "amax")
    for start, stop in ((-1, 3), (3, 2), (0, 2**32 + 1)):
        with pytest.raises(ValueError, match=f"bits {start} to {stop} are no range within 0 to 2"):
            encode_range(start, stop, element, "even")
