"""Somebody's casts to E4M3, in plain torch: what a user of the kernel suite has in `my_casts.py`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import mxcheck
from mxcheck import CastSpec


def quantize(x: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor]:
    """A right one: OCP MX v1.0, section 6.3."""
    return _cast(x, spec, torch.round)


def wrong(x: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor]:
    """Ties away from zero where they should go to even."""
    return _cast(x, spec, lambda steps: torch.floor(steps + 0.5))


def by_logarithm(x: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor]:
    """The scale by a rounded logarithm in fp32: one too large for amax just below a power of two."""
    return _cast(x, spec, torch.round, lambda amax: amax.float().log2().floor().int())


def nvfp4_values(x: Tensor, spec: CastSpec) -> Tensor:
    """NVFP4 by values, with the product of both scales rounded to fp32 before it is multiplied."""
    if spec.format != "nvfp4":
        raise NotImplementedError("only nvfp4")
    q = mxcheck.quantize(x, "nvfp4", axis=spec.axis)
    blocks = q.scales.view(torch.float8_e4m3fn).float() * q.tensor_scale
    each = blocks.repeat_interleave(16, spec.axis).narrow(spec.axis, 0, x.shape[spec.axis])
    magnitudes = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    return (torch.cat([magnitudes, -magnitudes])[q.codes.long()] * each).to(x.dtype)


def _exponent(amax: Tensor) -> Tensor:
    return torch.frexp(amax)[1] - 1


def _cast(
    x: Tensor,
    spec: CastSpec,
    nearest: Callable[[Tensor], Tensor],
    floor_log2: Callable[[Tensor], Tensor] = _exponent,
) -> tuple[Tensor, Tensor]:
    asked = (spec.format, spec.scale_rule, spec.rounding, spec.nonfinite)
    if asked != ("fp8_e4m3", "floor", "even", "block"):
        raise NotImplementedError(f"my_casts has only mxfp8_e4m3-floor, not {spec.format}")
    rows = x.float().movedim(spec.axis, -1)
    length = rows.shape[-1]
    padded = torch.nn.functional.pad(rows, (0, -length % spec.block_size))
    blocks = padded.unflatten(-1, (-1, spec.block_size)).double()
    amax = blocks.abs().amax(-1)
    poisoned = ~amax.isfinite()
    exponent = floor_log2(amax) - 8  # emax of E4M3
    exponent = torch.where(amax == 0, -127, exponent).clamp(-127, 127)
    scaled = blocks.abs() * torch.exp2(-exponent.double()).unsqueeze(-1)  # exact: in float64
    step = torch.exp2((torch.frexp(scaled)[1] - 1).clamp(min=-6).double() - 3)
    rounded = (nearest(scaled / step) * step).clamp(max=448.0).float()
    codes = rounded.to(torch.float8_e4m3fn).view(torch.uint8) | (blocks.signbit().to(torch.uint8) << 7)
    scales = torch.where(poisoned, 0xFF, exponent + 127).to(torch.uint8)
    return codes.flatten(-2)[..., :length].movedim(-1, spec.axis), scales.movedim(-1, spec.axis)
