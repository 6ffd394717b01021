"""The argument `out` of the public casts: tensors of the caller's that get the result."""

from __future__ import annotations

import torch
from torch import Tensor

from mxcheck.formats.blocks import E4M3, FP32
from mxcheck.formats.spec import CastSpec, scales_shape
from mxcheck.kernels.block_views import check_input, why_unreadable
from mxcheck.kernels.quantized import QuantizedTensor


def check_out(out: object, x: Tensor, spec: CastSpec) -> None:
    """Check the `out` of `fake_quantize`.

    Raises:
        TypeError: no tensor; as `check_input`.
        ValueError: another shape, dtype or device than x's; not contiguous; memory that x or the random
            integers share; as `check_input`.
    """
    check_input(x, spec)
    if not isinstance(out, Tensor):
        raise TypeError(f"out must be a torch.Tensor, got {type(out).__name__}")
    _check("out", out, x, x.shape, x.dtype)
    _check_memory(x, spec, out=out)


def check_out_parts(out: object, x: Tensor, spec: CastSpec) -> None:
    """Check the `out` of `quantize`.

    Raises:
        TypeError: no `QuantizedTensor`; as `check_input`.
        ValueError: one of another cast, or whose tensors cannot hold the result, or share memory with each
            other: as `check_out`.
    """
    if not isinstance(out, QuantizedTensor):
        raise TypeError(
            f"out must be a QuantizedTensor, the result of an earlier call, got {type(out).__name__}"
        )
    check_input(x, spec)
    if out.spec != spec:
        raise ValueError(f"out is of another cast: {out.spec}; this call asks for {spec}")
    scale = spec.block.scale
    shape = torch.Size(scales_shape(tuple(x.shape), spec))
    _check("out.codes", out.codes, x, x.shape, torch.uint8)
    _check("out.scales", out.scales, x, shape, torch.float32 if scale == FP32 else torch.uint8)
    if scale == E4M3:
        _check("out.tensor_scale", out.tensor_scale, x, torch.Size(()), torch.float32)
    parts = {"out.codes": out.codes, "out.scales": out.scales, "out.tensor_scale": out.tensor_scale}
    _check_memory(x, spec, **parts)


def put_parts(out: QuantizedTensor, result: QuantizedTensor) -> QuantizedTensor:
    """Copy a result into `out`, and return that."""
    for target, part in zip(out.parts, result.parts, strict=True):
        target.copy_(part)
    return out


def _check(name: str, out: Tensor | None, x: Tensor, shape: torch.Size, dtype: torch.dtype) -> None:
    if not isinstance(out, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(out).__name__}")
    if (out.shape, out.dtype, out.device) != (shape, dtype, x.device):
        raise ValueError(
            f"{name} must be {dtype} of shape {tuple(shape)} on {x.device}, got {out.dtype} of shape "
            f"{tuple(out.shape)} on {out.device}"
        )
    if not out.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {out.stride()}")
    if out.requires_grad:
        raise ValueError(f"{name} requires a gradient, and no gradient flows through a cast; detach it")


def _check_memory(x: Tensor, spec: CastSpec, **out: Tensor | None) -> None:
    """Check that no output shares memory with another tensor. What has no memory shares none."""
    if why_unreadable(x, spec.random, *out.values()):
        return
    spans = [("x", *_span(x))]
    if spec.random is not None:
        spans.append(("random", *_span(spec.random)))
    for name, one in out.items():
        if one is None:
            continue
        first, past = _span(one)
        for other, other_first, other_past in spans:
            if first < other_past and other_first < past:
                raise ValueError(f"{name} shares memory with {other}; give a tensor of its own")
        spans.append((name, first, past))


def _span(x: Tensor) -> tuple[int, int]:
    """Return the addresses of a tensor's first byte and of the one after its last."""
    first = x.data_ptr()
    if x.is_contiguous():
        return first, first + x.nbytes
    last = sum((length - 1) * stride for length, stride in zip(x.shape, x.stride(), strict=True))
    return first, first + (last + 1) * x.element_size()
