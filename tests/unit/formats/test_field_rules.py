"""The rules of the field against their formulas, written here once more."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.codes import code_values, floor_log2
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.field_rules import (
    FIELD_DIALECTS,
    FIELD_POLICIES,
    FIELD_ROUNDINGS,
    FIELD_RULES,
    policies_of,
    quantize_blocks,
    rules_of,
)
from mxcheck.formats.oracle import quantize_array
from mxcheck.formats.spec import cast_spec

E4M3, E5M2 = ELEMENT_FORMATS["fp8_e4m3"], ELEMENT_FORMATS["fp8_e5m2"]


def floats(*words: int) -> NDArray[np.float32]:
    return np.array(words, np.uint32).view(np.float32)


def magnitudes(element: ElementFormat) -> NDArray[np.float32]:
    """amax: each positive bf16 number; powers of two, max and 1.5 max times each, with fp32's neighbours; and
    random numbers."""
    bf16 = np.arange(1, 0x7F80, dtype=np.uint32) << 16
    points = [
        np.float32(math.ldexp(significand, exponent))
        for exponent in range(-149, 128)
        for significand in (
            1.0,
            element.max_value / 2.0**element.emax,
            0.75 * element.max_value / 2.0**element.emax,
        )
        if math.ldexp(significand, exponent) < 3.4e38
    ]
    bits = np.array(points, np.float32).view(np.uint32)
    near = np.concatenate([bits - 1, bits, bits + 1])
    random = np.random.default_rng(5).integers(1, 0x7F80_0000, 3000, dtype=np.uint32)
    words = np.unique(np.concatenate([bf16, near[(near > 0) & (near < 0x7F80_0000)], random]))
    return words.view(np.float32)


def scales(name: str, amax: NDArray[np.float32], element: ElementFormat) -> NDArray[np.int64]:
    return FIELD_RULES[name].codes(amax.view(np.uint32).astype(np.int64), element)


# Transformer Engine, in whole numbers and rationals


def fp32(value: Fraction) -> int:
    """The bits of a positive rational rounded once to fp32, ties to even."""
    exponent = max(floor_log2(value), -126)
    steps = round(value / Fraction(2) ** (exponent - 23))
    return steps + ((exponent + 126) << 23)


def te_scale(amax: float, largest: float) -> int:
    """float_to_e8m0(amax * (1 / max)), of a finite amax."""
    if amax == 0:
        return 0
    reciprocal = struct.unpack("f", struct.pack("I", fp32(1 / Fraction(largest))))[0]
    bits = fp32(Fraction(amax) * Fraction(reciprocal))
    exponent, mantissa = bits >> 23, bits & 0x7FFFFF
    if mantissa and exponent != 0xFE and not (exponent == 0 and mantissa <= 0x400000):
        exponent += 1
    return exponent


def te_code(value: float, scale: int, element: ElementFormat, *, fe_is_zero: bool) -> int:
    """The element, by trying every code: nearest, ties to even, saturating; NaN stays."""
    negative = 0x80 if math.copysign(1, value) < 0 else 0
    if math.isnan(value) or (math.isinf(value) and scale == 0xFE and fe_is_zero):
        return 0x7F | negative
    if math.isinf(value):
        return element.max_magnitude | negative
    reciprocal = Fraction(1) if scale == 0 else Fraction(2) ** (127 - scale)
    if scale == 0xFE and fe_is_zero:
        reciprocal = Fraction(0)
    size = abs(Fraction(value)) * reciprocal
    table = [Fraction(one) for one in code_values(element)[: element.max_magnitude + 1]]
    return min(range(len(table)), key=lambda code: (abs(table[code] - size), code & 1)) | negative


@pytest.mark.parametrize("element", [E4M3, E5M2], ids=lambda element: element.name)
def test_scales_of_te_bit_for_bit(element: ElementFormat) -> None:
    amax = magnitudes(element)
    expected = [te_scale(float(one), element.max_value) for one in amax]
    assert scales("reciprocal_one", amax, element).tolist() == expected
    assert scales("reciprocal", amax, element).tolist() == expected
    assert scales("reciprocal_one", floats(0), element).tolist() == [0]
    assert not FIELD_RULES["reciprocal"].one_at_zero


@pytest.mark.parametrize("policy", ["element", "element_fe_zero"])
@pytest.mark.parametrize("element", [E4M3, E5M2], ids=lambda element: element.name)
def test_blocks_of_te_bit_for_bit(element: ElementFormat, policy: str) -> None:
    """Down to the scale 00, whose reciprocal is 1, with NaN and Inf of either sign."""
    random = np.random.default_rng(7)
    lead = random.choice(magnitudes(element), 400)
    blocks = (random.uniform(-1, 1, (400, 8)) * lead[:, None].astype(np.float64)).astype(np.float32)
    blocks[:, 3] = lead
    blocks[:60, 4] = np.float32(2.0**-131) * random.uniform(-1, 1, 60).astype(np.float32)
    blocks[:60, 3] = np.float32(2.0**-120)
    blocks[100:140, 1], blocks[120:160, 2], blocks[150:180, 5] = np.nan, np.inf, -np.inf
    blocks[180, :], blocks[181, :] = np.nan, -0.0
    codes, got = quantize_blocks(blocks, element, FIELD_RULES["reciprocal_one"], "even", policy)
    for row, block in enumerate(blocks.astype(float)):
        finite = [abs(one) for one in block if math.isfinite(one)]
        scale = 0xFE if np.isinf(block).any() else te_scale(max(finite, default=0.0), element.max_value)
        expected = [te_code(one, scale, element, fe_is_zero=policy == "element_fe_zero") for one in block]
        nan = [code & 0x7F for code in expected], [int(code) & 0x7F for code in codes[row]]
        assert got[row] == scale
        assert nan[0] == nan[1]
        signs = [(one & 0x80, int(two) & 0x80) for one, two in zip(expected, codes[row], strict=True)]
        assert all(
            one == two for (one, two), value in zip(signs, block, strict=True) if not math.isnan(value)
        )


def test_te_is_not_the_exact_rule() -> None:
    """At single amax; and a block under the scale 00 has no elements left."""
    amax = floats(0x0460_0001)
    assert scales("rceil", amax, E4M3) - scales("reciprocal_one", amax, E4M3) == 1
    block = np.full((1, 4), 2.0**-130, np.float32)
    codes, scale = quantize_blocks(block, E4M3, FIELD_RULES["reciprocal_one"], "even", "element")
    assert (codes.tolist(), scale.tolist()) == ([[0] * 4], [0])
    assert quantize_blocks(block, E4M3, FIELD_RULES["reciprocal"], "even")[0].all()


# The others


@pytest.mark.parametrize("element", ELEMENT_FORMATS.values(), ids=lambda element: element.name)
def test_other_rules_by_their_formulas(element: ElementFormat) -> None:
    amax = magnitudes(element)
    quotient = torch.from_numpy(amax) / element.max_value
    nearest = quotient.to(torch.float8_e8m0fnu).view(torch.uint8)
    assert np.array_equal(scales("nearest", amax, element), nearest.numpy())
    largest = Fraction(element.max_value)
    some = amax[::11]
    exact = [max(floor_log2(Fraction(float(one)) / largest), -127) + 127 for one in some]
    assert scales("floor_max", some, element).tolist() == exact
    # Where torch's logarithm is rounded otherwise than once, the two may differ: nowhere here.
    log2 = torch.from_numpy(amax).log2().floor() - element.emax
    assert np.array_equal(scales("floor_log2", amax, element), log2.clamp(-127, 127).int().numpy() + 127)
    ceiling = torch.where(quotient > 0, quotient, 2.0**-149).log2().ceil()
    assert np.array_equal(scales("rceil_log2", amax, element), ceiling.clamp(-127, 127).int().numpy() + 127)


def test_zero_has_the_scale_00() -> None:
    for rule in FIELD_RULES.values():
        assert rule.codes(np.zeros(1, np.int64), E4M3).tolist() == [0], rule.name


@pytest.mark.parametrize("rounding", ["even", "away", "zero"])
@pytest.mark.parametrize("element", ELEMENT_FORMATS.values(), ids=lambda element: element.name)
def test_ours_are_the_oracles(element: ElementFormat, rounding: str) -> None:
    random = np.random.default_rng(3)
    bits = random.integers(0, 1 << 32, (64, 32), dtype=np.uint64).astype(np.uint32)
    bits[:48] = (bits[:48] & 0x80FF_FFFF) | 0x3D00_0000
    blocks = bits.view(np.float32)
    for rule in rules_of(element):
        if rule.name not in BLOCK_FORMATS[element.name].scale_rules:
            continue
        for policy in policies_of(element)[:2]:
            spec = cast_spec(element.name, scale_rule=rule.name, rounding=rounding, nonfinite=policy)
            codes, expected = quantize_array(blocks, spec)
            got = quantize_blocks(blocks, element, rule, rounding, policy)
            assert np.array_equal(got[1], expected[:, 0])
            meant = expected[:, 0] != 0xFF
            assert np.array_equal(got[0][meant], codes[meant])
    assert {rule.name for rule in rules_of(element)} >= {"floor", "ceil", "rceil"}
    assert ("even" in {rule.name for rule in rules_of(element)}) != element.twos_complement


def test_ties_toward_zero() -> None:
    """Between 1 and 1.125, 1.125 and 1.25; and just above."""
    block = np.array([[448.0, 1.0625, 1.1875, -1.0625, 1.0625 + 2.0**-20, 0.0]], np.float32)
    codes, _ = quantize_blocks(block, E4M3, FIELD_RULES["rceil"], "half_zero")
    assert codes.tolist() == [[0x7E, 0x38, 0x39, 0xB8, 0x39, 0x00]]


def test_tables_name_what_there_is() -> None:
    for rule, rounding, policy in FIELD_DIALECTS:
        assert rule in FIELD_RULES
        assert rounding in FIELD_ROUNDINGS
        assert policy in FIELD_POLICIES
