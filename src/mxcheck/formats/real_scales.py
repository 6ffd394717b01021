"""The oracle for formats whose scale has a significand: NVFP4, and fp8 with an fp32 scale.

The definition, with exact divisions and each result rounded once:

- a scale a row or a tensor: scale = fp32(amax / max), element = nearest-even, saturating, of x / scale;
- NVFP4: tensor scale g = fp32(amax / (448 * 6)); block scale = E4M3, nearest-even, saturating, of
  amax(block) / (6 * g), subnormals included; element = E2M1, nearest-even, saturating, of
  x / (block scale * g). A block whose scale is 0 has zero elements, which keep their signs.

A scale of 0 (a zero tensor or row, or one whose quotient underflows fp32) counts as 1. A NaN or an Inf makes
the fp32 scale NaN, and with it all that it scales; the codes there (here 0) are meaningless.

Nothing is divided: x is compared with every threshold between two codes times the scale. A threshold has at
most 5 significant bits and a scale at most 28, so these products are exact in float64. NVIDIA's description
of NVFP4 (Transformer Engine, cuBLAS) leaves the order of operations to the implementation; this one is ours.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mxcheck.formats.blocks import E4M3
from mxcheck.formats.codes import code_values, decode, rounded_to_fp32
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.spec import CastSpec, block_count, resolve_axis

Float64 = NDArray[np.float64]

NVFP4_BLOCK_SCALE = ELEMENT_FORMATS["fp8_e4m3"]


@cache
def value_table(element: ElementFormat) -> Float64:
    """Return the values of all codes, in order of the codes; not to be written to."""
    values = np.array(code_values(element))
    values.flags.writeable = False
    return values


def fp32_quotient(amax: float, divisor: Fraction) -> float:
    """Return fp32(amax / divisor), rounded once; 1 where that is 0, NaN where amax is not finite."""
    if not math.isfinite(amax):
        return math.nan
    return float(rounded_to_fp32(Fraction(amax) / divisor)) or 1.0


def quantize_real_scaled(
    x: NDArray[np.float32], spec: CastSpec
) -> (
    tuple[NDArray[np.uint8], NDArray[np.float32]]
    | tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]
):
    """As `mxcheck.formats.oracle.quantize_array`."""
    axis = resolve_axis(x.ndim, spec.axis)
    with np.errstate(invalid="ignore"):  # a signalling NaN
        element, exact = spec.element, x.astype(np.float64)
    size = np.abs(exact)
    if spec.block.scale == E4M3:
        return _quantize_nvfp4(exact, axis, spec)
    amax = size.max(None if spec.block.whole_tensor else axis, keepdims=True)
    divisor = Fraction(element.max_value)
    scales = np.vectorize(lambda top: fp32_quotient(top, divisor), otypes=[np.float64])(amax)
    codes = _nearest(size, scales, element)
    return _signed(codes, exact, scales, element), scales.astype(np.float32)


def _quantize_nvfp4(
    exact: Float64, axis: int, spec: CastSpec
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    element, block_size = spec.element, spec.block_size
    assert block_size is not None
    rows = np.moveaxis(exact, axis, -1)
    count = block_count(rows.shape[-1], spec)
    padded = np.zeros((*rows.shape[:-1], count * block_size))
    padded[..., : rows.shape[-1]] = rows
    size = np.abs(padded).reshape(*rows.shape[:-1], count, block_size)
    tensor = np.float64(
        fp32_quotient(float(size.max()), Fraction(NVFP4_BLOCK_SCALE.max_value) * Fraction(element.max_value))
    )
    amax = size.max(-1, keepdims=True)
    scale_codes = _nearest(amax, np.full_like(amax, tensor * element.max_value), NVFP4_BLOCK_SCALE)
    scales = value_table(NVFP4_BLOCK_SCALE)[scale_codes] * tensor
    codes = _nearest(size, scales, element).reshape(padded.shape)[..., : rows.shape[-1]]
    spread = np.broadcast_to(scales, size.shape).reshape(padded.shape)[..., : rows.shape[-1]]
    signed = _signed(codes, rows, spread, element)
    block_scales = np.where(np.isnan(tensor), 0, scale_codes)[..., 0].astype(np.uint8)
    return np.moveaxis(signed, -1, axis), np.moveaxis(block_scales, -1, axis), np.asarray(tensor, np.float32)


def _nearest(size: Float64, scales: Float64, element: ElementFormat) -> NDArray[np.int64]:
    """Return magnitude codes, nearest-even and saturating, of size / scales; 0 where the scale is 0 or
    NaN."""
    thresholds = _thresholds(element)
    codes = np.zeros(np.broadcast_shapes(size.shape, scales.shape), np.int64)
    positive = np.where(scales > 0, scales, np.nan)  # no number reaches a NaN
    # Bisection: the largest code whose threshold is reached, from its top bit to its lowest.
    step = thresholds.size // 2
    while step:
        threshold = np.take(thresholds, codes + step) * positive
        # A tie goes to the even code: all but the last step ask for one.
        codes += step * (size >= threshold if step > 1 else size > threshold)
        step //= 2
    return codes


@cache
def _thresholds(element: ElementFormat) -> Float64:
    """Return for each magnitude code the midpoint between it and the code before, exact; Inf beyond the
    largest code, and -Inf for 0."""
    finite = [decode(element, code) for code in range(element.max_magnitude + 1)]
    middle = [float(low + high) / 2 for low, high in pairwise(finite)]
    beyond = element.sign_bit - len(finite)
    return np.array([-math.inf, *middle, *[math.inf] * beyond])


def _signed(
    codes: NDArray[np.int64], x: Float64, scales: Float64, element: ElementFormat
) -> NDArray[np.uint8]:
    signed = np.where(np.signbit(x), codes | element.sign_bit, codes)
    return np.where(np.isnan(scales), 0, signed).astype(np.uint8)


def dequantize_real_scaled(
    codes: NDArray[np.uint8],
    scales: NDArray[np.generic],
    spec: CastSpec,
    tensor_scale: NDArray[np.float32] | None,
) -> Float64:
    """As `mxcheck.formats.oracle.dequantize_array`."""
    elements = np.take(value_table(spec.element), codes)
    if spec.block.scale != E4M3:
        return _product(elements, scales)
    assert tensor_scale is not None
    assert spec.block_size is not None
    axis = resolve_axis(codes.ndim, spec.axis)
    block_scales = _product(value_table(NVFP4_BLOCK_SCALE)[scales.astype(np.uint8)], tensor_scale)
    spread = np.moveaxis(np.repeat(block_scales, spec.block_size, axis), axis, 0)[: codes.shape[axis]]
    return _product(elements, np.moveaxis(spread, 0, axis))


def _product(left: Float64, right: NDArray[np.generic]) -> Float64:
    # The scales may come from anywhere: Inf * 0 and a signalling NaN give NaN, and no warning is due.
    with np.errstate(invalid="ignore"):
        return np.asarray(left * right.astype(np.float64), np.float64)
