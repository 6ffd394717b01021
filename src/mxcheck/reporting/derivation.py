"""Derivation of each bit of a cast by the exact oracle, as steps, for `mxcheck.reporting.explanation`.

The bits are the oracle's. Only the reasons are recomputed, in rationals; where a step contradicts the oracle,
an assertion fails, so an explanation cannot be wrong silently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from mxcheck.formats.blocks import E4M3, E8M0, FP32
from mxcheck.formats.codes import E8M0_BIAS, ROUNDINGS, code_values, floor_log2, rounded_to_fp32, scale_values
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.oracle import dequantize_array, quantize_array
from mxcheck.formats.real_scales import NVFP4_BLOCK_SCALE
from mxcheck.formats.scale_rules import check_rules
from mxcheck.formats.spec import RANDOM_BITS, CastSpec, resolve_axis
from mxcheck.reporting.numbers import binary, decimal, pattern, power, scientific

#: (what, its derivation)
Step = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cast:
    """A tensor and the oracle's result. Arrays of elements have x's shape.

    Attributes:
        scales: as `quantize_array` returns them, one for each block in the order of `blocks`.
        values: exact values.
        blocks: indices into the flattened x, one array for each block of elements with one scale.
    """

    x: NDArray[np.float32]
    spec: CastSpec
    codes: NDArray[np.uint8]
    scales: NDArray[np.generic]
    tensor_scale: NDArray[np.float32] | None
    values: NDArray[np.float64]
    blocks: tuple[NDArray[np.int64], ...]

    def scale(self, block: int) -> float:
        """Return the exact multiplier of a block's codes; NaN where its codes are undefined."""
        return scale_value(self.scales[block], self.tensor_scale, self.spec)


def scale_value(scale: np.generic, tensor_scale: NDArray[np.float32] | None, spec: CastSpec) -> float:
    """Return the exact multiplier of an element."""
    if spec.block.scale == E8M0:
        return scale_values()[int(scale)]
    if tensor_scale is None:
        return float(scale)
    return code_values(NVFP4_BLOCK_SCALE)[int(scale)] * float(tensor_scale)


def cast(x: NDArray[np.float32], spec: CastSpec) -> Cast:
    """Compute the oracle's cast.

    Raises:
        ValueError: as `mxcheck.formats.oracle.quantize_array`.
    """
    codes, scales, *tensor_scale = quantize_array(x, spec)
    return Cast(
        x=x,
        spec=spec,
        codes=codes,
        scales=in_block_order(scales, spec),
        tensor_scale=tensor_scale[0] if tensor_scale else None,
        values=dequantize_array(codes, scales, spec, *tensor_scale),
        blocks=tuple(_blocks(x.shape, spec)),
    )


def in_block_order(scales: NDArray[np.generic], spec: CastSpec) -> NDArray[np.generic]:
    """Flatten the scales of a kernel in the order of `Cast.blocks`."""
    return scales.ravel() if spec.block.whole_tensor else np.moveaxis(scales, spec.axis, -1).ravel()


def _blocks(shape: tuple[int, ...], spec: CastSpec) -> Iterator[NDArray[np.int64]]:
    places = np.arange(math.prod(shape)).reshape(shape)
    if spec.block.whole_tensor:
        yield places.ravel()
        return
    axis = resolve_axis(len(shape), spec.axis)
    size = spec.block_size or shape[axis]
    for row in np.moveaxis(places, axis, -1).reshape(-1, shape[axis]):
        yield from (row[start : start + size] for start in range(0, shape[axis], size))


def tensor_steps(done: Cast) -> list[Step]:
    """Return the steps to NVFP4's tensor scale; none for other formats."""
    if done.spec.block.scale != E4M3:
        return []
    assert done.tensor_scale is not None
    divisor = Fraction(NVFP4_BLOCK_SCALE.max_value) * Fraction(done.spec.element.max_value)
    amax, step = _amax(done.x.ravel(), "tensor amax")
    return [step, ("tensor scale", f"g = {_quotient('(448 · 6)', amax, divisor, float(done.tensor_scale))}")]


def block_steps(done: Cast, block: int) -> list[Step]:
    """Return the steps from a block's amax to its scale."""
    values = done.x.ravel()[done.blocks[block]]
    kind = done.spec.block.scale
    if kind == E8M0:
        return _power_of_two(values, int(done.scales[block]), done.spec)
    amax, step = _amax(values, "amax")
    if kind == FP32:
        divisor = Fraction(done.spec.element.max_value)
        return [step, ("scale", _quotient("max", amax, divisor, float(done.scales[block])))]
    return [step, *_nvfp4_scale(done, block, amax)]


def _amax(values: NDArray[np.float32], name: str) -> tuple[float, Step]:
    """Return the amax of values, NaN where any is NaN, and its step."""
    amax = float(np.abs(values).max())
    if math.isfinite(amax) and amax:
        return amax, (name, f"{decimal(amax)} ({pattern(amax)}) = {scientific(amax)}")
    return amax, (name, decimal(amax))


def _quotient(formula: str, amax: float, divisor: Fraction, result: float) -> str:
    text = f"fp32(amax / {formula})"
    if math.isnan(result):
        return f"{text} = NaN: a NaN or an Inf in what it scales makes all of it NaN"
    text += f" = fp32({decimal(amax)} / {decimal(float(divisor))})"
    if result == 1 and Fraction(amax) / divisor < Fraction(1, 2):
        return f"{text} = 0, which counts as 1"
    return f"{text} = {decimal(result)} ({pattern(result)})"


def _nvfp4_scale(done: Cast, block: int, amax: float) -> list[Step]:
    assert done.tensor_scale is not None
    if math.isnan(done.tensor_scale):
        return [("scale", "means nothing: the tensor scale is NaN")]
    g, element, code = Fraction(float(done.tensor_scale)), NVFP4_BLOCK_SCALE, int(done.scales[block])
    quotient = Fraction(amax) / (Fraction(done.spec.element.max_value) * g)
    notes = "".join(f", {note}" for note in rounding_notes(quotient, element, "even"))
    value = code_values(element)[code]
    return [
        (
            "block scale",
            (
                f"E4M3(amax / (6 · g)) = E4M3({float(quotient):.9g}) = {decimal(value)}, "
                f"code {code:02X} = {binary(element, code)}{notes}"
            ),
        ),
        ("scale", f"block scale · g = {decimal(value)} · {decimal(float(g))} = {decimal(done.scale(block))}"),
    ]


def _power_of_two(values: NDArray[np.float32], code: int, spec: CastSpec) -> list[Step]:
    element = spec.element
    finite = values[np.isfinite(values)]
    missing = values.size - finite.size
    if missing and spec.nonfinite == "block":
        return [("scale", "code FF = NaN: a NaN or an Inf makes its whole block NaN (policy 'block')")]
    amax, step = _amax(finite, "amax") if finite.size else (0.0, ("amax", "no finite element"))
    if missing and finite.size:
        step = (step[0], f"{step[1]}, of the finite elements (policy 'element')")
    if np.isinf(values).any():
        assert code == 2 * E8M0_BIAS
        return [step, ("scale", "an Inf gives the largest scale (policy 'element'): 2^127, code FE")]
    if not amax:
        assert code == 0
        return [step, ("scale", "no amax, no exponent: the least scale, 2^-127, code 00")]
    wanted, formula = _EXPONENTS[spec.scale_rule](Fraction(amax), element)
    exponent = min(max(wanted, -E8M0_BIAS), E8M0_BIAS)
    assert exponent + E8M0_BIAS == code, "the rule as told here is not the oracle's"
    clamp = "" if exponent == wanted else f"{wanted} is clamped to [-127, 127]: "
    value = f" = {decimal(2.0**exponent)}" if abs(exponent) <= 40 and exponent not in (0, 1) else ""
    return [
        step,
        (spec.scale_rule, formula),
        ("scale", f"{clamp}{power(exponent)}{value}, code {exponent} + 127 = {code} = {code:02X}"),
    ]


def _told(value: Fraction) -> str:
    return decimal(float(value))


def _split(amax: Fraction) -> tuple[int, Fraction]:
    """Return floor(log2 amax), and amax's significand in [1, 2)."""
    binade = floor_log2(amax)
    return binade, amax / Fraction(2) ** binade


def _floor(amax: Fraction, element: ElementFormat) -> tuple[int, str]:
    binade, _ = _split(amax)
    floor = binade - element.emax
    return floor, f"s = floor(log2 amax) - emax = {binade} - {element.emax} = {floor}"


def _ceil(amax: Fraction, element: ElementFormat) -> tuple[int, str]:
    binade, significand = _split(amax)
    top = binade + (significand > 1)
    reason = f"significand {_told(significand)} {'> 1' if significand > 1 else '= 1'}"
    return top - element.emax, (
        f"s = ceil(log2 amax) - emax = {top} - {element.emax} = {top - element.emax}   ({reason})"
    )


def _even(amax: Fraction, element: ElementFormat) -> tuple[int, str]:
    binade, significand = _split(amax)
    threshold = 2 - Fraction(1, 1 << (element.mantissa_bits + 1))
    more = int(significand >= threshold)
    exponent = binade - element.emax + more
    return exponent, (
        f"s = floor(log2 amax) - emax + {more} = {binade} - {element.emax} + {more} = {exponent}   "
        f"(significand {_told(significand)} {'≥' if more else '<'} 2 - 2^-(m+1) = {_told(threshold)})"
    )


def _rceil(amax: Fraction, element: ElementFormat) -> tuple[int, str]:
    floor = _split(amax)[0] - element.emax
    least = floor + (amax > Fraction(element.max_value) * Fraction(2) ** floor)
    largest = decimal(element.max_value)
    bounds = f"{largest} · {power(least - 1)} < {_told(amax)} ≤ {largest} · {power(least)}"
    return least, f"s = least with amax ≤ max · 2^s = {least}   ({bounds})"


def _reciprocal(amax: Fraction, element: ElementFormat) -> tuple[int, str]:
    factor = rounded_to_fp32(1 / Fraction(element.max_value))
    product = rounded_to_fp32(amax * factor)
    least = -floor_log2(1 / product) if product else -E8M0_BIAS
    numbers = f"fp32({_told(amax)} · {_told(factor)}) = {_told(product)}"
    if product:
        numbers = f"{power(least - 1)} < {numbers} ≤ {power(least)}"
    return least, f"s = least with fp32(amax · fp32(1 / max)) ≤ 2^s = {least}   ({numbers})"


#: rule -> the scale's exponent before the clamp, and the rule's formula with its numbers
_EXPONENTS: Mapping[str, Callable[[Fraction, ElementFormat], tuple[int, str]]] = {
    "floor": _floor,
    "ceil": _ceil,
    "even": _even,
    "rceil": _rceil,
    "reciprocal": _reciprocal,
}
check_rules("reporting/derivation.py: _EXPONENTS", _EXPONENTS)


def element_notes(done: Cast, block: int, place: int, random: int) -> tuple[str, ...]:
    """Return notes on one element (of the flattened x)."""
    x, scale, spec = float(done.x.ravel()[place]), done.scale(block), done.spec
    if math.isnan(scale):
        return ("a NaN" if math.isnan(x) else "an Inf" if math.isinf(x) else "NaN by its scale",)
    if math.isnan(x):
        return ("NaN stays",)
    if math.isinf(x):
        return ("Inf, saturated",)
    if not scale:
        return ("block scale 0",)
    quotient = Fraction(x) / Fraction(scale)
    return rounding_notes(quotient, spec.element, spec.rounding, random)


def rounding_notes(
    quotient: Fraction, element: ElementFormat, rounding: str, random: int = 0
) -> tuple[str, ...]:
    """Explain the rounding of a value between two codes, or beyond the last one."""
    size = abs(quotient)
    exponent = max(floor_log2(size), element.emin) if size else element.emin
    step = Fraction(2) ** (exponent - element.mantissa_bits)
    steps = ROUNDINGS[rounding](size / step, random)
    rest = size / step - math.floor(size / step)
    notes = []
    if rest and rounding == "stochastic":
        up = steps > size / step
        share = Fraction(random, 1 << RANDOM_BITS)
        notes.append(
            f"{'up' if up else 'down'}: {float(rest):.4g} + {float(share):.4g} {'≥' if up else '<'} 1"
        )
    if steps * step > element.max_value:
        notes.append("saturated")
    elif rest == Fraction(1, 2) and rounding in ("even", "away"):
        even = "to even" if element.mantissa_bits or size < element.min_normal else "to the larger"
        notes.append(f"tie, {even if rounding == 'even' else 'away from zero'}")
    if size and not steps:
        notes.append("underflow to zero")
    elif not element.twos_complement and 0 < steps * step < element.min_normal:
        notes.append("subnormal")
    return tuple(notes)


def runs(places: Sequence[int], same: Sequence[object]) -> list[list[int]]:
    """Group neighbouring places with equal `same`."""
    found: list[list[int]] = []
    for number, place in enumerate(places):
        if number and same[number] == same[number - 1]:
            found[-1].append(place)
        else:
            found.append([place])
    return found
