"""Format numbers for tables. Standard library only."""

from __future__ import annotations

import math
import struct

from mxcheck.formats.elements import ElementFormat


def pattern(value: float) -> str:
    """Return the bits of a float32 value, as 8 hexadecimal digits."""
    return f"{struct.unpack('<I', struct.pack('<f', value))[0]:08x}"


def decimal(value: float) -> str:
    """Return the fewest digits that distinguish a float32 value from its neighbours; nine for any other
    value."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    if not is_float32(value):
        return f"{value:.9g}"
    shortest = next(
        near for digits in range(1, 10) if _float32(near := float(f"{value:.{digits}g}")) == value
    )
    return f"{shortest:.9g}"  # without an exponent unless that is longer: 300000, not 3e+05


def is_float32(value: float) -> bool:
    """Return whether float32 holds a finite value exactly."""
    return _float32(value) == value


def _float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:  # rounds to Inf
        return math.copysign(math.inf, value)


def power(exponent: int) -> str:
    """Format a power of two, as the number itself where that is shorter to read."""
    return {0: "1", 1: "2"}.get(exponent, f"2^{exponent}")


def scientific(value: float) -> str:
    """Format a positive value exactly as its significand in [1, 2) times a power of two."""
    significand, exponent = math.frexp(value)
    return f"{2 * significand!r}".removesuffix(".0") + f" · 2^{exponent - 1}"


def multiple(value: float) -> str:
    """Format a positive value as an integer times a power of two, such as 7·2^-9; from 1/16 on as the
    number."""
    if value >= 1 / 16:
        return f"{value!r}".removesuffix(".0") if value < 1 << 20 else power(math.frexp(value)[1] - 1)
    significand, exponent = math.frexp(value)
    while significand != int(significand):
        significand, exponent = 2 * significand, exponent - 1
    return power(exponent) if significand == 1 else f"{int(significand)}·{power(exponent)}"


def binary(element: ElementFormat, code: int) -> str:
    """Return the bits of a code, split as sign | exponent | mantissa; mxint8: sign | the rest."""
    digits = f"{code:0{element.bits}b}"
    exponent = element.bits - 1 if element.twos_complement else element.exponent_bits
    parts = (digits[0], digits[1 : 1 + exponent], digits[1 + exponent :])
    return "|".join(part for part in parts if part)


def layout_of(element: ElementFormat) -> str:
    """Return the legend of `binary`: s|eeee|mmm, or s|iiiiiii."""
    letters = "si" if element.twos_complement else "sem"
    fields = binary(element, 0).split("|")
    return "|".join(letter * len(field) for letter, field in zip(letters, fields, strict=False))


def figure(value: float | None, spec: str, *, times: float = 1) -> str:
    """Format a figure multiplied by `times` with the format specification `spec`; a dash where it is
    absent."""
    return "-" if value is None else format(times * value, spec)
