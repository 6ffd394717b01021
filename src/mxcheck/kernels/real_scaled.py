"""The house kernel for formats whose scale is no power of two: NVFP4, and fp8 with an fp32 scale.

The definition is in `mxcheck.formats.real_scales`. It requires exact quotients rounded once. In fp32 they
would be rounded twice (to 24 bits, then to the element's 4). In float64 they are rounded twice as well, but
with the same result: a quotient of a 24-bit and a 28-bit number that is no tie between two codes is at least
2^-33 (relative) away from it, and float64 moves it by at most 2^-53.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mxcheck.formats.blocks import E4M3
from mxcheck.formats.codes import code_values
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.spec import CastSpec, scales_shape
from mxcheck.kernels.block_views import chunks, rows, sections
from mxcheck.kernels.element_codes import clear, encode

_BLOCK_SCALE = ELEMENT_FORMATS["fp8_e4m3"]
# float64, its exponent as an int64 mask
_FRACTION_BITS = 52
_EXPONENT = 0x7FF << _FRACTION_BITS


def quantize_real_scaled(x: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """As `quantize_eager`."""
    codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    scales, tensor_scale = _scales(x, spec)
    for source, target, scale in _scaled_chunks(x, codes, scales, tensor_scale, spec):
        values = _round(source, scale, spec.element)
        target.copy_(clear(encode(values, spec.element), scale.isnan()))
    return (codes, scales) if tensor_scale is None else (codes, scales, tensor_scale)


def fake_quantize_real_scaled(x: Tensor, spec: CastSpec) -> Tensor:
    """As `fake_quantize_eager`: element times scale, rounded to fp32, then to x's dtype."""
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    scales, tensor_scale = _scales(x, spec)
    for source, target, scale in _scaled_chunks(x, result, scales, tensor_scale, spec):
        target.copy_((_round(source, scale, spec.element).double() * scale).float())
    return result


def decode_scales(scales: Tensor, tensor_scale: Tensor | None) -> Tensor:
    """Return the exact values (float64) of fp32 scales, or of E4M3 scale codes and their tensor scale."""
    if tensor_scale is None:
        return scales.double()
    table = torch.tensor(code_values(_BLOCK_SCALE), dtype=torch.float64, device=scales.device)
    return table[scales.int()] * tensor_scale.double()


def _scales(x: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor | None]:
    element = spec.element
    if spec.block.scale != E4M3:
        size = x.detach().abs()
        amax = size.amax() if spec.block.whole_tensor else size.amax(spec.axis, keepdim=True)
        scales = fp32_quotient(amax, element.max_value)
        return scales.expand(scales_shape(tuple(x.shape), spec)).contiguous(), None
    tensor_scale = fp32_quotient(x.detach().abs().amax(), _BLOCK_SCALE.max_value * element.max_value)
    scales = torch.empty(scales_shape(tuple(x.shape), spec), dtype=torch.uint8, device=x.device)
    scale_rows = rows(scales, spec)
    assert spec.block_size is not None  # NVFP4 has one
    for blocks, (source,) in sections(spec.block_size, rows(x, spec)):
        amax = source.abs().amax(2).float()
        values = _round(amax, tensor_scale.double() * element.max_value, _BLOCK_SCALE)
        scale_rows[:, blocks] = clear(encode(values, _BLOCK_SCALE), tensor_scale.isnan())
    return scales, tensor_scale


def fp32_quotient(amax: Tensor, divisor: float) -> Tensor:
    """Return fp32(amax / divisor); 1 where that is 0, NaN where amax is not finite."""
    quotient = amax.float() / divisor  # IEEE division: rounded once
    quotient = quotient.masked_fill(quotient == 0, 1.0)
    return quotient.masked_fill(~amax.isfinite(), torch.nan)


def _scaled_chunks(
    x: Tensor, result: Tensor, scales: Tensor, tensor_scale: Tensor | None, spec: CastSpec
) -> Iterator[tuple[Tensor, ...]]:
    """Yield chunks of x, of the result and of the scales' exact values, which broadcast."""
    exact = decode_scales(scales, tensor_scale)
    if spec.block.whole_tensor:
        flat = (1, x.numel(), 1, 1)
        yield from chunks(x.detach().reshape(flat), result.view(flat), exact.reshape(1, 1, 1, 1).expand(flat))
        return
    scale_rows = rows(exact, spec)
    for blocks, (source, target) in sections(
        spec.block_size or x.shape[spec.axis], rows(x, spec), rows(result, spec)
    ):
        yield from chunks(source, target, scale_rows[:, blocks].unsqueeze(2))


def _round(x: Tensor, scale: Tensor, element: ElementFormat) -> Tensor:
    """Return x / scale (float64), rounded to nearest even to a value of the element (fp32), saturating, with
    x's sign.

    Where the scale is 0 the result is 0; where it is NaN, NaN.
    """
    quotient = (
        (x.double() / scale).masked_fill_(scale == 0, 0.0).clamp_(-element.max_value, element.max_value)
    )
    binade = (quotient.view(torch.int64) & _EXPONENT).view(torch.float64).clamp_(min=element.min_normal)
    # As rounding to even in fp32 (`rules`): 1.5 * 2^k has ulp 2^(k - 52), and alpha * binade is exact.
    alpha = 1.5 * 2.0 ** (_FRACTION_BITS - element.mantissa_bits)
    quotient.add_(binade, alpha=alpha).sub_(binade, alpha=alpha)
    return quotient.clamp_(-element.max_value, element.max_value).float().copysign_(x.float())
