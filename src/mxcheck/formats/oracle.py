"""The exact oracle: the required bits of a cast with E8M0 scales (OCP MX v1.0, section 6.3).

Two independent forms. `quantize_block` follows the definition literally, in rationals, one block at a time.
`quantize_array` does the same in integers on numpy arrays; the tests compare the two with each other, and
both with a table search. None rounds in floating point, and none shares code
with any kernel.

What OCP leaves open is fixed here: a zero block has scale code 0 and keeps the signs of its zeros; scale
exponents are clamped to [-127, 127]; elements saturate to the largest finite magnitude; NaN and Inf follow
`CastSpec.nonfinite`, and where they give scale code FF, the block's element codes (here 0) are meaningless.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxcheck.formats.blocks import E8M0
from mxcheck.formats.codes import (
    E8M0_BIAS,
    E8M0_NAN,
    code_values,
    encode,
    floor_log2,
    join_sign,
    rounded_to_fp32,
    scale_values,
)
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.real_scales import dequantize_real_scaled, quantize_real_scaled, value_table
from mxcheck.formats.scale_rules import check_rules
from mxcheck.formats.spec import RANDOM_BITS, CastSpec, block_count, resolve_axis

Int64 = NDArray[np.int64]
#: int32 or int64; what is computed from integers has their width.
Integers = NDArray[np.signedinteger[Any]]
Bool = NDArray[np.bool_]
#: Codes and scales; for NVFP4 also the tensor scale. (Typed so that `codes, scales = ...` passes a type
#: checker.)
Parts = tuple[NDArray[Any], ...]

_INF = 0x7F80_0000
_ELEMENTS_AT_A_TIME = 1 << 14
# bytes -> float and integer of that size, bits of the fraction, bias of the exponent
_AS_FLOATS: Mapping[int, tuple[type[np.floating[Any]], type[np.signedinteger[Any]], int, int]] = (
    MappingProxyType({4: (np.float32, np.int32, 23, 127), 8: (np.float64, np.int64, 52, 1023)})
)


def _significand(amax: Fraction) -> Fraction:
    return amax / Fraction(2) ** floor_log2(amax)


def _even_threshold(element: ElementFormat) -> Fraction:
    """Return the significand from which on numbers round up to 2 in the element's precision."""
    return 2 - Fraction(1, 1 << (element.mantissa_bits + 1))


def _max_significand(element: ElementFormat) -> Fraction:
    return Fraction(element.max_value) / Fraction(2) ** element.emax


# rule -> whether the exponent is one more than that of `floor`, by amax's significand in [1, 2)
_ONE_MORE: Mapping[str, Callable[[Fraction, ElementFormat], bool]] = MappingProxyType(
    {
        "floor": lambda _significand, _element: False,
        "ceil": lambda significand, _element: significand > 1,
        "even": lambda significand, element: significand >= _even_threshold(element),
        "rceil": lambda significand, element: significand > _max_significand(element),
    }
)
# `reciprocal` alone rounds on the way, so that amax's significand is not enough.
check_rules("formats/oracle.py: _ONE_MORE", [*_ONE_MORE, "reciprocal"])


def _reciprocal(element: ElementFormat) -> Fraction:
    return rounded_to_fp32(1 / Fraction(element.max_value))


def scale_exponent(amax: Fraction, element: ElementFormat, rule: str) -> int:
    """Return the exponent of the E8M0 scale of a block whose largest magnitude is `amax`, clamped to [-127,
    127]."""
    if not amax:
        return -E8M0_BIAS
    if rule == "reciprocal":
        product = rounded_to_fp32(amax * _reciprocal(element))
        exponent = -floor_log2(1 / product) if product else -E8M0_BIAS  # the first is ceil(log2 product)
    else:
        exponent = floor_log2(amax) - element.emax + _ONE_MORE[rule](_significand(amax), element)
    return min(max(exponent, -E8M0_BIAS), E8M0_BIAS)


def quantize_block(
    values: Sequence[float], spec: CastSpec, random: Sequence[int] | None = None
) -> tuple[tuple[int, ...], int]:
    """Return codes and E8M0 scale code of one block, of any length, in exact rational arithmetic.

    Args:
        values: floats, taken exactly; an fp32 value is one.
        spec: uses its format, scale rule, rounding and NaN/Inf policy.
        random: for stochastic rounding, an integer in [0, 2^32) per value.

    Raises:
        ValueError: stochastic rounding without a random integer for each value.
    """
    if spec.rounding == "stochastic" and (random is None or len(random) != len(values)):
        given = "none" if random is None else str(len(random))
        raise ValueError(f"stochastic rounding needs a random integer a value: {len(values)}, got {given}")
    element = spec.element
    finite = [value for value in values if math.isfinite(value)]
    if spec.nonfinite == "block" and len(finite) < len(values):
        return (0,) * len(values), E8M0_NAN
    amax = max((abs(Fraction(value)) for value in finite), default=Fraction(0))
    exponent = scale_exponent(amax, element, spec.scale_rule)
    if any(map(math.isinf, values)):
        exponent = E8M0_BIAS

    def code(value: float, integer: int) -> int:
        negative = math.copysign(1.0, value) < 0
        if math.isnan(value):
            return join_sign(element, max(element.nan_magnitudes), negative=negative)
        if math.isinf(value):
            return join_sign(element, element.max_magnitude, negative=negative)
        quotient = Fraction(value) / Fraction(2) ** exponent
        return encode(element, quotient, negative=negative, rounding=spec.rounding, random=integer)

    codes = tuple(map(code, values, random if random is not None else [0] * len(values)))
    return codes, exponent + E8M0_BIAS


def dequantize_block(codes: Sequence[int], scale_code: int, spec: CastSpec) -> tuple[float, ...]:
    """Return the exact values of a block (each fits in a float), with -0; all NaN for scale code FF."""
    elements, scale = code_values(spec.element), scale_values()[scale_code]
    return tuple(elements[code] * scale for code in codes)


# (steps below, remainder, bits of the step, random integer) -> whether to go one step up
_ARRAY_ROUNDINGS: Mapping[str, Callable[[Integers, Integers, Integers, Int64], Bool]] = MappingProxyType(
    {
        "even": lambda steps, rest, right, _: 2 * rest + (steps & 1) > _step(right),  # both sides are even
        "away": lambda _steps, rest, right, _: 2 * rest >= _step(right),
        "zero": lambda _steps, rest, _right, _: np.zeros_like(rest, dtype=np.bool_),
        "half_zero": lambda _steps, rest, right, _: 2 * rest > _step(right),
        # rest / 2^right + random / 2^32 >= 1, in integers; rest has 24 bits, so nothing overflows
        "stochastic": lambda _steps, rest, right, random: (
            ((rest << RANDOM_BITS) >> right) + random >= (1 << RANDOM_BITS)
        ),
    }
)


def _step(right: Integers) -> Integers:
    step: Integers = np.left_shift(1, right)
    return step


# rule -> whether the exponent is one more than that of `floor`, by amax's significand as (integer, its
# power-of-two floor)
_ARRAY_ONE_MORE: Mapping[str, Callable[[Int64, Int64, ElementFormat], Bool]] = MappingProxyType(
    {
        "floor": lambda whole, _floor, _element: np.zeros_like(whole, dtype=np.bool_),
        "ceil": lambda whole, floor, _element: whole > floor,
        # times 2^(m + 1), so that the threshold is an integer
        "even": lambda whole, floor, element: (
            (whole << (element.mantissa_bits + 1)) >= ((2 << (element.mantissa_bits + 1)) - 1) * floor
        ),
        "rceil": lambda whole, floor, element: (
            (whole << element.mantissa_bits)
            > int(element.max_value * 2.0 ** (element.mantissa_bits - element.emax)) * floor
        ),
    }
)
check_rules("formats/oracle.py: _ARRAY_ONE_MORE", [*_ARRAY_ONE_MORE, "reciprocal"])


def quantize_array(x: NDArray[np.float32], spec: CastSpec) -> Parts:
    """Return codes and scales of an array, in exact integer arithmetic.

    Args:
        x: float32, any shape, not empty. (16-bit floats upcast exactly.)
        spec: the cast.

    Returns:
        codes: uint8, x's shape, one code an element in the low bits.
        scales: of the shape `scales_shape(x.shape, spec)`; uint8 E8M0 codes, NVFP4: uint8 E4M3 codes; with a
            scale per row or tensor: float32.
        tensor scale (NVFP4 only): float32, of shape ().

    Raises:
        TypeError: x is not float32.
        ValueError: empty; no such axis; a ragged tail that the spec refuses; stochastic rounding without
            random integers.
    """
    if x.dtype != np.float32:
        raise TypeError(f"the oracle reads the bits of float32, got {x.dtype}")
    axis = resolve_axis(x.ndim, spec.axis)
    if x.size == 0:
        raise ValueError(f"x is empty (shape {x.shape}): there is nothing to quantize")
    if spec.block.scale != E8M0:
        return quantize_real_scaled(x, spec)
    block_size, length = spec.block_size, x.shape[axis]
    assert block_size is not None, "every format with E8M0 scales has blocks"
    count = block_count(length, spec)
    random: Int64 = np.zeros((), np.int64)
    if spec.rounding == "stochastic":
        if spec.random is None or np.shape(spec.random) != x.shape:
            raise ValueError(
                f"stochastic rounding needs spec.random, an integer in [0, 2^32) for each element: shape "
                f"{x.shape}, got {np.shape(spec.random) if spec.random is not None else None}"
            )
        random = _blocks(np.moveaxis(np.asarray(spec.random, np.int64), axis, -1), count, block_size)
    blocks = _blocks(np.moveaxis(x, axis, -1), count, block_size)
    codes, scales = _quantize_blocks(blocks, random, spec)
    rows = codes.reshape(*codes.shape[:-2], -1)[..., :length]
    return np.moveaxis(rows, -1, axis), np.moveaxis(scales, -1, axis)


def _quantize_blocks(
    blocks: NDArray[np.float32], random: Int64, spec: CastSpec
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return codes and scale codes of blocks [..., count, block size], as many at a time as fit into a
    cache."""
    rows = blocks.reshape(-1, blocks.shape[-1])
    random = np.broadcast_to(random, blocks.shape).reshape(rows.shape) if random.ndim else random
    codes, scales = np.empty(rows.shape, np.uint8), np.empty(len(rows), np.uint8)
    count = max(1, _ELEMENTS_AT_A_TIME // rows.shape[1])
    for first in range(0, len(rows), count):
        some = slice(first, first + count)
        codes[some], scales[some] = _quantize_rows(rows[some], random[some] if random.ndim else random, spec)
    return codes.reshape(blocks.shape), scales.reshape(blocks.shape[:-1])


def _quantize_rows(blocks: NDArray[np.float32], random: Int64, spec: CastSpec) -> tuple[Integers, Integers]:
    """Return codes and scale codes of blocks [count, block size]."""
    element = spec.element
    # The random integers, of 32 bits without sign, do not fit into 32 bits with one.
    bits: Integers = blocks.view(np.int32).astype(np.int64 if spec.rounding == "stochastic" else np.int32)
    magnitude = bits & 0x7FFF_FFFF
    is_inf, not_finite = magnitude == _INF, magnitude >= _INF
    finite = magnitude.copy()
    finite[not_finite] = 0
    scale = scale_exponents(finite.max(-1), element, spec.scale_rule)
    scale[is_inf.any(-1)] = E8M0_BIAS

    codes = magnitude_codes(finite, scale[:, None], element, spec.rounding, random)
    if spec.nonfinite == "element":
        codes[not_finite] = max(element.nan_magnitudes)
        codes[is_inf] = element.max_magnitude
    codes = signed_codes(codes, bits < 0, element)
    scale = scale + E8M0_BIAS
    if spec.nonfinite == "block":
        poisoned = not_finite.any(-1)
        codes[poisoned], scale[poisoned] = 0, E8M0_NAN
    return codes, scale


def magnitude_codes(
    magnitude: Integers, scale: Integers, element: ElementFormat, rounding: str, random: Int64 | int = 0
) -> Integers:
    """Return magnitude codes of fp32 magnitudes (their bits, finite), divided by 2^scale, rounded once,
    saturating.

    Args:
        magnitude: int32 or int64; for stochastic rounding int64, which its products need.
        rounding: one of `CastSpec`'s, or `half_zero`: to nearest, ties toward zero.
        random: for stochastic rounding.

    Raises:
        TypeError: stochastic rounding of int32.
    """
    if rounding == "stochastic" and magnitude.dtype != np.int64:
        raise TypeError(f"stochastic rounding needs magnitudes of int64, got {magnitude.dtype}")
    # The step is 2^(binade - mantissa bits), with the element's own binade or the lowest one.
    significand, exponent = _split(magnitude)
    exponent = exponent - scale.astype(exponent.dtype)
    binade = np.maximum(_bit_length(significand) - 1 + exponent, element.emin)
    # From here on nothing is left of 24 bits, nor half a step; nor a random integer's last bit.
    most = 24 + RANDOM_BITS if rounding == "stochastic" else 25
    shift = np.minimum(binade - element.mantissa_bits - exponent, most)
    right, left = np.maximum(shift, 0), np.maximum(-shift, 0)
    steps = (significand << left) >> right
    rest = significand & (_step(right) - 1)
    up = _ARRAY_ROUNDINGS[rounding](steps, rest, right, np.asarray(random, np.int64)) & (shift > 0)
    codes = ((binade - element.emin) << element.mantissa_bits) + steps + up
    saturated: Integers = np.minimum(codes, element.max_magnitude)
    return saturated


def signed_codes(magnitudes: Integers, negative: Bool, element: ElementFormat) -> Integers:
    """Return codes of magnitude codes with signs; without -0 in the format, a negative zero is zero."""
    if element.twos_complement:
        return np.where(negative, -magnitudes, magnitudes) & (2 * element.sign_bit - 1)
    return magnitudes | negative.astype(magnitudes.dtype) * element.sign_bit


def scale_exponents(amax: Integers, element: ElementFormat, rule: str) -> Int64:
    """Return `scale_exponent` for fp32 magnitudes (their bits, finite)."""
    significand, exponent = _split(amax.astype(np.int64))
    if rule == "reciprocal":
        scale = _ceil_log2_of_product(significand, exponent, _reciprocal(element))
    else:
        length = _bit_length(significand)
        floor = np.int64(1) << np.maximum(length - 1, 0)
        scale = length - 1 + exponent - element.emax + _ARRAY_ONE_MORE[rule](significand, floor, element)
    return np.where(amax == 0, -E8M0_BIAS, np.clip(scale, -E8M0_BIAS, E8M0_BIAS))


def _ceil_log2_of_product(significand: Int64, exponent: Int64, factor: Fraction) -> Int64:
    """Return ceil(log2) of significand * 2^exponent * factor, rounded to fp32; a very low number for 0.

    Args:
        factor: an fp32 number.
    """
    lowest = floor_log2(factor) - 23
    product = significand * int(factor / Fraction(2) ** lowest)  # below 2^48, and exact
    exponent = exponent + lowest
    # Bits that fp32 drops: those beyond 24, and those below 2^-149.
    dropped = np.maximum(_bit_length(product) - 24, -149 - exponent).clip(0, 62)
    steps = product >> dropped
    rest = product - (steps << dropped)
    steps = steps + ((2 * rest > _step(dropped)) | ((2 * rest == _step(dropped)) & (steps % 2 == 1)))
    scale: Int64 = _bit_length(steps - 1) + dropped + exponent
    return scale


def dequantize_array(
    codes: NDArray[np.uint8],
    scales: NDArray[np.generic],
    spec: CastSpec,
    tensor_scale: NDArray[np.float32] | None = None,
) -> NDArray[np.float64]:
    """Return the values of codes and scales: exact, in float64, of the codes' shape; NaN where the scale is
    NaN."""
    if spec.block.scale != E8M0:
        return dequantize_real_scaled(codes, scales, spec, tensor_scale)
    axis = resolve_axis(codes.ndim, spec.axis)
    assert spec.block_size is not None, "every format with E8M0 scales has blocks"
    values: NDArray[np.float64] = np.take(value_table(spec.element), codes)
    spread = np.repeat(_scale_table()[scales.astype(np.uint8)], spec.block_size, axis)
    values *= np.moveaxis(np.moveaxis(spread, axis, 0)[: codes.shape[axis]], 0, axis)
    return values


@cache
def _scale_table() -> NDArray[np.float64]:
    return np.array(scale_values())


def _blocks(rows: NDArray[Any], count: int, block_size: int) -> NDArray[Any]:
    """Reshape [..., n] to [..., count, block_size], padded with zeros."""
    if rows.shape[-1] < count * block_size:
        padded = np.zeros((*rows.shape[:-1], count * block_size), rows.dtype)
        padded[..., : rows.shape[-1]] = rows
        rows = padded
    return rows.reshape(*rows.shape[:-1], count, block_size)


def _split(magnitude: Integers) -> tuple[Integers, Integers]:
    """Split fp32 bits without sign into (significand, exponent): the value is significand * 2^exponent."""
    field, fraction = magnitude >> 23, magnitude & 0x7F_FFFF
    return fraction | (np.minimum(field, 1) << 23), np.maximum(field, 1) - 150


def _bit_length(whole: Integers) -> Integers:
    """Return int.bit_length, elementwise, for integers below 2^48 (int32: 2^24); 0 for negative ones."""
    # A float holds each exactly, and says its length in its exponent.
    floats, integers, fraction, bias = _AS_FLOATS[whole.dtype.itemsize]
    exponent: Integers = (whole.astype(floats).view(integers) >> fraction) - bias
    return np.maximum(exponent + 1, 0)
