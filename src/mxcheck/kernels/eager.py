"""The house kernel: casts with E8M0 scales in plain torch operations, on any device.

Both entry points share `_cast_blocks`, so a fault in the scale or in the rounding shows in codes and values
alike. All arithmetic is in fp32 on exactly upcast input and, except for the one rounding, exact: scales are
powers of two taken from the bits of amax, never from a floating-point log2.

Source: OCP MX v1.0, section 6.3. What it leaves open follows `mxcheck.formats.oracle`: a zero block has scale
code 0; NaN and Inf follow `CastSpec.nonfinite`.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from mxcheck.formats.blocks import E8M0
from mxcheck.formats.codes import E8M0_NAN, scale_values
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.spec import CastSpec, scales_shape
from mxcheck.kernels.block_views import check_input, chunks, rows, sections
from mxcheck.kernels.domain import domain
from mxcheck.kernels.element_codes import clear, encode, round_elements
from mxcheck.kernels.real_scaled import fake_quantize_real_scaled, quantize_real_scaled
from mxcheck.kernels.rules import EXPONENT, MAGNITUDE, SCALE_RULES

Parts = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]


@domain()
def quantize_eager(x: Tensor, spec: CastSpec) -> Parts:
    """Return the codes and scales of a cast.

    Args:
        x: fp32, bf16 or fp16, any shape and strides, not empty.
        spec: the cast.

    Returns:
        codes: uint8, x's shape, one code an element in the low bits.
        scales: of the shape `scales_shape`: uint8 E8M0 codes; NVFP4: uint8 E4M3 codes; with a scale per row
            or tensor: fp32.
        tensor scale (NVFP4 only): fp32, of shape ().

    Raises:
        TypeError, ValueError: as `check_input`.
    """
    check_input(x, spec)
    if spec.block.scale != E8M0:
        return quantize_real_scaled(x, spec)
    codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    scales = torch.empty(scales_shape(tuple(x.shape), spec), dtype=torch.uint8, device=x.device)
    scale_rows = rows(scales, spec)
    assert spec.block_size is not None  # E8M0 formats have one
    for blocks, (source, *random, target) in sections(spec.block_size, *_inputs(x, spec), rows(codes, spec)):
        scale_target = scale_rows[:, blocks].unsqueeze(2)
        for source_chunk, *random_chunk, target_chunk, scale_chunk in chunks(
            source, *random, target, scale_target
        ):
            values, scale_codes = _cast_blocks(source_chunk.float(), spec, *random_chunk)
            target_chunk.copy_(encode(values, spec.element))
            if spec.nonfinite == "block":
                clear(target_chunk, scale_codes == E8M0_NAN)
            scale_chunk.copy_(scale_codes)
    return codes, scales


@domain()
def fake_quantize_eager(x: Tensor, spec: CastSpec) -> Tensor:
    """Return the values of `quantize_eager`'s codes and scales: x's shape and dtype, contiguous, no gradient.

    Element times scale is exact in fp32, then rounded once to x's dtype; overflow becomes Inf. A block with
    scale code FF becomes NaN throughout.

    Raises:
        TypeError, ValueError: as `check_input`.
    """
    check_input(x, spec)
    if spec.block.scale != E8M0:
        return fake_quantize_real_scaled(x, spec)
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    scale_of, _ = _scale_tables(x.device)
    assert spec.block_size is not None  # E8M0 formats have one
    for _, (source, *random, target) in sections(spec.block_size, *_inputs(x, spec), rows(result, spec)):
        for source_chunk, *random_chunk, target_chunk in chunks(source, *random, target):
            values, scale_codes = _cast_blocks(source_chunk.float(), spec, *random_chunk)
            torch.mul(values, _look_up(scale_of, scale_codes), out=target_chunk)
    return result


def scale_codes_of(amax: Tensor, element: ElementFormat, rule: str) -> Tensor:
    """Return E8M0 codes (int32) for the bits (int32) of finite amax, fp32 magnitudes."""
    return SCALE_RULES[rule](amax, element).clamp_(0, E8M0_NAN - 1)


def _inputs(x: Tensor, spec: CastSpec) -> list[Tensor]:
    """Return the tensors read elementwise: x and, for stochastic rounding, its random integers."""
    return [rows(x, spec), rows(spec.random, spec)] if spec.rounding == "stochastic" else [rows(x, spec)]


def _cast_blocks(x: Tensor, spec: CastSpec, random: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return element values (fp32, in units of the scale) and E8M0 codes (int32) of blocks.

    x is fp32 [outer, blocks, n, inner]; blocks run along n. The codes are [outer, blocks, 1, inner].
    """
    element = spec.element
    bits = x.view(torch.int32) & MAGNITUDE
    if spec.nonfinite == "element":
        bits.masked_fill_(bits > EXPONENT, 0)  # amax ignores NaN
    amax = bits.amax(2, keepdim=True)  # magnitudes have the same order as integers and as floats
    scale_codes = scale_codes_of(amax, element, spec.scale_rule)
    # A poisoned block gets FF; where only elements are poisoned, an Inf still gives the highest scale, FE.
    scale_codes.masked_fill_(amax >= EXPONENT, E8M0_NAN if spec.nonfinite == "block" else E8M0_NAN - 1)
    # 2^-s; NaN for FF, which makes all that follows NaN. The product is exact: it underflows only for
    # elements so far below amax that they round to zero anyway. (Both ends of the range need fp32 subnormals,
    # which torch keeps by default on CPU and CUDA; `torch.set_flush_denormal(True)` removes them.)
    _, inverse_of = _scale_tables(x.device)
    values = x * _look_up(inverse_of, scale_codes)
    round_elements(values, element, spec.rounding, random, scratch=bits)
    if element.has_negative_zero:  # rounding gave every zero the sign +
        values.copysign_(x)
    return values, scale_codes


def _look_up(table: Tensor, codes: Tensor) -> Tensor:
    return table.index_select(0, codes.flatten()).view(codes.shape)


@cache
def _scale_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return 2^s and 2^-s by E8M0 code (2^-127 is an fp32 subnormal, and exact); NaN for FF."""
    scales = scale_values()
    inverses = [1 / scale for scale in scales]
    return (
        torch.tensor(scales, dtype=torch.float32, device=device),
        torch.tensor(inverses, dtype=torch.float32, device=device),
    )
