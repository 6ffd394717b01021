"""Turn a kernel's result into plain numbers: it may require a gradient, or be a subclass of torch.Tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mxcheck.kernels.api import Kernel, kernel_name
from mxcheck.kernels.torch_codes import TORCH_CODES

# numpy has none of these dtypes.
_BITS = {torch.bfloat16: torch.int16, **dict.fromkeys(TORCH_CODES, torch.uint8)}


def plain_result(kernel: Kernel, returned: Any, x: Tensor) -> Any:
    """Return a result's tensors as plain ones, without gradient. What is on another device than x, or no
    tensor, is left for the check of results.

    Raises:
        TypeError: a tensor holds no numbers of its own; the message is one line.
    """
    if isinstance(returned, tuple):
        return tuple(_plain(kernel, part, x) for part in returned)
    return _plain(kernel, returned, x)


def _plain(kernel: Kernel, part: Any, x: Tensor) -> Any:
    if not isinstance(part, Tensor) or part.device != x.device:
        return part
    try:
        plain = part.detach().as_subclass(Tensor).resolve_conj().resolve_neg()
        bits = _BITS.get(plain.dtype)
        (plain if bits is None else plain.view(bits)).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise TypeError(
            f"kernel {kernel_name(kernel)} returned a {type(part).__name__} ({part.layout}) that holds no "
            f"plain numbers; return a torch.Tensor: its own numbers, or what it stands for"
        ) from error
    return plain
