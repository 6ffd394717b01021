"""Run an implementation on an accelerator for a verifier that reads on the CPU."""

from __future__ import annotations

from dataclasses import replace
from functools import wraps

import torch
from torch import Tensor

from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.api import Kernel, kernel_name
from mxcheck.kernels.domain import declared, domain_of, innermost


def on_device(kernel: Kernel, device: str) -> Kernel:
    """Return the kernel itself for `cpu`, else one that copies its input to the device and its result
    back."""
    return kernel if device == "cpu" else carried(kernel, device)


def carried(kernel: Kernel, device: str) -> Kernel:
    """Return a kernel for CPU tensors that calls `kernel` with copies on `device`, in the same memory layout.
    A change that it makes to its input is made to the original too, for the caller to detect.

    Raises (when called):
        ValueError: the kernel returned a tensor on another device than that of its input.
    """

    @wraps(innermost(kernel))
    def there(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...] | Tensor:
        random = None if spec.random is None else spec.random.to(device)
        moved = lying_alike(x, device)
        result = kernel(moved, replace(spec, random=random))
        parts = result if isinstance(result, tuple) else (result,)
        for part in parts:
            if isinstance(part, Tensor) and part.device != moved.device:
                raise ValueError(
                    f"kernel {kernel_name(kernel)} returned a tensor on {part.device}; "
                    f"expected {moved.device}, where its input is"
                )
        home = tuple(part.cpu() if isinstance(part, Tensor) else part for part in parts)
        _bring_changes(moved, x)
        return home if isinstance(result, tuple) else home[0]

    made_for = domain_of(kernel)  # `wraps` does not copy it from a class or under a partial
    return there if made_for is None else declared(there, made_for)


def lying_alike(x: Tensor, device: str) -> Tensor:
    """Copy x to `device` with its strides, its offset and the memory between its elements; `x.to(device)`
    keeps none of these."""
    return _memory(x).to(device, copy=True).as_strided(x.shape, x.stride(), x.storage_offset())


def _bring_changes(moved: Tensor, x: Tensor) -> None:
    after, before = _memory(moved).cpu(), _memory(x)
    if not torch.equal(after.view(torch.uint8), before.view(torch.uint8)):  # NaN equals NaN
        before.copy_(after)


def _memory(x: Tensor) -> Tensor:
    """Return all of the memory that x is a view of, flat."""
    size = x.untyped_storage().nbytes() // x.element_size()
    return x.detach().as_strided((size,), (1,), 0)
