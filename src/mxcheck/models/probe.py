"""What no machine may change: the bits that a fixed probe brings to every quantized product.

The probe is sent through each converted module, and the operands are caught where they enter the product,
behind everything that could forget a cast. Later products of one module (an expert's down projection) read
the result of earlier ones, which depends on how the machine multiplies; so the probe stands in for the
activation at every cast. The digests are therefore equal on every machine, and a cast that moves one bit
is seen however small its effect on the loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from mxcheck.models.classify import expert_parameters
from mxcheck.models.convert import PRODUCTS, Conversion, ConvertedModule
from mxcheck.models.load import tensor_bytes, weights_fingerprint

ROWS = 32


def probe(rows: int, columns: int) -> torch.Tensor:
    """A fixed fp32 matrix [rows, columns]: 8-bit significands (so that ties are common) times powers of two
    over 16 octaves, and zeros. Made from integers alone, so it is the same on every machine.
    """
    source = np.random.Generator(np.random.PCG64(20251121))
    significand = source.integers(-255, 256, size=(rows, columns))
    exponent = source.integers(-15, 1, size=(rows, columns))
    return torch.from_numpy(np.ldexp(significand.astype(np.float64), exponent - 8).astype(np.float32))


class _Operands(TorchFunctionMode):
    """Hashes the tensors that enter each product."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = hashlib.sha256()
        self.products = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in PRODUCTS:
            self.products += 1
            for operand in args:
                if isinstance(operand, torch.Tensor):
                    self.digest.update(tensor_bytes(operand))
        return func(*args, **(kwargs or {}))


@contextmanager
def _probe_at_every_cast(converted: ConvertedModule) -> Iterator[None]:
    cast = converted.cast
    converted.cast = lambda x: cast(probe(x.shape[0], x.shape[-1]).to(x.device, x.dtype))
    try:
        yield
    finally:
        converted.cast = cast


def _arguments(converted: ConvertedModule) -> tuple[torch.Tensor, ...]:
    module = converted.module
    parameter = next(module.parameters(recurse=False))
    names = expert_parameters(module)
    if not names:
        return (probe(ROWS, module.get_parameter("weight").shape[-1]).to(parameter.device),)
    experts, _, width = module.get_parameter(names[0]).shape
    rows = ROWS * experts
    chosen = torch.arange(rows, device=parameter.device).unsqueeze(-1) % experts  # every expert, 32 rows each
    weights = torch.ones(rows, 1, device=parameter.device)
    return probe(rows, width).to(parameter.device), chosen, weights


def _operand_digest(converted: ConvertedModule) -> str:
    recorder = _Operands()
    with torch.no_grad(), _probe_at_every_cast(converted), recorder:
        converted.module(*_arguments(converted))
    return recorder.digest.hexdigest()


def digests(conversion: Conversion) -> dict[str, dict[str, str]]:
    """By module: SHA-256 of the weight's codes and scales (`weight`), and of every operand that the probe
    brings to the product (`operands`). For a whole-model stage, of the parameters as converted.
    """
    if not conversion.modules:
        return {"parameters": {"weight": weights_fingerprint(conversion.model)}}
    return {
        name: {"weight": module.weight_digest, "operands": _operand_digest(module)}
        for name, module in conversion.modules.items()
    }
