"""View tensors as blocks, which every house kernel loops over."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from mxcheck.formats.spec import CastSpec, resolve_axis, scales_shape

DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)

# Elements per chunk on a CPU. Measured: below 2^18 the calls cost more than the cache saves (2^15: twice the
# time); above it nothing is gained, and temporaries grow.
_CPU_CHUNK = 1 << 18
_PLAIN = (Tensor, torch.nn.Parameter)


def check_input(x: Tensor, spec: CastSpec) -> None:
    """Check the input of any kernel.

    Raises:
        TypeError: not a tensor, or of another dtype than fp32, bf16, fp16.
        ValueError: empty; no such axis; a ragged tail that the spec refuses; stochastic rounding without
            random integers, or with such of another shape or device.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in DTYPES:
        raise TypeError(f"x has dtype {x.dtype}; allowed: {', '.join(map(str, DTYPES))}")
    resolve_axis(x.dim(), spec.axis)
    if x.numel() == 0:
        raise ValueError(f"x is empty (shape {tuple(x.shape)}): there is nothing to quantize")
    scales_shape(tuple(x.shape), spec)
    if spec.rounding == "stochastic":
        _check_random(x, spec.random)


def _check_random(x: Tensor, random: object) -> None:
    expected = f"an int64 tensor of shape {tuple(x.shape)} on {x.device} with values in [0, 2^32)"
    if not isinstance(random, Tensor):
        raise ValueError(
            f"stochastic rounding needs random={expected}, got {type(random).__name__}; for instance "
            f"torch.randint(2**32, x.shape, generator=...)"
        )
    if (random.shape, random.dtype, random.device) != (x.shape, torch.int64, x.device):
        raise ValueError(
            f"stochastic rounding needs random={expected}, "
            f"got {random.dtype} of shape {tuple(random.shape)} on {random.device}"
        )
    if random.min() < 0 or random.max() >= 1 << 32:
        raise ValueError(
            f"stochastic rounding needs random={expected}, got values from {random.min()} to {random.max()}"
        )


def why_unreadable(*tensors: object) -> str:
    """Return why compiled code cannot take the memory of these tensors; empty where it can.

    Only a plain tensor has its values where `data_ptr()` says, and what torch.func, torch.jit or a dispatch
    mode (FakeTensorMode) is at work on is not even made there. What is no tensor is passed over.
    """
    functorch = torch._C._functorch
    if functorch.peek_interpreter_stack() is not None:
        return "a tensor inside a transform of torch.func"
    if torch._C._len_torch_dispatch_stack():
        return "a tensor under a dispatch mode of torch"
    if torch._C._get_tracing_state() is not None:
        return "a tensor that torch.jit traces"  # it would record the values of this call
    for x in tensors:
        if not isinstance(x, Tensor):
            continue
        if type(x) not in _PLAIN:
            return f"a tensor of the subclass {type(x).__name__}"
        if x.layout != torch.strided:
            return f"a tensor of layout {x.layout}"
        if x.is_nested:
            return "a nested tensor"
        if functorch.is_functorch_wrapped_tensor(x) or (x.numel() and not x.data_ptr()):
            return "a tensor without memory of its own"
    return ""


def mark_written(*tensors: Tensor) -> None:
    """Tell autograd that compiled code has written to tensors, as torch's own operations do."""
    torch.autograd.graph.increment_version(tensors)


def rows(x: Tensor, spec: CastSpec) -> Tensor:
    """View x as [outer, axis, inner]; a copy where x is not contiguous."""
    axis = resolve_axis(x.dim(), spec.axis)
    shape = (prod(x.shape[:axis]), x.shape[axis], prod(x.shape[axis + 1 :]))
    return x.detach().contiguous().view(shape)


def sections(block_size: int, *tensors: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
    """Yield tensors [outer, axis, inner] as [outer, blocks, n, inner], and the slice of these blocks.

    Whole blocks first, then a ragged tail as one shorter block: zeros change neither amax nor the other
    elements, so a padded copy would give the same.
    """
    outer, length, inner = tensors[0].shape
    whole, tail = divmod(length, block_size)
    end = length - tail
    if whole:
        shape = (outer, whole, block_size, inner)
        yield slice(0, whole), [tensor[:, :end].view(shape) for tensor in tensors]
    if tail:
        yield slice(whole, whole + 1), [tensor[:, end:].unsqueeze(1) for tensor in tensors]


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same chunks of several [outer, blocks, …] tensors; those of the first have at most cache
    size."""
    first = tensors[0]
    if first.device.type != "cpu" or first.numel() <= _CPU_CHUNK:
        return iter((tensors,))
    dim = 0 if first.shape[0] > 1 else 1
    step = max(1, _CPU_CHUNK * first.shape[dim] // first.numel())
    return zip(*(torch.split(tensor, step, dim) for tensor in tensors), strict=True)
