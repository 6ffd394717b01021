"""The oracles against each other, E8M0 scales: rationals, whole numbers on arrays, and the table search."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import pairwise
from math import ceil, floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mxcheck.formats import codes, oracle
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.oracle import quantize_array, quantize_block
from mxcheck.formats.spec import ROUNDINGS, CastSpec
from validation.second_oracle.bit_tables import TABLE_ROUNDINGS, encode_bits, scale_thresholds
from validation.second_oracle.search import element_table, quantize_block_by_search

RULES = [(name, rule) for name in ELEMENT_FORMATS for rule in BLOCK_FORMATS[name].scale_rules]
each_rule = pytest.mark.parametrize(
    ("name", "rule"), [pytest.param(name, rule, id=f"{name}-{rule}") for name, rule in RULES]
)
HALF = Fraction(1, 2)
BFLOAT16 = (np.arange(1 << 16) << 16).astype(np.uint32)
# Every bf16 significand next to the lower clamp of the scale, around 1, and next to the upper one; the signs
# take turns. The random integers: with k / 16 of 2^32 a remainder can reach 1 exactly, with one less it just
# does not.
BINADES = np.array(
    [(field << 23) | (significand << 16) for field in (0, 1, 2, 126, 127, 254) for significand in range(128)],
    np.uint32,
)
BINADES |= (np.arange(BINADES.size, dtype=np.uint32) % 2) << 31
RANDOM = (np.arange(BINADES.size) * 5 % 16 << 28) - (np.arange(BINADES.size) % 3 == 0)
RANDOM = np.maximum(RANDOM, 0)


def floats(bits: NDArray[np.uint32]) -> NDArray[np.float32]:
    return bits.view(np.float32)


def by_tables(
    x: NDArray[np.float32], name: str, rule: str, rounding: str
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Codes and scales of numbers that are each a block of their own."""
    element = ELEMENT_FORMATS[name]
    amax = x.view(np.uint32) & 0x7FFF_FFFF
    finite = amax < 0x7F80_0000
    scales = np.searchsorted(scale_thresholds(element, rule), amax, side="right")
    # Exact: alone in its block, a number is about as large as its scale.
    alone = np.ldexp(np.where(finite, x, 0), 127 - scales).astype(np.float32)
    encoded = encode_bits(alone.view(np.uint32), element, rounding)
    return np.where(finite, encoded, 0).astype(np.uint8), np.where(finite, scales, 255).astype(np.uint8)


@pytest.mark.parametrize("rounding", TABLE_ROUNDINGS)
@each_rule
def test_every_bfloat16_value_in_a_block_of_its_own(name: str, rule: str, rounding: str) -> None:
    x = floats(BFLOAT16)
    spec = CastSpec(format=name, scale_rule=rule, rounding=rounding, block_size=1)
    for ours, theirs in zip(quantize_array(x, spec), by_tables(x, name, rule, rounding), strict=True):
        assert np.array_equal(ours, theirs)


def disagreements(name: str, rule: str, rounding: str) -> tuple[int, int]:
    """How often the array and the rational oracle differ from the search over blocks of one."""
    spec = CastSpec(format=name, scale_rule=rule, rounding=rounding, block_size=1, random=RANDOM)
    array_codes, array_scales = quantize_array(floats(BINADES), spec)
    array = list(zip(array_codes.tolist(), array_scales.tolist(), strict=True))
    drawn = list(zip(floats(BINADES).tolist(), RANDOM.tolist(), strict=True))
    rational = [quantize_block([value], spec, [integer]) for value, integer in drawn]
    search = [quantize_block_by_search([value], spec, [integer]) for value, integer in drawn]
    return (
        sum(((code,), scale) != other for (code, scale), other in zip(array, search, strict=True)),
        sum(one != other for one, other in zip(rational, search, strict=True)),
    )


@pytest.mark.parametrize("rounding", ROUNDINGS)
@each_rule
def test_the_three_agree_on_every_significand(name: str, rule: str, rounding: str) -> None:
    assert disagreements(name, rule, rounding) == (0, 0)


@cache
def anchors(element: ElementFormat) -> tuple[float, ...]:
    """Values and midpoints of an element format."""
    sizes = tuple(map(float, element_table(element).sizes))
    return (*sizes, *((low + high) / 2 for low, high in pairwise(sizes)))


@st.composite
def blocks(draw: st.DrawFn, element: ElementFormat) -> NDArray[np.float32]:
    """At one scale, mostly: bits of values and midpoints times 2^e, their neighbours, powers of two, any."""
    exponent = draw(
        st.sampled_from((-149, -140, -133, -127, -126, 0, 100, 110, 126, 127)) | st.integers(-149, 127)
    )

    def near(anchor: float, step: int) -> int:
        size = min(math.ldexp(anchor, exponent), 3.4e38)
        return max(int(np.float32(size).view(np.uint32)) + step, 0)

    magnitudes = st.one_of(
        st.builds(near, st.sampled_from(anchors(element)), st.integers(-1, 1)),
        st.builds(near, st.sampled_from(anchors(element)), st.integers(-1, 1)),
        st.builds(lambda field, step: max((field << 23) + step, 0), st.integers(0, 255), st.integers(-1, 1)),
        st.integers(0, 0x7FFF_FFFF),
    )
    bits = draw(st.lists(st.tuples(magnitudes, st.booleans()), min_size=1, max_size=6))
    return np.array([size | negative << 31 for size, negative in bits], np.uint32).view(np.float32)


@pytest.mark.parametrize("name", list(ELEMENT_FORMATS))
@settings(max_examples=250)
@given(data=st.data())
def test_the_three_agree_on_blocks(name: str, data: st.DataObject) -> None:
    element = ELEMENT_FORMATS[name]
    x = data.draw(blocks(element))
    edges = st.sampled_from([0, 1, 1 << 28, 1 << 30, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
    random = data.draw(st.lists(edges | st.integers(0, 2**32 - 1), min_size=x.size, max_size=x.size))
    spec = CastSpec(
        format=name,
        block_size=6,
        scale_rule=data.draw(st.sampled_from(BLOCK_FORMATS[name].scale_rules)),
        rounding=data.draw(st.sampled_from(ROUNDINGS)),
        nonfinite=data.draw(st.sampled_from(("block", "element") if name.startswith("fp8") else ("block",))),
        random=np.array(random),
    )
    expected = quantize_block_by_search(x.tolist(), spec, random)
    assert quantize_block(x.tolist(), spec, random) == expected
    array_codes, array_scales = quantize_array(x, spec)
    assert (tuple(array_codes.tolist()), *array_scales.tolist()) == expected


@each_rule
def test_blocks_of_a_matrix(name: str, rule: str) -> None:
    """Along either axis, with a short last block, each element with its own random integer."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((5, 38)).astype(np.float32)
    random = generator.integers(0, 2**32, x.shape)
    for axis, rows, integers in ((-1, x, random), (0, x.T, random.T)):
        spec = CastSpec(
            format=name, axis=axis, block_size=16, scale_rule=rule, rounding="stochastic", random=random
        )
        array_codes, array_scales = (np.moveaxis(part, axis, -1) for part in quantize_array(x, spec))
        for row, values in enumerate(rows):
            for block, start in enumerate(range(0, len(values), 16)):
                part = slice(start, start + 16)
                given_integers = integers[row, part].tolist()
                expected = quantize_block_by_search(values[part].tolist(), spec, given_integers)
                assert quantize_block(values[part].tolist(), spec, given_integers) == expected
                assert (tuple(array_codes[row, part].tolist()), array_scales[row, block]) == expected


def test_the_policy_element_by_hand() -> None:
    spec = CastSpec(format="fp8_e4m3", scale_rule="rceil", nonfinite="element", block_size=4)
    cases: list[tuple[list[float], tuple[tuple[int, ...], int]]] = [
        # NaN keeps its sign and its element; 448 = max * 2^0
        ([math.nan, 448.0, -1.0, -math.nan], ((0x7F, 0x7E, 0xB8, 0xFF), 127)),
        # 1 / 2^127 is far below half of the least element
        ([math.inf, 1.0, -math.inf, -1.0], ((0x7E, 0, 0xFE, 0x80), 254)),
        ([math.inf, math.nan], ((0x7E, 0x7F), 254)),
        ([math.nan, -0.0], ((0x7F, 0x80), 0)),
    ]
    for values, expected in cases:
        assert quantize_block(values, spec) == expected
        assert quantize_block_by_search(values, spec) == expected
        array_codes, array_scales = quantize_array(np.array(values, np.float32), spec)
        assert (tuple(array_codes.tolist()), *array_scales.tolist()) == expected


def test_stochastic_rounding_needs_its_integers() -> None:
    spec = CastSpec(format="fp8_e4m3", rounding="stochastic")
    with pytest.raises(ValueError, match="needs a random integer a value: 2, got none"):
        quantize_block([1.0, 2.0], spec)
    with pytest.raises(ValueError, match="needs a random integer a value: 2, got 1"):
        quantize_block([1.0, 2.0], spec, [0])
    with pytest.raises(ValueError, match=r"needs spec.random.*shape \(2,\), got None"):
        quantize_array(np.ones(2, np.float32), spec)
    with pytest.raises(ValueError, match=r"needs spec.random.*shape \(2,\), got \(3,\)"):
        quantize_array(
            np.ones(2, np.float32), CastSpec(format="fp8_e4m3", rounding="stochastic", random=np.zeros(3))
        )


# table, entry, format, and what the entry becomes: another rule, or the same one wrong on the boundary alone
MUTANTS: list[tuple[str, str, str, Callable[..., Any]]] = [
    ("_ONE_MORE", "floor", "fp8_e4m3", lambda top, _: top > 1),
    ("_ONE_MORE", "ceil", "fp8_e4m3", lambda top, _: top >= 1),
    ("_ONE_MORE", "even", "fp6_e3m2", lambda top, _: top > 15 / 8),
    ("_ONE_MORE", "rceil", "fp4_e2m1", lambda top, _: top >= 1.5),
    ("_ARRAY_ONE_MORE", "floor", "fp8_e4m3", lambda top, one, _: top > one),
    ("_ARRAY_ONE_MORE", "ceil", "fp8_e4m3", lambda top, one, _: top >= one),
    ("_ARRAY_ONE_MORE", "even", "fp6_e3m2", lambda top, one, _: 8 * top > 15 * one),
    ("_ARRAY_ONE_MORE", "rceil", "fp4_e2m1", lambda top, one, _: 2 * top >= 3 * one),
    ("ROUNDINGS", "even", "fp8_e4m3", lambda steps, _: floor(steps + HALF)),
    ("ROUNDINGS", "even", "fp4_e3m0", lambda steps, _: ceil(steps - HALF)),
    ("ROUNDINGS", "away", "mxint8", lambda steps, _: round(steps)),
    ("ROUNDINGS", "zero", "fp6_e2m3", lambda steps, _: ceil(steps)),
    ("ROUNDINGS", "stochastic", "fp8_e5m2", lambda steps, random: floor(steps + Fraction(random - 1, 2**32))),
    ("_ARRAY_ROUNDINGS", "even", "fp8_e4m3", lambda _, rest, right, __: 2 * rest >= 1 << right),
    ("_ARRAY_ROUNDINGS", "even", "fp4_e3m0", lambda _, rest, right, __: 2 * rest > 1 << right),
    ("_ARRAY_ROUNDINGS", "away", "mxint8", lambda _, rest, right, __: 2 * rest > 1 << right),
    ("_ARRAY_ROUNDINGS", "zero", "fp6_e2m3", lambda _, rest, __, ___: rest > 0),
    ("_ARRAY_ROUNDINGS", "stochastic", "fp8_e5m2", lambda _, rest, k, r: (rest << 32 >> k) + r > 1 << 32),
]


@pytest.mark.parametrize(
    ("table", "entry", "name", "mutant"), [pytest.param(*row, id="-".join(row[:3])) for row in MUTANTS]
)
def test_a_mutant_of_either_oracle_is_seen(
    table: str, entry: str, name: str, mutant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only the mutated one of the two disagrees with the search."""
    module = codes if table == "ROUNDINGS" else oracle
    monkeypatch.setattr(module, table, {**getattr(module, table), entry: mutant})
    rule, rounding = (entry, "even") if table.endswith("ONE_MORE") else ("floor", entry)
    array, rational = disagreements(name, rule, rounding)
    assert (array > 0, rational > 0) == (table.startswith("_ARRAY"), not table.startswith("_ARRAY"))
