"""The array oracle against the rational one, and both against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxcheck.formats.elements import ELEMENT_FORMATS, element_format
from mxcheck.formats.oracle import (
    dequantize_array,
    dequantize_block,
    magnitude_codes,
    quantize_array,
    quantize_block,
)
from mxcheck.formats.spec import CastSpec

each_format = pytest.mark.parametrize("name", list(ELEMENT_FORMATS))


@each_format
@settings(max_examples=50)
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40))
def test_array_equals_rational_on_any_bits(name: str, bits: list[int]) -> None:
    """There and back. (`test_search.py` has the bits that are hard, and every rule.)"""
    spec = CastSpec(format=name, block_size=40)
    x = np.array(bits, np.uint32).view(np.float32)
    codes, scales = quantize_array(x, spec)
    assert quantize_block(x.tolist(), spec) == (tuple(codes.tolist()), scales[0])
    values, exact = (
        dequantize_array(codes, scales, spec),
        dequantize_block(codes.tolist(), int(scales[0]), spec),
    )
    assert np.array_equal(values, exact, equal_nan=True)
    assert scales[0] == 255 or np.array_equal(np.signbit(values), np.signbit(exact))


@each_format
def test_every_code_at_every_scale_is_dequantized_alike(name: str) -> None:
    spec = CastSpec(format=name, block_size=256)
    codes = np.tile(np.arange(2 * element_format(name).sign_bit, dtype=np.uint8), (256, 1))
    scales = np.arange(256, dtype=np.uint8)[:, None]
    values = dequantize_array(codes, scales, spec)
    exact = [dequantize_block(codes[0].tolist(), scale, spec) for scale in range(256)]
    assert np.array_equal(values, exact, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        # amax 6 = 1.5 * 2^2: scale 2^(2 - 2). 2.5 lies between 2 and 3: even is 2. 0.25 is half of the least.
        pytest.param("fp4_e2m1", [6.0, 2.5, 0.25, -0.25, 0.75], ([7, 4, 0, 8, 2], 127), id="ties"),
        # amax 7.9: scale 1, but the largest element is 6
        pytest.param("fp4_e2m1", [7.9, -7.9], ([7, 15], 127), id="saturation"),
        pytest.param("fp8_e5m2", [65535.0, -65535.0], ([0x7B, 0xFB], 127), id="never Inf"),
        pytest.param("fp8_e4m3", [511.0, 448.0], ([0x7E, 0x7E], 127), id="never NaN"),
        pytest.param("mxint8", [1.999, -1.999, -0.001, 0.5], ([127, 129, 0, 32], 127), id="integers"),
        pytest.param("fp8_e4m3", [0.0, -0.0], ([0, 0x80], 0), id="zero block"),
        pytest.param("mxint8", [-0.0], ([0], 0), id="mxint8 has no -0"),
        pytest.param("fp6_e2m3", [math.inf, 1.0], ([0, 0], 255), id="Inf"),
        pytest.param("fp6_e2m3", [1.0, math.nan], ([0, 0], 255), id="NaN"),
        # 2^-149 / 2^-127 = 2^-22: rounds to zero, with its sign
        pytest.param("fp8_e5m2", [-(2.0**-149)], ([0x80], 0), id="lower clamp"),
        pytest.param("fp8_e5m2", [2.0**-143], ([1], 0), id="least element at the lower clamp"),
        pytest.param("mxint8", [2.0**127], ([64], 254), id="upper clamp"),
    ],
)
def test_by_hand(name: str, values: list[float], expected: tuple[list[int], int]) -> None:
    spec = CastSpec(format=name)
    codes, scale = quantize_block(values, spec)
    assert (list(codes), scale) == expected
    array_codes, array_scales = quantize_array(np.array(values, np.float32), spec)
    assert (array_codes.tolist(), array_scales.tolist()) == (expected[0], [expected[1]])


def test_shapes_along_each_axis() -> None:
    x = np.random.default_rng(0).standard_normal((5, 40, 70)).astype(np.float32)
    for axis, shape in ((0, (1, 40, 70)), (1, (5, 2, 70)), (-1, (5, 40, 3))):
        spec = CastSpec(format="fp8_e4m3", axis=axis)
        codes, scales = quantize_array(x, spec)
        assert codes.shape == x.shape
        assert scales.shape == shape
        assert dequantize_array(codes, scales, spec).shape == x.shape
        last = quantize_array(np.moveaxis(x, axis, -1).copy(), CastSpec(format="fp8_e4m3"))[0]
        assert np.array_equal(np.moveaxis(codes, axis, -1), last)


def test_wrong_arrays() -> None:
    spec = CastSpec(format="fp8_e4m3")
    with pytest.raises(TypeError, match="float32, got float64"):
        quantize_array(np.zeros(3), spec)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        quantize_array(np.zeros((0, 3), np.float32), spec)
    with pytest.raises(ValueError, match="tail='error'"):
        quantize_array(np.zeros(33, np.float32), CastSpec(format="fp8_e4m3", tail="error"))


def test_stochastic_rounding_of_narrow_magnitudes_is_refused() -> None:
    magnitude, scale = np.array([0x3F80_0001], np.int32), np.zeros(1, np.int64)
    element = element_format("fp8_e4m3")
    assert magnitude_codes(magnitude, scale, element, "even") == 0x38
    assert magnitude_codes(magnitude.astype(np.int64), scale, element, "stochastic", (1 << 32) - 1) == 0x39
    with pytest.raises(TypeError, match="stochastic rounding needs magnitudes of int64, got int32"):
        magnitude_codes(magnitude, scale, element, "stochastic", 0)
