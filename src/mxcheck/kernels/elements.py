"""The element cast of the house kernel: values in units of their scale to codes."""

from __future__ import annotations

import torch
from torch import Tensor

from mxcheck.formats.elements import ElementFormat
from mxcheck.kernels.rules import EXPONENT, FRACTION_BITS, MAGNITUDE, ROUNDINGS

_LOWEST_BINADE = -126


def round_elements(
    values: Tensor,
    element: ElementFormat,
    rounding: str,
    random: Tensor | None = None,
    *,
    scratch: Tensor | None = None,
) -> None:
    """Round fp32 values in place to values of the format, saturating; NaN stays NaN, zeros may lose their
    sign.

    Args:
        random: the random integers of `stochastic`, int64, of values' shape.
        scratch: an int32 tensor of values' shape that may be overwritten.
    """
    # Saturating first spares infinities, whose steps have no size. A value between the largest code and the
    # next power of two could round past it, and is brought back either way.
    values.clamp_(-element.max_value, element.max_value)
    # From here the scratch holds 2^exponent of each element, subnormals counted to the lowest binade.
    binade = torch.bitwise_and(values.view(torch.int32), EXPONENT, out=scratch).view(torch.float32)
    binade.clamp_(min=element.min_normal)
    ROUNDINGS[rounding](values, binade, element.mantissa_bits, random)


def encode(values: Tensor, element: ElementFormat) -> Tensor:
    """Codes (uint8) of fp32 values that the format represents exactly. NaN has the format's largest NaN code;
    where the format has none, anything."""
    if element.twos_complement:  # one binade: the value in steps is the code
        return values.mul(2.0**element.mantissa_bits).to(torch.int8).view(torch.uint8)
    # Scaled so that the format's lowest binade is that of fp32's subnormals, a value's bits are its code.
    bits = values.mul(2.0 ** (_LOWEST_BINADE - element.emin)).view(torch.int32)
    negative = bits >> 31  # -1, or 0
    if element.nan_magnitudes:
        bits.bitwise_and_(MAGNITUDE)
    magnitude = bits.bitwise_right_shift_(FRACTION_BITS - element.mantissa_bits)
    if element.nan_magnitudes:
        magnitude.clamp_(max=max(element.nan_magnitudes))
    # Where fp32's sign is still in it, it lies above the eight bits that are kept.
    return magnitude.sub_(negative, alpha=element.sign_bit).to(torch.uint8)


def clear(codes: Tensor, poisoned: Tensor) -> Tensor:
    """Zero the codes, in place, of blocks that are poisoned (bool, of a shape that fits codes')."""
    # On a CPU a look at the blocks costs little and the filling much; elsewhere the look would have to wait.
    if codes.device.type != "cpu" or poisoned.any():
        codes.masked_fill_(poisoned, 0)
    return codes


def cast_elements(values: Tensor, element: ElementFormat, rounding: str = "even") -> Tensor:
    """Codes (uint8) of fp32 values at the scale 1: the element cast alone, saturating.

    Inf saturates; NaN gives the format's largest NaN code, and where it has none, anything.
    """
    rounded = values.clone()
    round_elements(rounded, element, rounding)
    return encode(rounded.copysign_(values), element)
