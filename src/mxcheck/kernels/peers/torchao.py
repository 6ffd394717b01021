"""torchao's casts: `to_mx`, `nvfp4_quantize`, and `Float8Tensor.from_hp` for a scale per tensor or row.

Source: torchao 0.18, torchao.prototype.mx_formats and torchao.quantization. Every argument is passed: torchao
has announced that the default scale rule will change.
"""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mxcheck.formats.blocks import E4M3, E8M0
from mxcheck.formats.spec import CastSpec, scales_shape
from mxcheck.kernels.domain import NotSupported, domain
from mxcheck.kernels.rows import as_rows, from_rows, unpack_fp4

# our element -> torchao's name of it
_ELEMENTS = MappingProxyType(
    {
        "fp8_e4m3": torch.float8_e4m3fn,
        "fp8_e5m2": torch.float8_e5m2,
        "fp6_e3m2": "fp6_e3m2",
        "fp6_e2m3": "fp6_e2m3",
        "fp4_e2m1": torch.float4_e2m1fn_x2,
    }
)


@domain(
    formats=(*_ELEMENTS, "nvfp4", "e4m3_tensor", "e4m3_row", "e5m2_tensor", "e5m2_row"),
    scale_rules=("floor", "ceil", "even", "rceil", "amax"),
    dtypes=(torch.float32, torch.bfloat16),  # to_mx and nvfp4_quantize assert that
    roundings=("even",),
    nonfinite=("block",),
    ragged=False,
)
def quantize(x: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """Return codes and scales by torchao, and for nvfp4 the tensor scale.

    Raises:
        NotSupported: torchao does not support it.
        ModuleNotFoundError: torchao is not installed.
    """
    rows = as_rows(x, spec.axis)
    if spec.format == "fp4_e2m1" and rows.shape[-1] % 2:
        raise NotSupported("torchao packs two fp4 codes to a byte: it needs an even length")
    if spec.block.scale == E8M0:
        parts = _mx(rows, spec)
    elif spec.block.scale == E4M3:
        parts = _nvfp4(rows)
    else:
        codes, scales = _float8(rows, spec)
        return from_rows(codes, x.shape, spec.axis), _scales(scales, x, spec)
    codes, scales, *tensor_scale = parts
    moved = from_rows(codes, x.shape, spec.axis), from_rows(scales, x.shape, spec.axis)
    return (*moved, *tensor_scale)  # type: ignore[return-value]  # two or three, as `parts` has


@cache
def _scaling_modes() -> dict[str, Any]:
    from torchao.prototype.mx_formats.config import ScaleCalculationMode

    return {mode.name.lower(): mode for mode in ScaleCalculationMode}


def _mx(rows: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    from torchao.prototype.mx_formats.mx_tensor import to_mx

    assert spec.block_size is not None
    scales, codes = to_mx(
        rows,
        _ELEMENTS[spec.format],
        spec.block_size,
        scaling_mode=_scaling_modes()[spec.scale_rule],
        is_swizzled_scales=False,
    )
    codes = codes.view(torch.uint8)
    return unpack_fp4(codes) if spec.format == "fp4_e2m1" else codes, scales.view(torch.uint8)


def _nvfp4(rows: Tensor) -> tuple[Tensor, ...]:
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale

    # Both steps, as in torchao's own workflows; without the first there is no tensor scale.
    tensor_scale = per_tensor_amax_to_scale(rows.abs().max())
    scales, codes = nvfp4_quantize(rows, block_size=16, per_tensor_scale=tensor_scale)
    return unpack_fp4(codes), scales.view(torch.uint8), tensor_scale


def _float8(rows: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor]:
    from torchao.quantization import Float8Tensor, PerRow, PerTensor
    from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

    quantized = Float8Tensor.from_hp(
        rows,
        float8_dtype=_ELEMENTS[spec.element.name],
        granularity=PerTensor() if spec.block.whole_tensor else PerRow(dim=-1),
        mm_config=None,
        hp_value_lb=None,
        hp_value_ub=None,
        kernel_preference=KernelPreference.TORCH,
        act_quant_kwargs=None,
    )
    return quantized.qdata.view(torch.uint8), quantized.scale


def _scales(scales: Tensor, x: Tensor, spec: CastSpec) -> Tensor:
    if spec.block.whole_tensor:
        return scales.reshape(scales_shape(tuple(x.shape), spec))
    return from_rows(scales, x.shape, spec.axis)
