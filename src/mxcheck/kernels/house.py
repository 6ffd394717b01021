"""The house kernel `auto`: the fastest of ours for a tensor. All give the same bits.

On a CPU that is the compiled one, on CUDA Triton's; elsewhere, and where that is missing, it is eager.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.block_views import why_unreadable
from mxcheck.kernels.calls_triton import fake_quantize_triton, is_sound, quantize_triton
from mxcheck.kernels.compiled.calls import fake_quantize_plain, is_compiled, quantize_plain
from mxcheck.kernels.compiled.library import is_off
from mxcheck.kernels.domain import domain
from mxcheck.kernels.eager import Parts, fake_quantize_eager, quantize_eager


@domain()
def quantize_house(x: Tensor, spec: CastSpec, out: Parts | None = None) -> Parts:
    """As `quantize_eager`; `out` as of `quantize_cpp`."""
    if takes_compiled(x):
        return quantize_plain(x, spec, out)
    if takes_triton(x, spec):
        return quantize_triton(x, spec, out)
    return _put(quantize_eager(x, spec), out)


@domain()
def fake_quantize_house(x: Tensor, spec: CastSpec, out: Tensor | None = None) -> Tensor:
    """As `fake_quantize_eager`; `out` as of `quantize_cpp`."""
    if takes_compiled(x):
        return fake_quantize_plain(x, spec, out)
    if takes_triton(x, spec):
        return fake_quantize_triton(x, spec, out)
    values = fake_quantize_eager(x, spec)
    return values if out is None else out.copy_(values)


def takes_compiled(x: Tensor) -> bool:
    """Return whether compiled code may read x: a plain tensor in this process's memory."""
    return _is_plain(x, "cpu") and is_compiled()


def takes_triton(x: Tensor, spec: CastSpec) -> bool:
    """Return whether Triton casts x: a plain tensor on a CUDA device on which that cast is sound."""
    return not is_off() and _is_plain(x, "cuda") and is_sound(x.device, spec)


def used(name: str, device: str) -> str:
    """Return the kernel that `auto` takes for plain tensors on a device (`cpu`, `cuda`), by name; other names
    as they are. Not what ran: tensors that are not plain, and casts that Triton gets wrong, are eager's."""
    if name != "auto":
        return name
    if device == "cuda":
        return (
            "triton"
            if not is_off() and is_sound(torch.device("cuda", torch.cuda.current_device()))
            else "eager"
        )
    return "cpp" if device == "cpu" and is_compiled() else "eager"


def _is_plain(x: Tensor, device: str) -> bool:
    return (
        isinstance(x, Tensor)
        and x.device.type == device
        and not torch.compiler.is_compiling()
        and not why_unreadable(x)
    )


def _put(parts: Parts, out: Parts | None) -> Parts:
    if out is None:
        return parts
    for target, part in zip(out, parts, strict=True):
        target.copy_(part)
    return out
