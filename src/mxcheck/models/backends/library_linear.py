"""Properties of a linear module that every backend needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

# Subclasses of nn.Linear whose own forward computes the same product.
_SAME_PRODUCT = ("transformers.models.falcon.modeling_falcon.FalconLinear",)


def not_linear(module: nn.Module) -> str | None:
    """Return why a module is not just x W^T + b, or None."""
    kind = type(module)
    if isinstance(module, Conv1D):
        return None
    if not isinstance(module, nn.Linear):
        return f"{kind.__name__} is no nn.Linear and no Conv1D, which is all that the library converts"
    if kind.forward is nn.Linear.forward or f"{kind.__module__}.{kind.__qualname__}" in _SAME_PRODUCT:
        return None
    return f"{kind.__name__} has a forward of its own, and a library's linear layer would leave it out"


def weight_of(module: nn.Module) -> Tensor:
    """Return a contiguous copy of the weight, [out, in]. (Conv1D stores [in, out].)"""
    weight = module.get_parameter("weight").detach()
    return (weight.t() if isinstance(module, Conv1D) else weight).clone(memory_format=torch.contiguous_format)


def bias_of(module: nn.Module) -> Tensor | None:
    """Return a copy of the bias, [out], or None."""
    bias = getattr(module, "bias", None)
    return None if bias is None else bias.detach().clone()


def features(module: nn.Module) -> tuple[int, int]:
    """Return (in, out)."""
    first, second = module.get_parameter("weight").shape
    return (first, second) if isinstance(module, Conv1D) else (second, first)


def indivisible(module: nn.Module, of_in: int, of_out: int, needed_by: str) -> str | None:
    """Return why the weight's shape is unsupported, or None where `of_in` divides in and `of_out` divides
    out."""
    for name, size, divisor in zip(("in", "out"), features(module), (of_in, of_out), strict=True):
        if size % divisor:
            return f"{name}_features is {size}; {needed_by} needs a multiple of {divisor}"
    return None


def nbytes(*tensors: Tensor) -> int:
    """Return the size of tensors in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
