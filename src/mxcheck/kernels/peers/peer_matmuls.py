"""Peers' matrix products: each library casts both operands and multiplies them in its own way.

An adapter is a function `(a [M, K], b [N, K], spec) -> [M, N]`; the operands are cast along their last axis.
The library chooses the dtype of the result. Sources and versions are those of the cast adapters beside this
file; torch's scaled product is `torch._scaled_mm` of torch 2.13.

None of these products uses hardware with block scales. That exists on CUDA from compute capability 10.0 on
(Blackwell), where this was not run; an adapter refuses casts that need it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from mxcheck.formats.blocks import E4M3, E8M0, FP32
from mxcheck.formats.spec import CastSpec, resolve_axis
from mxcheck.kernels.domain import Domain, NotSupported, check_domain, domain_of
from mxcheck.kernels.eager import quantize_eager
from mxcheck.kernels.peers import microxcaling as microxcaling_casts
from mxcheck.kernels.peers import torchao as torchao_casts

# torch casts no blocks: the house kernel casts the operands, and only the product is torch's.
_SCALED_MM = Domain(
    formats=("e4m3_tensor", "e4m3_row", "e5m2_tensor", "e5m2_row"),
    scale_rules=("amax",),
    roundings=("even",),
    nonfinite=("block",),
)
_FP8 = MappingProxyType({"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2})


def scaled_mm(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    """Multiply fp8 codes by `torch._scaled_mm`, with a scale per tensor or row, in fp32.

    Raises:
        NotSupported: torch does not support it.
    """
    if spec.block.scale != FP32:
        raise NotSupported("torch multiplies operands with block scales on CUDA only (Blackwell)")
    _require_product(_SCALED_MM, a, b, spec)
    dtype = _FP8[spec.element.name]
    (codes_a, scale_a, *_), (codes_b, scale_b, *_) = (quantize_eager(x, spec) for x in (a, b))
    if spec.block.whole_tensor:
        scale_a, scale_b = scale_a.reshape(()), scale_b.reshape(())
    return torch._scaled_mm(
        codes_a.view(dtype), codes_b.view(dtype).t(), scale_a, scale_b.t(), out_dtype=torch.float32
    )


def torchao(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    """Multiply two quantized tensors by torchao, in the operands' dtype.

    MX and NVFP4 are emulated: both operands are decoded in their own dtype and multiplied in it. (NVFP4
    values have more bits than bf16, so bf16 operands lose them before the product.) With a scale per tensor
    or row it is torchao's dynamic quantization, whose product is torch's.

    Raises:
        NotSupported: torchao does not support it.
        ModuleNotFoundError: torchao is not installed.
    """
    _require_product(domain_of(torchao_casts.quantize), a, b, spec)
    if a.dtype != b.dtype:
        raise NotSupported(f"torchao multiplies operands of one dtype, got {a.dtype} and {b.dtype}")
    return _TORCHAO[spec.block.scale](a.contiguous(), b.contiguous(), spec)


def _torchao_mx(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

    left, right = (
        MXTensor.to_mx(
            x,
            torchao_casts._ELEMENTS[spec.format],
            spec.block_size,
            scaling_mode=torchao_casts._scaling_modes()[spec.scale_rule],
            kernel_preference=KernelPreference.EMULATED,
        )
        for x in (a, b)
    )
    return _plain(left @ right.t())


def _torchao_nvfp4(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    left, right = (
        NVFP4Tensor.to_nvfp4(x, spec.block_size, per_tensor_scale=per_tensor_amax_to_scale(x.abs().max()))
        for x in (a, b)
    )
    return _plain(left @ right.t())


def _torchao_float8(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    from torchao.float8.inference import Float8MMConfig
    from torchao.quantization import Float8Tensor, PerRow, PerTensor
    from torchao.quantization.quantize_.common.kernel_preference import KernelPreference
    from torchao.quantization.quantize_.workflows.float8.float8_tensor import QuantizeTensorToFloat8Kwargs

    dtype = torchao_casts._ELEMENTS[spec.element.name]
    granularity = PerTensor() if spec.block.whole_tensor else PerRow(dim=-1)
    shared = {
        "float8_dtype": dtype,
        "granularity": granularity,
        "mm_config": Float8MMConfig(use_fast_accum=False),
        "kernel_preference": KernelPreference.TORCH,
    }
    weight = Float8Tensor.from_hp(b, act_quant_kwargs=QuantizeTensorToFloat8Kwargs(**shared), **shared)
    return _plain(torch.nn.functional.linear(a, weight))


_TORCHAO: Mapping[str, Callable[[Tensor, Tensor, CastSpec], Tensor]] = MappingProxyType(
    {E8M0: _torchao_mx, E4M3: _torchao_nvfp4, FP32: _torchao_float8}
)


def microxcaling(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    """Multiply by microxcaling's `mx.matmul`, in the operands' dtype, without its element-wise roundings
    (bfloat, fp).

    Raises:
        NotSupported: microxcaling does not support it.
        ModuleNotFoundError: the package `mx` is not on sys.path.
    """
    _require_product(domain_of(microxcaling_casts.quantize), a, b, spec)
    import mx

    elements = microxcaling_casts._ELEMENTS[spec.format]
    specs = {
        "scale_bits": 8,
        "a_elem_format": elements,
        "w_elem_format": elements,
        "block_size": spec.block_size,
        "shared_exp_method": "max",
        "round_mx_output": microxcaling_casts._ROUNDINGS[spec.rounding],
        "custom_cuda": False,
    }
    with warnings.catch_warnings():
        # On a ragged tail it indexes with a list of slices, and torch warns.
        warnings.filterwarnings("ignore", "Using a non-tuple sequence", UserWarning)
        return _plain(mx.matmul(a, b.t(), mx_specs=specs, mode_config="aw"))


def _require_product(made_for: Domain | None, a: Tensor, b: Tensor, spec: CastSpec) -> None:
    """Check the operands, and that they lie in a library's domain.

    Raises:
        NotSupported: the library does not support them.
        ValueError: an operand that is not a matrix; a cast along another axis than the last.
    """
    for x in (a, b):
        if x.dim() != 2:
            raise ValueError(f"a product needs operands [M, K] and [N, K], got the shape {tuple(x.shape)}")
        if not spec.block.whole_tensor and resolve_axis(2, spec.axis) != 1:
            raise ValueError(f"a product needs operands cast along their last axis, got axis {spec.axis}")
        check_domain(made_for, x, spec)


def _plain(result: object) -> Tensor:
    assert type(result) is Tensor, f"a product is a plain tensor, got {type(result).__name__}"
    return result
