"""The Triton kernel of `mxcheck.kernels.calls_triton`: the casts of `eager`, bit for bit.

All arithmetic is on integers. So it cannot matter that a GPU's fp32 division is approximate by default, that
a product and a sum may be fused, or that subnormals may be flushed to zero; nor that Triton's interpreter
rounds bf16 and fp8 differently than a GPU. Floating point serves in two conversions, both exact: fp16 to
fp32, and an integer of at most 24 bits to fp32, whose exponent field then says which is its leading bit.

A magnitude is a pair: a significand whose leading bit has a known place, and the exponent of that bit. What
`eager` divides in float64 is divided here by hand, as many bits as a code needs and whether anything is left
over; so a quotient is rounded once, as `mxcheck.formats.real_scales` requires. fp32, bf16 and fp16 are more
formats to round to.
"""

from __future__ import annotations

import triton
import triton.language as tl

_FRACTION = tl.constexpr(0x007F_FFFF)
_LEADING = tl.constexpr(0x0080_0000)
_ONE = tl.constexpr(0x3F80_0000)
_MAGNITUDE = tl.constexpr(0x7FFF_FFFF)
_INFINITY = tl.constexpr(0x7F80_0000)
_SCALE_NAN = tl.constexpr(0xFF)
_BIAS = tl.constexpr(127)
#: The exponent of zero: no scale lifts it to where it would not round to zero.
_OF_ZERO = tl.constexpr(-4096)


@triton.jit(do_not_specialize=["blocks", "per_axis"])  # type: ignore[untyped-decorator]
def cast(  # type: ignore[no-untyped-def]
    x,
    random,
    out,
    scales,
    given,
    blocks,
    length,
    per_axis,
    inner,
    scale: tl.constexpr,
    mantissa: tl.constexpr,
    emin: tl.constexpr,
    most: tl.constexpr,
    sign_bit: tl.constexpr,
    twos_complement: tl.constexpr,
    nan_code: tl.constexpr,
    nan_stays: tl.constexpr,
    above: tl.constexpr,
    emax: tl.constexpr,
    factor_bits: tl.constexpr,
    rounding: tl.constexpr,
    x_mantissa: tl.constexpr,
    to_values: tl.constexpr,
    block_size: tl.constexpr,
    width: tl.constexpr,
    height: tl.constexpr,
):
    """Cast `height` blocks a program, `width` elements at a time. Tensors are [outer, length, inner], their
    blocks counted as [outer, per_axis, inner]."""
    block = tl.program_id(0).to(tl.int64) * height + tl.arange(0, height)
    row, column = block // inner // per_axis, block % inner
    along = block // inner % per_axis * block_size
    first = ((row * length + along) * inner + column)[:, None]
    here = tl.where(block < blocks, tl.minimum(length - along, block_size), 0)[:, None]
    step = tl.arange(0, width)[None, :]

    amax = tl.zeros([height], tl.int32)
    if scale == "e8m0" or scale == "e4m3":
        for start in range(0, block_size, width):
            offset, inside = first + (start + step).to(tl.int64) * inner, start + step < here
            size = _load(x, offset, inside, x_mantissa) & _MAGNITUDE
            if nan_stays:
                size = tl.where(size > _INFINITY, 0, size)
            amax = tl.maximum(amax, tl.max(size, 1))
    # The scale is divisor / 2^27 * 2^exponent; E8M0 needs no divisor.
    if scale == "e8m0":
        divisor = amax
        scale_code = _power_of_two(amax, above, emax, factor_bits)
        scale_code = tl.where(amax >= _INFINITY, _SCALE_NAN - 1 if nan_stays else _SCALE_NAN, scale_code)
        exponent = scale_code - _BIAS
        poisoned = scale_code == _SCALE_NAN
    else:
        at = row * inner + column if scale == "row" else block * 0
        given_bits = tl.load(given + at, mask=block < blocks, other=0)
        poisoned = given_bits > _INFINITY
        if scale == "e4m3":
            scale_code = _divided(
                *_split(amax), *_scale(tl.full([height], factor_bits, tl.int32), 0, given_bits), 3, -6, 0x7E
            )
            scale_code = tl.where(poisoned, 0, scale_code)
            divisor, exponent = _scale(scale_code << 20, 120, given_bits)
        else:
            scale_code = amax
            divisor, exponent = _scale(tl.full([height], _ONE, tl.int32), 0, given_bits)

    for start in range(0, block_size, width):
        offset, inside = first + (start + step).to(tl.int64) * inner, start + step < here
        bits = _load(x, offset, inside, x_mantissa)
        is_nan = poisoned[:, None] | ((bits & _MAGNITUDE) > _INFINITY)
        significand, place = _split(bits & _MAGNITUDE)
        if rounding == "stochastic":
            chance = tl.load(random + offset, mask=inside, other=0)
            code = _rounded(
                significand, place - exponent[:, None], 23, mantissa, emin, most, rounding, chance
            )
        elif scale == "e8m0":
            code = _rounded(significand, place - exponent[:, None], 23, mantissa, emin, most, rounding)
        else:
            code = _divided(significand, place, divisor[:, None], exponent[:, None], mantissa, emin, most)
            if scale == "e4m3":
                code = tl.where(scale_code[:, None] == 0, 0, code)
        if nan_stays:  # an Inf saturates, whatever its block's scale
            code = tl.where((bits & _MAGNITUDE) == _INFINITY, most, code)
        negative = bits < 0
        if twos_complement:
            negative = negative & (code > 0)
        if to_values:
            significand, place = _split(code << (23 - mantissa))
            place += emin + 126  # with this bias a code's bits are those of its value
            if scale == "e8m0":
                place += exponent[:, None]
            else:
                significand, place = _split(_product(significand, place, divisor[:, None], exponent[:, None]))
            x_emin: tl.constexpr = -14 if x_mantissa == 10 else -126
            x_infinity: tl.constexpr = (0x1F if x_mantissa == 10 else 0xFF) << x_mantissa
            value = _rounded(significand, place, 23, x_mantissa, x_emin, x_infinity, "even")
            value = tl.where(is_nan, x_infinity | (1 << (x_mantissa - 1)), value)
            value = tl.where(negative, value | (-1 << (31 if x_mantissa == 23 else 15)), value)
            tl.store(out + offset, value.to(out.dtype.element_ty), mask=inside)
        else:
            if nan_stays:
                code = tl.where(is_nan, nan_code, code)
            code = tl.where(negative, -code if twos_complement else code | sign_bit, code)
            tl.store(out + offset, tl.where(poisoned[:, None], 0, code).to(tl.uint8), mask=inside)
    if scales is not None:  # after the loads, so that those of the two loops can be one
        tl.store(scales + block, scale_code.to(tl.uint8), mask=block < blocks)


@triton.jit  # type: ignore[untyped-decorator]
def _load(x, offset, inside, x_mantissa: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the fp32 bits of elements; zero outside."""
    bits = tl.load(x + offset, mask=inside, other=0)
    if x_mantissa == 7:  # bf16
        bits = bits.to(tl.int32) << 16
    elif x_mantissa == 10:  # fp16
        bits = bits.to(tl.float16, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True)
    return bits


@triton.jit
def _split(magnitude):  # type: ignore[no-untyped-def]
    """Return significand and exponent of finite magnitudes, given as fp32 bits."""
    # A subnormal number's bits, as an integer, count its steps of 2^-149.
    steps = magnitude.to(tl.float32).to(tl.int32, bitcast=True) - (149 << 23)
    normal = tl.where(magnitude < _LEADING, steps, magnitude)
    return (normal & _FRACTION) | _LEADING, tl.where(magnitude == 0, _OF_ZERO, (normal >> 23) - _BIAS)


@triton.jit  # type: ignore[untyped-decorator]
def _rounded(  # type: ignore[no-untyped-def]
    significand,
    exponent,
    leading: tl.constexpr,
    mantissa: tl.constexpr,
    emin: tl.constexpr,
    most: tl.constexpr,
    rounding: tl.constexpr,
    chance=None,
):
    """Round to a format, and return the magnitude's code, at most `most`. `leading` is the place of the
    significand's leading bit; a bit below what decides may stand for all that was cut off."""
    exponent = tl.minimum(exponent, 128)  # beyond every format; the code must fit into 31 bits
    field = tl.maximum(exponent, emin)
    lost = leading - mantissa + field - exponent
    if rounding == "stochastic":
        significand = significand.to(tl.int64)
        lost = tl.minimum(lost, 57)
    else:
        lost = tl.minimum(lost, leading + 2)  # as good as infinitely many
    lost = lost.to(significand.dtype)
    whole = significand >> lost
    rest = significand - (whole << lost)
    if rounding == "even":
        whole += (2 * rest + (whole & 1) > (1 << lost)).to(whole.dtype)
    elif rounding == "away":
        whole += (2 * rest >= (1 << lost)).to(whole.dtype)
    elif rounding == "stochastic":
        whole += ((rest << 32) >> lost) + chance >> 32
    return tl.minimum(((field - emin) << mantissa) + whole.to(tl.int32), most)


@triton.jit  # type: ignore[untyped-decorator]
def _power_of_two(  # type: ignore[no-untyped-def]
    amax, above: tl.constexpr, emax: tl.constexpr, factor_bits: tl.constexpr
):
    """Return the E8M0 code of the scale of a block."""
    significand, exponent = _split(amax)
    if factor_bits != 0:
        one, factor = tl.full(amax.shape, _ONE, tl.int32), tl.full(amax.shape, factor_bits, tl.int32)
        divisor, place = _scale(one, 0, factor)
        significand, exponent = _split(_product(significand, exponent, divisor, place))
    up = ((significand & _FRACTION) > above).to(tl.int32)
    return tl.minimum(tl.maximum(exponent - emax + up + _BIAS, 0), _SCALE_NAN - 1)


@triton.jit
def _scale(few, bias, given):  # type: ignore[no-untyped-def]
    """Return few * given * 2^bias of two fp32 numbers, the first of at most 4 significant bits: the exact
    product's significand, its leading bit in bit 27, and its exponent."""
    left, left_exponent = _split(few)
    right, right_exponent = _split(given)
    product = (left >> 20) * right
    less = (product < (1 << 27)).to(tl.int32)
    return product << less, left_exponent + right_exponent + bias + 1 - less


@triton.jit  # type: ignore[untyped-decorator]
def _divided(  # type: ignore[no-untyped-def]
    significand, place, divisor, exponent, mantissa: tl.constexpr, emin: tl.constexpr, most: tl.constexpr
):
    """Return the code nearest to a number divided by a scale, ties to even."""
    rest = significand << 4
    less = (rest < divisor).to(tl.int32)
    rest = rest << less
    quotient = rest * 0
    for _ in tl.static_range(mantissa + 2):  # the code's bits, and the one that decides
        bit = (rest >= divisor).to(tl.int32)
        quotient = 2 * quotient + bit
        rest = 2 * (rest - bit * divisor)
    quotient = 2 * quotient + (rest > 0).to(tl.int32)
    return _rounded(quotient, place - exponent - less, mantissa + 2, mantissa, emin, most, "even")


@triton.jit
def _product(significand, place, divisor, exponent):  # type: ignore[no-untyped-def]
    """Return the bits of fp32(number * scale)."""
    product = significand.to(tl.int64) * divisor  # of 51 or 52 bits
    less = (product < (1 << 51)).to(tl.int32)
    return _rounded(product << less, place + exponent + 1 - less, 51, 23, -126, _INFINITY, "even")


#: Whether Triton's interpreter runs the kernel, which it can on a CPU.
INTERPRETED = not isinstance(cast, triton.JITFunction)
