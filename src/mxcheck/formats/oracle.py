"""The exact oracle: what the bits of an MX cast have to be (OCP MX v1.0, section 6.3; dialect `ocp`).

Two independent forms. `quantize_block` is the definition read aloud, in rationals, one block at a time.
`quantize_array` is the same in whole numbers on numpy arrays, for the exhaustive sweeps; the tests hold the
two against each other. Neither rounds in floating point, and neither shares code with any kernel.

What OCP leaves open is settled here: a NaN or an Inf in a block gives the scale code FF, and its element
codes (here 0) mean nothing; a zero block has the scale code 0 and keeps the signs of its zeros; scale
exponents are clamped to [-127, 127]; elements saturate to the largest finite magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mxcheck.formats.codes import E8M0_BIAS, E8M0_NAN, code_values, encode, floor_log2, scale_values
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.spec import CastSpec, block_count, resolve_axis

Int64 = NDArray[np.int64]

# rule -> scale exponent of amax > 0, before clamping
_SCALE_RULES: Mapping[str, Callable[[Fraction, ElementFormat], int]] = MappingProxyType(
    {"floor": lambda amax, element: floor_log2(amax) - element.emax}
)
# The same of amax = significand * 2^exponent, in whole numbers.
_ARRAY_SCALE_RULES: Mapping[str, Callable[[Int64, Int64, ElementFormat], Int64]] = MappingProxyType(
    {"floor": lambda significand, exponent, element: _bit_length(significand) - 1 + exponent - element.emax}
)
# (steps below, remainder, half a step) -> where to go one step up
_ARRAY_ROUNDINGS: Mapping[str, Callable[[Int64, Int64, Int64], NDArray[np.bool_]]] = MappingProxyType(
    {"even": lambda steps, rest, half: (rest > half) | ((rest == half) & (steps % 2 == 1))}
)


def quantize_block(values: Sequence[float], spec: CastSpec) -> tuple[tuple[int, ...], int]:
    """Codes and E8M0 scale code of one block, of any length, in exact rational arithmetic.

    Args:
        values: floats, taken exactly; an fp32 value is one.
        spec: its format, scale rule and rounding are used.
    """
    if not all(map(math.isfinite, values)):
        return (0,) * len(values), E8M0_NAN
    element = spec.element
    exact = [Fraction(value) for value in values]
    amax = max(map(abs, exact))
    exponent = _SCALE_RULES[spec.scale_rule](amax, element) if amax else -E8M0_BIAS
    exponent = min(max(exponent, -E8M0_BIAS), E8M0_BIAS)
    codes = tuple(
        encode(
            element,
            quotient / Fraction(2) ** exponent,
            negative=math.copysign(1.0, value) < 0,
            rounding=spec.rounding,
        )
        for quotient, value in zip(exact, values, strict=True)
    )
    return codes, exponent + E8M0_BIAS


def dequantize_block(codes: Sequence[int], scale_code: int, spec: CastSpec) -> tuple[float, ...]:
    """Values of a block, exact (each fits in a float), with -0; NaN throughout for the scale code FF."""
    elements, scale = code_values(spec.element), scale_values()[scale_code]
    return tuple(elements[code] * scale for code in codes)


def quantize_array(x: NDArray[np.float32], spec: CastSpec) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Codes and E8M0 scale codes of an array, in exact whole-number arithmetic.

    Args:
        x: float32, any shape, not empty. (16-bit floats upcast exactly.)
        spec: the cast.

    Returns:
        codes: uint8, x's shape, one code an element in the low bits.
        scales: uint8, x's shape with the block axis of length ceil(n / block_size).

    Raises:
        TypeError: x is not float32.
        ValueError: empty; no such axis; a ragged tail that the spec refuses.
    """
    if x.dtype != np.float32:
        raise TypeError(f"the oracle reads the bits of float32, got {x.dtype}")
    axis = resolve_axis(x.ndim, spec.axis)
    if x.size == 0:
        raise ValueError(f"x is empty (shape {x.shape}): there is nothing to quantize")
    element, length = spec.element, x.shape[axis]
    blocks = _blocks(np.moveaxis(x, axis, -1), block_count(length, spec), spec.block_size)

    bits = blocks.view(np.uint32).astype(np.int64)
    magnitude = bits & 0x7FFF_FFFF
    significand, exponent = _split(magnitude)
    amax = magnitude.max(-1, keepdims=True)
    scale = _ARRAY_SCALE_RULES[spec.scale_rule](*_split(amax), element)
    scale = np.where(amax == 0, -E8M0_BIAS, np.clip(scale, -E8M0_BIAS, E8M0_BIAS))
    not_finite = amax >= 0x7F80_0000

    # Steps of 2^(binade - mantissa bits), where the binade is the element's own or the lowest one.
    binade = np.maximum(_bit_length(significand) - 1 + exponent - scale, element.emin)
    shift = np.minimum(binade - element.mantissa_bits - (exponent - scale), 62)  # 62: all bits are gone
    right, left = np.maximum(shift, 0), np.maximum(-shift, 0)
    steps = (significand << left) >> right
    rest = significand - (steps << right) * (shift >= 0)
    half = (np.int64(1) << right) >> 1
    up = _ARRAY_ROUNDINGS[spec.rounding](steps, rest, half) & (shift > 0)
    codes = np.minimum(((binade - element.emin) << element.mantissa_bits) + steps + up, element.max_magnitude)
    negative = (bits >> 31) == 1
    signed = -codes % (2 * element.sign_bit) if element.twos_complement else codes | element.sign_bit
    codes = np.where(negative, signed, codes) * ~not_finite

    rows = codes.astype(np.uint8).reshape(*codes.shape[:-2], -1)[..., :length]
    scales = np.where(not_finite, E8M0_NAN, scale + E8M0_BIAS).astype(np.uint8)[..., 0]
    return np.moveaxis(rows, -1, axis), np.moveaxis(scales, -1, axis)


def dequantize_array(
    codes: NDArray[np.uint8], scales: NDArray[np.uint8], spec: CastSpec
) -> NDArray[np.float64]:
    """Values of codes and scales: exact, in float64, of the codes' shape; NaN where the scale code is FF."""
    axis = resolve_axis(codes.ndim, spec.axis)
    spread = np.repeat(np.array(scale_values())[scales], spec.block_size, axis)
    spread = np.moveaxis(np.moveaxis(spread, axis, 0)[: codes.shape[axis]], 0, axis)
    values: NDArray[np.float64] = np.array(code_values(spec.element))[codes] * spread
    return values


def _blocks(rows: NDArray[np.float32], count: int, block_size: int) -> NDArray[np.float32]:
    """[..., n] as [..., count, block_size], filled up with zeros."""
    padded = np.zeros((*rows.shape[:-1], count * block_size), np.float32)
    padded[..., : rows.shape[-1]] = rows
    return padded.reshape(*rows.shape[:-1], count, block_size)


def _split(magnitude: Int64) -> tuple[Int64, Int64]:
    """fp32 bits without the sign as (significand, exponent): the value is significand * 2^exponent."""
    field, fraction = magnitude >> 23, magnitude & 0x7F_FFFF
    return fraction + (np.minimum(field, 1) << 23), np.maximum(field, 1) - 150


def _bit_length(whole: Int64) -> Int64:
    """int.bit_length, elementwise, of whole numbers below 2^24."""
    return np.searchsorted(np.int64(1) << np.arange(24), whole, side="right").astype(np.int64)
