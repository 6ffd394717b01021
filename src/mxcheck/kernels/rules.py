"""The arithmetic of the house kernel, by name: scale rules and roundings, in place on torch tensors.

Nothing here rounds except the rounding itself and the product that defines the rule `reciprocal`: scales come
from bits, and steps are powers of two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.scale_rules import check_rules
from mxcheck.formats.spec import RANDOM_BITS

# fp32, as int32 masks
FRACTION_BITS = 23
MAGNITUDE = 0x7FFF_FFFF
EXPONENT = 0x7F80_0000
_FRACTION = 0x007F_FFFF


def _floor(amax: Tensor, element: ElementFormat) -> Tensor:
    # A subnormal amax has exponent field 0: too large, but the lower clamp gives 0 either way.
    return (amax >> FRACTION_BITS) - element.emax


def _above(significand: float) -> Callable[[Tensor], Tensor]:
    """Return a test whether amax's significand in [1, 2) is above `significand`.

    Among the subnormals only the highest binade matters, [2^-127, 2^-126): below it the lower clamp decides
    in any case. There the significand is shifted down by one bit, and its leading bit is explicit.
    """
    normal = int((significand - 1) * (1 << FRACTION_BITS))
    subnormal = int(significand * (1 << (FRACTION_BITS - 1)))
    return lambda amax: torch.where(amax <= _FRACTION, amax > subnormal, (amax & _FRACTION) > normal)


def _ceil(amax: Tensor, element: ElementFormat) -> Tensor:
    return _floor(amax, element) + _above(1.0)(amax)


def _even(amax: Tensor, element: ElementFormat) -> Tensor:
    # Half a step below 2 in the element's precision; ">= threshold" is written as "above the previous fp32
    # value".
    threshold = 2 - 2.0 ** -(element.mantissa_bits + 1) - 2.0**-FRACTION_BITS
    return _floor(amax, element) + _above(threshold)(amax)


def _rceil(amax: Tensor, element: ElementFormat) -> Tensor:
    return _floor(amax, element) + _above(element.max_value / 2.0**element.emax)(amax)


def _reciprocal(amax: Tensor, element: ElementFormat) -> Tensor:
    # Rounded to fp32 here, as devices may round other numbers differently.
    factor = torch.tensor(1 / element.max_value, dtype=torch.float32, device="cpu").item()
    product = (amax.view(torch.float32) * factor).view(torch.int32)
    return (product >> FRACTION_BITS) + _above(1.0)(product)


# amax's bits (int32) -> E8M0 code, not yet clamped
SCALE_RULES: Mapping[str, Callable[[Tensor, ElementFormat], Tensor]] = {
    "floor": _floor,
    "ceil": _ceil,
    "even": _even,
    "rceil": _rceil,
    "reciprocal": _reciprocal,
}
check_rules("kernels/rules.py: SCALE_RULES", SCALE_RULES)


def _to_even(values: Tensor, binade: Tensor, mantissa_bits: int, random: Tensor | None) -> None:
    del random
    # 1.5 * 2^k has ulp 2^(k - 23): adding it makes the hardware round to that step, to nearest even. alpha *
    # binade is a power of two times 1.5, so it is exact, fused or not.
    alpha = 1.5 * 2.0 ** (FRACTION_BITS - mantissa_bits)
    values.add_(binade, alpha=alpha).sub_(binade, alpha=alpha)


def _by_remainder(
    up: Callable[[Tensor, Tensor | None], Tensor],
) -> Callable[[Tensor, Tensor, int, Tensor | None], None]:
    """Round the magnitude down to whole steps, then up by one where `up` returns true for the remainder (in
    steps)."""

    def round_(values: Tensor, binade: Tensor, mantissa_bits: int, random: Tensor | None) -> None:
        step = binade * 2.0**-mantissa_bits
        steps = values.abs().div_(step)
        whole = steps.floor()
        remainder = steps.sub_(whole)  # exact, unlike adding a half and truncating
        whole.add_(up(remainder, random)).mul_(step)
        values.copy_(whole.copysign_(values).add_(0.0))  # as in _to_even, every zero is +0

    return round_


def _by_chance(remainder: Tensor, random: Tensor | None) -> Tensor:
    assert random is not None  # checked by the cast
    return (remainder.mul_(2.0**RANDOM_BITS).long() + random) >= (1 << RANDOM_BITS)


# in place: values -> multiples of binade * 2^-mantissa_bits; NaN stays NaN
ROUNDINGS: Mapping[str, Callable[[Tensor, Tensor, int, Tensor | None], None]] = {
    "even": _to_even,
    "away": _by_remainder(lambda remainder, _: remainder >= 0.5),
    "zero": _by_remainder(lambda remainder, _: torch.zeros_like(remainder)),
    "stochastic": _by_remainder(_by_chance),
}
