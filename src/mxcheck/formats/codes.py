"""Codes and their exact values: one decode and one encode for every element format, and E8M0.

Source: OCP MX v1.0, section 5.3 (elements) and 5.4 (E8M0).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from types import MappingProxyType

from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.spec import RANDOM_BITS

E8M0_BIAS = 127
E8M0_NAN = 0xFF

# fp32 as one more format, so that the generic encode can round to it.
_FP32 = ElementFormat(
    name="fp32", exponent_bits=8, mantissa_bits=23, bias=127, inf_magnitudes=frozenset({0x7F80_0000})
)

# (number of steps, random integer) -> whole number of steps
ROUNDINGS: Mapping[str, Callable[[Fraction, int], int]] = MappingProxyType(
    {
        "even": lambda steps, _: round(steps),  # Python rounds a Fraction's ties to even, exactly
        "away": lambda steps, _: math.floor(steps + Fraction(1, 2)),
        "zero": lambda steps, _: math.floor(steps),
        "stochastic": lambda steps, random: math.floor(steps + Fraction(random, 1 << RANDOM_BITS)),
    }
)


def floor_log2(value: Fraction) -> int:
    """Return floor(log2(value)) of a positive rational, exactly."""
    if value <= 0:
        raise ValueError(f"log2 of {value}: the value must be positive")
    guess = value.numerator.bit_length() - value.denominator.bit_length()
    return guess if _moved(value, -guess) >= 1 else guess - 1


def _moved(value: Fraction, places: int) -> Fraction:
    """Return value * 2^places, which shifts give sooner than a product with a power of Fraction(2)."""
    if places < 0:
        return Fraction(value.numerator, value.denominator << -places)
    return Fraction(value.numerator << places, value.denominator)


def split_sign(element: ElementFormat, code: int) -> tuple[bool, int]:
    """Split a code into (is negative, magnitude code). mxint8's 80 has magnitude 128, one above the largest.

    Raises:
        ValueError: the code does not fit in the format's bits.
    """
    if not 0 <= code < 2 * element.sign_bit:
        raise ValueError(f"{element.name} has no code {code}; allowed: 0 to {2 * element.sign_bit - 1}")
    negative = bool(code & element.sign_bit)
    if negative and element.twos_complement:
        return True, 2 * element.sign_bit - code
    return negative, code & (element.sign_bit - 1)


def join_sign(element: ElementFormat, magnitude: int, *, negative: bool) -> int:
    """Return the code of a magnitude code and a sign. Without -0 in the format, a negative zero is zero."""
    if not negative:
        return magnitude
    if element.twos_complement:
        return -magnitude % (2 * element.sign_bit)
    return magnitude | element.sign_bit


def decode(element: ElementFormat, code: int) -> Fraction:
    """Return the exact value of a finite code. (A rational has no -0: see `code_values` for that.)

    Raises:
        ValueError: the code is NaN or Inf, or not a code of this format.
    """
    negative, magnitude = split_sign(element, code)
    if magnitude in element.nan_magnitudes | element.inf_magnitudes:
        raise ValueError(f"{element.name} code {code:#04x} is not a finite number")
    field, fraction = divmod(magnitude, 1 << element.mantissa_bits)
    significand = fraction + (1 << element.mantissa_bits if field else 0)
    exponent = max(field, 1) - element.bias - element.mantissa_bits
    value = _moved(Fraction(significand), exponent)
    return -value if negative else value


def encode(
    element: ElementFormat, value: Fraction, *, negative: bool, rounding: str = "even", random: int = 0
) -> int:
    """Encode a value, rounded once, saturating to the largest finite code.

    In a format without mantissa bits (fp4_e3m0) neither neighbour of a tie between normal numbers is even;
    the larger one is taken, as in IEEE 754-2019, section 4.3.1.

    Args:
        value: exact value; only its magnitude is read.
        negative: the sign, separate from the value because a rational has no -0. A negative value that rounds
            to zero gives -0 where the format has one.
        rounding: a key of `ROUNDINGS`.
        random: the random integer of `stochastic`.
    """
    size = abs(value)
    exponent = max(floor_log2(size), element.emin) if size else element.emin
    steps = ROUNDINGS[rounding](_moved(size, element.mantissa_bits - exponent), random)
    # A carry into the next binade needs no special case: magnitude codes are consecutive there.
    magnitude = ((exponent - element.emin) << element.mantissa_bits) + steps
    return join_sign(element, min(magnitude, element.max_magnitude), negative=negative)


def rounded_to_fp32(value: Fraction) -> Fraction:
    """Round a non-negative rational once to fp32, ties to even, saturating."""
    return decode(_FP32, encode(_FP32, value, negative=False))


@cache
def code_values(element: ElementFormat) -> tuple[float, ...]:
    """Values of all codes, in order of the codes, with NaN, Inf and -0; each is exact in a float."""

    def value(code: int) -> float:
        negative, magnitude = split_sign(element, code)
        sign = -1.0 if negative else 1.0
        if magnitude in element.nan_magnitudes:
            return math.nan
        if magnitude in element.inf_magnitudes:
            return sign * math.inf
        return math.copysign(float(decode(element, code)), sign)

    return tuple(value(code) for code in range(2 * element.sign_bit))


@cache
def finite_codes(element: ElementFormat) -> tuple[int, ...]:
    """Return every code that an encoder may produce: the finite ones, without mxint8's 80."""
    return tuple(
        code for code in range(2 * element.sign_bit) if split_sign(element, code)[1] <= element.max_magnitude
    )


@cache
def scale_values() -> tuple[float, ...]:
    """Values of all E8M0 codes: 2^(code - 127), and NaN for FF. Each is exact in a float, and in fp32."""
    return (*(math.ldexp(1.0, code - E8M0_BIAS) for code in range(E8M0_NAN)), math.nan)
