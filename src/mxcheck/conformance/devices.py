"""An implementation that runs on an accelerator, for a verifier that reads on the CPU."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.api import Kernel, kernel_name


def on_device(kernel: Kernel, device: str) -> Kernel:
    """The kernel as it is on `cpu`; elsewhere one that takes its input there and brings its result back.

    Raises (when called):
        ValueError: the kernel returned a tensor on another device than its input's.
    """
    if device == "cpu":
        return kernel

    def there(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...] | Tensor:
        random = None if spec.random is None else spec.random.to(device)
        moved = x.to(device)
        result = kernel(moved, replace(spec, random=random))
        parts = result if isinstance(result, tuple) else (result,)
        for part in parts:
            if isinstance(part, Tensor) and part.device != moved.device:
                raise ValueError(
                    f"kernel {kernel_name(kernel)} returned a tensor on {part.device}; "
                    f"expected {moved.device}, where its input is"
                )
        home = tuple(part.cpu() if isinstance(part, Tensor) else part for part in parts)
        return home if isinstance(result, tuple) else home[0]

    return there


def resolve_device(name: str) -> str:
    """`auto` is `cuda` where there is one, else `cpu`."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
