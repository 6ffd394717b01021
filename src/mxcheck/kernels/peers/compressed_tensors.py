"""compressed-tensors' casts: from a preset scheme to the bytes of a checkpoint.

Source: compressed-tensors 0.20. It has no single function from a tensor to codes. This adapter combines the
steps that the library applies to a weight: `compute_dynamic_scales_and_zp` (with `generate_gparam` for
NVFP4's tensor scale), then the `compress` of the format's compressor. For fp8 with an fp32 scale, `quantize`
replaces the latter, because the scheme with a scale per row is for activations, which no compressor takes.
These schemes are symmetric: there is no zero point.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from mxcheck.formats.blocks import E4M3, E8M0
from mxcheck.formats.spec import CastSpec, scales_shape
from mxcheck.kernels.domain import NotSupported, domain
from mxcheck.kernels.rows import as_rows, from_rows, unpack_fp4

# our format -> preset scheme, what it applies to, and its compressor
_SCHEMES = MappingProxyType(
    {
        "fp6_e2m3": ("MXFP6A16", "weights", "mxfp6-pack-quantized"),
        "fp4_e2m1": ("MXFP4A16", "weights", "mxfp4-pack-quantized"),
        "nvfp4": ("NVFP4A16", "weights", "nvfp4-pack-quantized"),
        "e4m3_tensor": ("FP8", "weights", ""),
        "e4m3_row": ("FP8_DYNAMIC", "input_activations", ""),
    }
)


@domain(
    formats=(*_SCHEMES, "fp8_e4m3"),
    # "Round values to the closest power of 2", by adding half a step of the element: `even`
    scale_rules=("even", "amax"),
    roundings=("even",),
    nonfinite=("block",),
    ragged=False,
)
def quantize(x: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """Return codes and scales by compressed-tensors, and for nvfp4 the tensor scale.

    Raises:
        NotSupported: compressed-tensors does not support it.
        ModuleNotFoundError: compressed-tensors is not installed.
    """
    if spec.block_size != spec.block.block_size:
        raise NotSupported(f"compressed-tensors has no block size {spec.block_size} in {spec.format}")
    if spec.format == "fp8_e4m3":  # on purpose: the library's own test of MXFP8 scales does the same
        raise NotSupported(
            "compressed-tensors rounds amax of MXFP8 up from 1.75 * 2^k, by FP4's step, which is no rule here"
        )
    rows = as_rows(x, spec.axis)
    if spec.block.scale not in (E8M0, E4M3):
        codes, scales = _float8(rows, spec)
        return from_rows(codes, x.shape, spec.axis), _scales(scales, x, spec)
    state = _compress(rows, spec)
    codes = _UNPACK[spec.format](state)
    parts = from_rows(codes, x.shape, spec.axis), from_rows(state["weight_scale"], x.shape, spec.axis)
    if spec.format != "nvfp4":
        return parts
    # The library keeps 448 * 6 / amax and divides by it; ours is the number to multiply by.
    return (*parts, state["weight_global_scale"].reciprocal().reshape(()))


def _scheme(spec: CastSpec) -> tuple[Any, Any]:
    from compressed_tensors.quantization import preset_name_to_scheme

    name, role, _ = _SCHEMES[spec.format]
    scheme = preset_name_to_scheme(name, targets=["Linear"])
    return scheme, getattr(scheme, role)


def _scale_of(rows: Tensor, args: Any, global_scale: Tensor | None) -> Tensor:
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    # It requires a module but does not read it.
    scale: Tensor
    scale, _ = compute_dynamic_scales_and_zp(
        value=rows, args=args, module=torch.nn.Identity(), global_scale=global_scale
    )
    return scale


def _compress(rows: Tensor, spec: CastSpec) -> dict[str, Tensor]:
    """Return the state dict of a compressed weight: packed codes, and scales as uint8 codes."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization.quant_args import FP4_E2M1_DATA, FP8_E4M3_DATA
    from compressed_tensors.quantization.utils import generate_gparam

    scheme, args = _scheme(spec)
    state = {"weight": rows}
    if spec.format == "nvfp4":
        state["weight_global_scale"] = generate_gparam(
            rows.min(), rows.max(), scale_data=FP8_E4M3_DATA, quant_data=FP4_E2M1_DATA, dtype=torch.float32
        )
    state["weight_scale"] = _scale_of(rows, args, state.get("weight_global_scale"))
    compressor = BaseCompressor.get_value_from_registry(_SCHEMES[spec.format][2])
    compressed: dict[str, Tensor] = compressor.compress(state, scheme)
    compressed["weight_scale"] = compressed["weight_scale"].view(torch.uint8)
    return compressed


def _float8(rows: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor]:
    from compressed_tensors.quantization.lifecycle.forward import quantize as quantize_by_scale

    _, args = _scheme(spec)
    # Per token means [batch, token, feature]: two axes would have one scale for all.
    value = rows.unsqueeze(0)
    scale = _scale_of(value, args, None)
    codes = quantize_by_scale(
        x=value, scale=scale, zero_point=None, args=args, dtype=torch.float8_e4m3fn, global_scale=None
    )
    # The scale has x's dtype. Returning it as fp32 rounds nothing.
    return codes.squeeze(0).view(torch.uint8), scale.float()


def _unpack_fp6(packed: Tensor) -> Tensor:
    """Unpack bytes [rows, 3 n / 4] to codes [rows, n]: four codes in three bytes, lowest bits first."""
    three = packed.reshape(packed.shape[0], -1, 3).int()
    word = three[..., 0] | three[..., 1] << 8 | three[..., 2] << 16
    codes = torch.stack([word >> shift & 0x3F for shift in (0, 6, 12, 18)], dim=-1)
    return codes.flatten(-2).to(torch.uint8)


_UNPACK: MappingProxyType[str, Callable[[dict[str, Tensor]], Tensor]] = MappingProxyType(
    {
        "fp6_e2m3": lambda state: _unpack_fp6(state["weight_packed"]),
        "fp4_e2m1": lambda state: unpack_fp4(state["weight_packed"]),
        "nvfp4": lambda state: unpack_fp4(state["weight_packed"]),
    }
)


def _scales(scales: Tensor, x: Tensor, spec: CastSpec) -> Tensor:
    if spec.block.whole_tensor:
        return scales.reshape(scales_shape(tuple(x.shape), spec))
    return from_rows(scales.reshape(-1, 1), x.shape, spec.axis)
