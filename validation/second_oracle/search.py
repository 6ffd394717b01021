"""The second oracle: the casts of `oracle.py` and `real_scales.py` of `mxcheck.formats`, computed by search.

No formula rounds here, and nothing takes a logarithm. An element is looked up in the sorted values of its
format, an E8M0 scale among the 255 bounds that its rule puts on amax, an fp32 number among all of fp32, each
by bisection and exact comparison of fractions. From `codes.py` it uses only the values of the codes.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import chain
from types import MappingProxyType

from mxcheck.formats.blocks import E4M3
from mxcheck.formats.codes import code_values
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.scale_rules import check_rules
from mxcheck.formats.spec import CastSpec

#: E8M0: code 0 is 2^-127, code 254 is 2^127, code 255 is NaN.
SCALE_EXPONENTS = range(-127, 128)
_SCALE_TOP, _SCALE_NAN = 254, 255
_BLOCK_SCALE = ELEMENT_FORMATS["fp8_e4m3"]  # of NVFP4

#: Bits of Inf, and so the number of non-negative finite fp32 numbers: their bits are in order of value.
FP32_INF = 0x7F80_0000


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementTable:
    """The finite values of a format without sign, sorted, and their codes with either sign.

    `codes` and `nan` are indexed by the sign: 0 positive, 1 negative. Without -0, its code is that of 0;
    without NaN, `nan` is 0. Among several NaN codes it is the one with all bits set.
    """

    sizes: tuple[Fraction, ...]
    codes: tuple[tuple[int, ...], tuple[int, ...]]
    nan: tuple[int, int]


@cache
def element_table(element: ElementFormat) -> ElementTable:
    """Build the table of a format from the values of its codes alone."""
    values = code_values(element)
    code_of = {(value, math.copysign(1.0, value)): code for code, value in enumerate(values)}
    sizes = sorted(value for value, sign in code_of if sign > 0 and math.isfinite(value))
    nans = [code for code, value in enumerate(values) if math.isnan(value)]
    half = len(values) // 2
    return ElementTable(
        sizes=tuple(map(Fraction, sizes)),
        codes=(
            tuple(code_of[size, 1.0] for size in sizes),
            tuple(code_of.get((-size, -1.0), code_of[0.0, 1.0]) for size in sizes),
        ),
        nan=(max((code for code in nans if code < half), default=0), max(nans, default=0)),
    )


# (distance to the value below, distance to the one above, where a tie goes up, random integer) -> go up?
_GOES_UP: Mapping[str, Callable[[Fraction, Fraction, bool, int], bool]] = MappingProxyType(
    {
        "even": lambda down, up, tie_up, _random: up < down or (up == down and tie_up),
        "away": lambda down, up, _tie_up, _random: up <= down,
        "zero": lambda _down, _up, _tie_up, _random: False,
        "stochastic": lambda down, up, _tie_up, random: down / (down + up) + Fraction(random, 2**32) >= 1,
    }
)


def nearest_index(element: ElementFormat, size: Fraction, rounding: str, random: int = 0) -> int:
    """Return the index in `element_table(element).sizes` to which `size`, not negative, is rounded;
    saturating."""
    sizes = element_table(element).sizes
    below = bisect_right(sizes, size) - 1
    if below + 1 == len(sizes):
        return below
    # Round to the even code. Without mantissa bits no value but 0 has an even digit: of two others the larger
    # one is taken (IEEE 754-2019, section 4.3.1).
    tie_up = below % 2 == 1 if element.mantissa_bits else below > 0
    return below + _GOES_UP[rounding](size - sizes[below], sizes[below + 1] - size, tie_up, random)


def _power_of_two(element: ElementFormat) -> Fraction:
    """Return the largest power of two among the values: 2^emax."""
    return max(
        size for size in element_table(element).sizes if size and not size.numerator & (size.numerator - 1)
    )


# rule -> bound that amax is compared with, at scale 1
_BOUND: Mapping[str, Callable[[ElementFormat], Fraction]] = MappingProxyType(
    {
        "floor": _power_of_two,
        "ceil": _power_of_two,
        # halfway from the largest number below 2^emax, in the element's precision, to 2^emax
        "even": lambda element: _power_of_two(element) * (1 - Fraction(1, 4 << element.mantissa_bits)),
        "rceil": lambda element: element_table(element).sizes[-1],
    }
)
check_rules("second_oracle/search.py: _BOUND", [*_BOUND, "reciprocal"])
#: Rules that take the greatest scale whose bound amax reaches; the others take the least scale whose bound
#: amax does not exceed.
GREATEST_REACHED = frozenset({"floor", "even"})


def _largest_rounded_to(exponent: int) -> Fraction:
    """Return the largest number that fp32 rounds to 2^exponent: the tie half a step above it."""
    return Fraction(2) ** exponent + Fraction(2) ** (max(exponent, -126) - 24)


@cache
def scale_bounds(element: ElementFormat, rule: str) -> tuple[Fraction, ...]:
    """Bounds of the rule at each of the 255 scales."""
    if rule == "reciprocal":
        factor = Fraction(nearest_fp32(1 / element_table(element).sizes[-1]))
        return tuple(_largest_rounded_to(exponent) / factor for exponent in SCALE_EXPONENTS)
    at_one = _BOUND[rule](element)
    return tuple(at_one * Fraction(2) ** exponent for exponent in SCALE_EXPONENTS)


def search_scale(amax: Fraction, element: ElementFormat, rule: str) -> int:
    """Return the E8M0 code of the scale of a block whose largest magnitude is `amax`; 0 for a zero block."""
    bounds = scale_bounds(element, rule)
    if rule in GREATEST_REACHED:
        return max(bisect_right(bounds, amax) - 1, 0)
    return min(bisect_left(bounds, amax), _SCALE_TOP)


def _sign(value: float) -> int:
    return int(math.copysign(1.0, value) < 0)


def quantize_block_by_search(
    values: Sequence[float], spec: CastSpec, random: Sequence[int] | None = None
) -> tuple[tuple[int, ...], int]:
    """As `mxcheck.formats.oracle.quantize_block`: return element codes and E8M0 code of one block."""
    element, table = spec.element, element_table(spec.element)
    if spec.nonfinite == "block" and not all(map(math.isfinite, values)):
        return (0,) * len(values), _SCALE_NAN
    if any(map(math.isinf, values)):
        scale = _SCALE_TOP
    else:
        amax = max((abs(Fraction(value)) for value in values if not math.isnan(value)), default=Fraction(0))
        scale = search_scale(amax, element, spec.scale_rule)
    unit = Fraction(2) ** SCALE_EXPONENTS[scale]
    codes = []
    for value, integer in zip(values, random or [0] * len(values), strict=True):
        by_index = table.codes[_sign(value)]
        if math.isnan(value):
            codes.append(table.nan[_sign(value)])
        elif math.isinf(value):
            codes.append(by_index[-1])
        else:
            codes.append(
                by_index[nearest_index(element, abs(Fraction(value)) / unit, spec.rounding, integer)]
            )
    return tuple(codes), scale


def fp32_value(bits: int) -> Fraction:
    """Return the exact value of the bits of a finite fp32 number."""
    return Fraction(struct.unpack("=f", struct.pack("=I", bits))[0])


def nearest_fp32(value: Fraction) -> float:
    """Round `value`, not negative and within the range of fp32, to fp32, ties to even."""
    below = bisect_right(range(FP32_INF), value, key=fp32_value) - 1
    down, up = value - fp32_value(below), fp32_value(below + 1) - value
    return float(fp32_value(below + (up < down or (up == down and below % 2 == 1))))


def _real_scale(values: Sequence[float], divisor: Fraction) -> float:
    """Return fp32(amax / divisor), or 1 where that is 0; NaN where a value is not finite."""
    if not all(map(math.isfinite, values)):
        return math.nan
    return nearest_fp32(max(abs(Fraction(value)) for value in values) / divisor) or 1.0


def _divided(values: Sequence[float], scale: Fraction, element: ElementFormat) -> list[int]:
    """Return the codes of value / scale, nearest-even; zeros with their sign where the scale is 0."""
    codes = element_table(element).codes
    return [
        codes[_sign(value)][nearest_index(element, abs(Fraction(value)) / scale, "even") if scale else 0]
        for value in values
    ]


def quantize_tensor_by_search(
    rows: Sequence[Sequence[float]], spec: CastSpec
) -> tuple[list[list[int]], list[list[float]]] | tuple[list[list[int]], list[list[int]], float]:
    """Quantize a matrix as `mxcheck.formats.oracle.quantize_array` does, for the formats whose scale is no
    power of two, with true divisions and blocks along the rows. The last block of a row may be short.

    Returns:
        codes: of the matrix's shape.
        scales: [rows, blocks] E4M3 codes (NVFP4), [rows, 1] fp32 numbers, or [1, 1] (one per tensor).
        tensor scale: for NVFP4 only.
    """
    element, everything = spec.element, list(chain.from_iterable(rows))
    largest = element_table(element).sizes[-1]
    if spec.block.scale == E4M3:
        return _nvfp4(rows, spec, _real_scale(everything, largest * element_table(_BLOCK_SCALE).sizes[-1]))
    of_tensor = spec.block.whole_tensor
    scales = [_real_scale(everything if of_tensor else row, largest) for row in rows]
    codes = [
        [0] * len(row) if math.isnan(scale) else _divided(row, Fraction(scale), element)
        for row, scale in zip(rows, scales, strict=True)
    ]
    return codes, [scales[:1]] if of_tensor else [[scale] for scale in scales]


def _nvfp4(
    rows: Sequence[Sequence[float]], spec: CastSpec, tensor_scale: float
) -> tuple[list[list[int]], list[list[int]], float]:
    element, size = spec.element, spec.block_size
    assert size is not None
    largest, scale_sizes = element_table(element).sizes[-1], element_table(_BLOCK_SCALE).sizes
    codes: list[list[int]] = []
    scales: list[list[int]] = []
    for row in rows:
        codes.append([])
        scales.append([])
        for block in (row[start : start + size] for start in range(0, len(row), size)):
            if math.isnan(tensor_scale):
                codes[-1] += [0] * len(block)
                scales[-1].append(0)
                continue
            unit = Fraction(tensor_scale)
            amax = max(abs(Fraction(value)) for value in block)
            index = nearest_index(_BLOCK_SCALE, amax / (largest * unit), "even")
            scales[-1].append(element_table(_BLOCK_SCALE).codes[0][index])
            codes[-1] += _divided(block, scale_sizes[index] * unit, element)
    return codes, scales, tensor_scale
