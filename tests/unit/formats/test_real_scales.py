"""NVFP4 and fp8 with fp32 scales: the oracle without divisions against the search with true ones."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mxcheck.formats import real_scales
from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0
from mxcheck.formats.codes import code_values
from mxcheck.formats.elements import element_format
from mxcheck.formats.oracle import dequantize_array, quantize_array
from mxcheck.formats.real_scales import fp32_quotient
from mxcheck.formats.spec import cast_spec, scales_shape
from validation.second_oracle.search import nearest_fp32, quantize_tensor_by_search

REAL_SCALED = [name for name, block in BLOCK_FORMATS.items() if block.scale != E8M0]
each_format = pytest.mark.parametrize("name", REAL_SCALED)
LEAST, LARGEST = 2.0**-149, float(np.finfo(np.float32).max)


def same(x: NDArray[np.float32], name: str) -> bool:
    """Whether the oracle and the search give the same for a matrix; NaN scales are equal."""
    ours = quantize_array(x, cast_spec(name))
    theirs = quantize_tensor_by_search(x.tolist(), cast_spec(name))
    pairs = zip(ours, theirs, strict=True)
    return all(np.array_equal(one, np.array(other, one.dtype), equal_nan=True) for one, other in pairs)


@st.composite
def matrices(draw: st.DrawFn) -> NDArray[np.float32]:
    """At most 3 rows of 20: one exponent, mostly, so that elements and their blocks' scales do not vanish."""
    exponent = draw(st.sampled_from((-149, -140, -126, 0, 119)) | st.integers(-149, 119))
    columns = draw(st.sampled_from((1, 3, 16, 17, 20)))
    # Whole multiples of a twelfth and of a sixteenth of 448 hit ties; so do small integers.
    size = st.one_of(
        st.integers(0, 256).map(float), st.integers(0, 96).map(lambda k: k * 2.625), st.floats(0, 256)
    )
    finite = st.one_of(
        size.map(lambda value: float(np.float32(math.ldexp(value, exponent)))),
        st.sampled_from((0.0, LEAST, LARGEST / 2**12)),
    )
    signed = st.builds(math.copysign, finite, st.sampled_from((1.0, -1.0)))
    special = st.sampled_from((math.nan, math.inf, -math.inf)) if draw(st.integers(0, 9)) == 0 else signed
    rows = draw(
        st.lists(st.lists(signed | special, min_size=columns, max_size=columns), min_size=1, max_size=3)
    )
    return np.array(rows, np.float32)


@each_format
@settings(max_examples=200)
@given(x=matrices())
def test_the_oracle_equals_the_search(name: str, x: NDArray[np.float32]) -> None:
    assert same(x, name)


@each_format
@settings(max_examples=50)
@given(bits=st.lists(st.integers(0, 0xFFFF_FFFF), min_size=36, max_size=36))
def test_the_oracle_equals_the_search_on_any_bits(name: str, bits: list[int]) -> None:
    """Signalling NaNs included, which numpy warns of when it widens them."""
    assert same(np.array(bits, np.uint32).view(np.float32).reshape(2, 18), name)


@each_format
def test_every_bfloat16_significand_beside_a_fixed_maximum(name: str) -> None:
    """Values from below the least element to the largest, under scales with few and with many bits."""
    bits = (
        np.concatenate([np.arange(0x3B00, 0x4400), np.arange(0x3B00, 0x4400) | 0x8000]).astype(np.uint32)
        << 16
    )
    x = bits.view(np.float32)[::7]
    for maximum in (512.0, 896.0, 1000.1):
        assert same(
            np.stack([np.append(x, np.float32(maximum)), np.append(x[::-1], np.float32(maximum))]), name
        )


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        # scale 1: 17 lies between 16 and 18, even is 16; 2^-10 is half of the least
        pytest.param("e4m3_row", [448.0, 17.0, -(2.0**-10)], ([0x7E, 0x58, 0x80], [1.0]), id="row"),
        pytest.param("e5m2_tensor", [-57344.0, 1.125], ([0xFB, 0x3C], [1.0]), id="tensor"),
        pytest.param("e4m3_row", [0.0, -0.0], ([0, 0x80], [1.0]), id="zeros keep their signs"),
        # 224 * 2^-149 / 448 is half of the least fp32 number: to even, which is 0, which counts as 1
        pytest.param("e4m3_row", [224 * LEAST, -LEAST], ([0, 0x80], [1.0]), id="scale underflows"),
        pytest.param("e4m3_row", [225 * LEAST, -LEAST], ([0x76, 0xB8], [LEAST]), id="least scale"),
        # the scale is rounded down, from 1.48 to 1 of the least number: saturation
        pytest.param("e4m3_row", [663 * LEAST], ([0x7E], [LEAST]), id="saturation"),
        pytest.param("e5m2_row", [1.0, math.nan], ([0, 0], [math.nan]), id="NaN"),
        pytest.param("e5m2_row", [-1.0, math.inf], ([0, 0], [math.nan]), id="Inf"),
        # g = 2688 / 2688; block scale 448: 6 * 448. 2688 / 448 = 6; 1120 / 448 = 2.5: even is 2
        pytest.param("nvfp4", [2688.0, -1120.0], ([7, 0xC], [0x7E], 1.0), id="nvfp4"),
        pytest.param("nvfp4", [-0.0, 0.0], ([8, 0], [0], 1.0), id="nvfp4 of zeros"),
        # 2^-149 / 2688 underflows: g counts as 1, the block scale is 0, and so are the elements
        pytest.param("nvfp4", [LEAST, -LEAST], ([0, 8], [0], 1.0), id="nvfp4 underflows"),
        pytest.param("nvfp4", [1.0, -math.inf], ([0, 0], [0], math.nan), id="nvfp4 with Inf"),
        # second block: 12 / 6 = 2; third: 2^-9 * 6 / 6, the least block scale; fourth: less than half of it
        pytest.param(
            "nvfp4",
            [2688.0, *[0.0] * 15, 12.0, -1.0, *[0.0] * 14, 6 * 2.0**-9, *[0.0] * 15, 2.0**-8, -(2.0**-8)],
            ([7, *[0] * 15, 7, 9, *[0] * 14, 7, *[0] * 15, 0, 8], [0x7E, 0x40, 0x01, 0x00], 1.0),
            id="nvfp4, small block scales",
        ),
    ],
)
def test_by_hand(name: str, values: list[float], expected: tuple[Any, ...]) -> None:
    x = np.array(values, np.float32)
    assert x.tolist() == pytest.approx(values, abs=0, nan_ok=True), "the values are fp32 numbers"
    for part, other in zip(quantize_array(x, cast_spec(name)), expected, strict=True):
        assert np.array_equal(part, np.array(other, part.dtype), equal_nan=True)
    assert same(x[None], name)


@each_format
def test_shapes_along_each_axis(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((4, 18, 33)).astype(np.float32)
    for axis in (0, 1, 2, -1, -2):
        spec = cast_spec(name, axis=axis)
        codes, scales, *tensor_scale = quantize_array(x, spec)
        assert (codes.shape, scales.shape) == (x.shape, scales_shape(x.shape, spec))
        assert [part.shape for part in tensor_scale] == ([()] if name == "nvfp4" else [])
        last_codes, last_scales, *_ = quantize_array(np.moveaxis(x, axis, -1).copy(), cast_spec(name))
        assert np.array_equal(np.moveaxis(codes, axis, -1), last_codes)
        assert np.array_equal(np.moveaxis(scales, axis, -1), last_scales)
        values = dequantize_array(codes, scales, spec, *tensor_scale)
        assert np.allclose(values, x, rtol=0.3, atol=0.3)
        last = dequantize_array(last_codes, last_scales, cast_spec(name), *tensor_scale)
        assert np.array_equal(np.moveaxis(values, axis, -1), last)


@each_format
def test_dequantize_is_exact(name: str) -> None:
    spec = cast_spec(name)
    x = np.random.default_rng(1).standard_normal((3, 40)).astype(np.float32)
    codes, scales, *tensor_scale = quantize_array(x, spec)
    values = dequantize_array(codes, scales, spec, *tensor_scale)
    elements = code_values(spec.element)
    for row in range(3):
        for column in range(40):
            if name == "nvfp4":
                block_scale = code_values(element_format("fp8_e4m3"))[int(scales[row, column // 16])]
                scale = Fraction(block_scale) * Fraction(float(tensor_scale[0]))
            else:
                scale = Fraction(float(scales[row % len(scales), 0]))
            assert Fraction(values[row, column]) == Fraction(elements[codes[row, column]]) * scale


def test_dequantize_takes_anybodys_scales() -> None:
    signalling = np.array([[0x7F80_0001]], np.uint32).view(np.float32)
    for scale in (signalling, np.array([[np.inf]], np.float32)):
        values = dequantize_array(np.zeros((1, 2), np.uint8), scale, cast_spec("e4m3_row"))
        assert np.isnan(values).all()


@pytest.mark.parametrize("divisor", [448, 57344, 2688])
def test_fp32_quotient_is_rounded_once(divisor: int) -> None:
    """Against the search among all fp32 numbers; not what a division in float64 gives, rounded again."""
    for bits in np.random.default_rng(0).integers(1, 0x7F80_0000, 500).tolist() + list(range(1, 40)):
        amax = float(np.uint32(bits).view(np.float32))
        assert fp32_quotient(amax, Fraction(divisor)) == (nearest_fp32(Fraction(amax) / divisor) or 1.0)


def _ties_away(size: Any, scales: Any, element: Any) -> Any:
    values = np.array(code_values(element)[: element.max_magnitude + 1])
    with np.errstate(all="ignore"):
        return np.searchsorted(
            (values[1:] + values[:-1]) / 2, np.where(scales > 0, size / scales, 0), side="right"
        )


def _rounded_up(amax: float, divisor: Fraction) -> float:
    scale = fp32_quotient(amax, divisor)
    exact = math.isnan(scale) or Fraction(scale) * divisor >= Fraction(amax)
    return scale if exact else float(np.nextafter(np.float32(scale), np.float32(np.inf)))


@pytest.mark.parametrize(
    ("attribute", "mutant"),
    [
        pytest.param("_nearest", _ties_away, id="ties away"),
        pytest.param("fp32_quotient", _rounded_up, id="scale rounded up"),
        pytest.param("_signed", lambda codes, *_: codes.astype(np.uint8), id="no signs"),
    ],
)
@each_format
def test_a_mutant_is_seen(name: str, attribute: str, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    element = BLOCK_FORMATS[name].element
    sizes = np.array(code_values(element)[: element.max_magnitude + 1])
    top = element.max_value * (448 if name == "nvfp4" else 1)
    ties = (sizes[1:] + sizes[:-1]) / 2 * top / element.max_value
    # ties first, then an amax that no scale divides exactly
    x = [np.array([[top, *ties]], np.float32), np.array([[-1.0, 0.3]], np.float32)]
    x += [np.array([[amax, 0.3]], np.float32) for amax in (1.1, 1.3, 1.7)]
    assert all(same(one, name) for one in x)
    monkeypatch.setattr(real_scales, attribute, mutant)
    assert not all(same(one, name) for one in x)
