"""The element cast of the house kernel: from values in units of their scale to codes."""

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
    # Saturate first, as the step of an infinity has no size. A value between the largest code and the next
    # power of two could round past it, and is brought back by the second clamp.
    values.clamp_(-element.max_value, element.max_value)
    # From here scratch holds 2^exponent of each element; subnormals have that of the lowest binade.
    binade = torch.bitwise_and(values.view(torch.int32), EXPONENT, out=scratch).view(torch.float32)
    binade.clamp_(min=element.min_normal)
    ROUNDINGS[rounding](values, binade, element.mantissa_bits, random)


def encode(values: Tensor, element: ElementFormat) -> Tensor:
    """Encode fp32 values that the format represents exactly as codes (uint8). NaN gets the format's largest
    NaN code, or an arbitrary one where the format has none."""
    if element.twos_complement:  # one binade: the value in steps is the code
        return values.mul(2.0**element.mantissa_bits).to(torch.int8).view(torch.uint8)
    # Scaled so that the format's lowest binade coincides with fp32's subnormals, a value's bits are its code.
    bits = values.mul(2.0 ** (_LOWEST_BINADE - element.emin)).view(torch.int32)
    negative = bits >> 31  # -1, or 0
    if element.nan_magnitudes:
        bits.bitwise_and_(MAGNITUDE)
    magnitude = bits.bitwise_right_shift_(FRACTION_BITS - element.mantissa_bits)
    if element.nan_magnitudes:
        magnitude.clamp_(max=max(element.nan_magnitudes))
    # A sign bit of fp32 that remains lies above the eight bits that are kept.
    return magnitude.sub_(negative, alpha=element.sign_bit).to(torch.uint8)


def clear(codes: Tensor, poisoned: Tensor) -> Tensor:
    """Set the codes of poisoned blocks to zero, in place (`poisoned`: bool, of a shape that broadcasts to
    codes')."""
    # On a CPU the check is cheap and filling is not; elsewhere the check would have to synchronize.
    if codes.device.type != "cpu" or poisoned.any():
        codes.masked_fill_(poisoned, 0)
    return codes
