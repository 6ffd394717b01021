"""LLM.int8() by bitsandbytes: int8 products with one scale for each row; outlier columns stay unquantized.

Source: bitsandbytes 0.50, `nn.Linear8bitLt` in eval mode with `has_fp16_weights=False`; Dettmers et al. 2022,
arXiv:2208.07339. Behaviour of the library, and its consequences:

- Weights and activations are rounded to float16 first, then scaled by 127 / amax of their row (fp32) and
  rounded to the nearest integer. Compared with exact arithmetic, its codes are right except at exact ties,
  where the rounded quotient 127 / amax can move them to either side.
- A column of the activation in which any row of the *batch* reaches the threshold is excluded from the int8
  product and multiplied in x's dtype with the dequantized weight. A row's result therefore depends on the
  other rows: a result belongs to its batches.
- On the CPU the product is scaled by 6.200124e-05, where 1 / 127^2 is 6.2000124e-05 (a digit is missing), so
  it is too large by a relative 1.8e-5.
- A row that is all zeros, or all outliers, has the scale 0 and codes from a conversion of NaN, which are
  multiplied by 0.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mxcheck.extras import missing
from mxcheck.kernels.digest import WeightDigest, digest
from mxcheck.models.backends.backend import Replacement
from mxcheck.models.backends.library_linear import bias_of, features, nbytes, not_linear, weight_of
from mxcheck.models.backends.requirements import broken

_DEVICES = ("cpu", "cuda")
_LOGGER = logging.getLogger("bitsandbytes.autograd._functions")


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsAndBytes:
    """Replaces a linear layer by `Linear8bitLt`.

    Attributes:
        threshold: least magnitude of an outlier activation. The ladder has the paper's value, which is
            transformers' default.
    """

    name: str
    threshold: float

    def missing(self, device: str) -> str | None:
        """As `Backend.missing`."""
        kind = torch.device(device).type
        if kind not in _DEVICES:
            return f"needs a model on {' or '.join(_DEVICES)}, and this one is on {device}"
        if (reason := missing("bitsandbytes")) is not None:
            return reason
        if kind == "cuda" and not torch.cuda.is_available():
            return "needs a CUDA device, and torch sees none"
        return broken("bitsandbytes") or _without_native_library(kind) or _wrong_products(kind)

    def refuses(self, module: nn.Module) -> str | None:
        """As `Backend.refuses`."""
        if (reason := not_linear(module)) is not None:
            return reason
        largest = module.get_parameter("weight").detach().abs().amax().item()
        limit = torch.finfo(torch.float16).max
        if largest <= limit:
            return None
        return f"bitsandbytes rounds weights to float16, and one of magnitude {largest:g} is beyond {limit:g}"

    def replace(self, module: nn.Module) -> Replacement:
        """As `Backend.replace`."""
        layer = self._layer(module)
        codes, scales = layer.weight.CB, layer.weight.SCB
        inputs, outputs = features(module)

        def forward(x: Tensor) -> Tensor:
            with _cast_unmentioned():
                product: Tensor = layer(x.reshape(-1, inputs))
            return product.reshape(*x.shape[:-1], outputs)

        return Replacement(
            forward=forward,
            weight_digest=WeightDigest(codes=digest(codes), scales=digest(scales)),
            weight_bytes=nbytes(codes, scales),
            operand=self.operand,
        )

    def operand(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cast an activation [..., in] as the library does: int8 codes, scales, the indices of the outlier
        columns, and these columns in x's dtype."""
        from bitsandbytes.functional import int8_vectorwise_quant

        rows = x.detach().reshape(-1, x.shape[-1])
        codes, scales, columns = int8_vectorwise_quant(rows.to(torch.float16), threshold=self.threshold)
        columns = torch.empty(0) if columns is None else columns
        columns = columns.to(rows.device, torch.int64)
        return codes, scales, columns, rows[:, columns]

    def _layer(self, module: nn.Module) -> Any:
        from bitsandbytes.nn.modules import Int8Params, Linear8bitLt

        weight, bias = weight_of(module), bias_of(module)
        # On meta, because the library's constructor would draw random weights.
        layer = Linear8bitLt(
            *features(module),
            bias=bias is not None,
            has_fp16_weights=False,
            threshold=self.threshold,
            device=torch.device("meta"),
        )
        # The library quantizes only on a move from the CPU to a device.
        cast: Any = Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
        layer.weight = cast.to(weight.device)
        if bias is not None:
            layer.bias = nn.Parameter(bias, requires_grad=False)
        return layer.eval()  # train mode uses another code path on the CPU


@contextmanager
def _cast_unmentioned() -> Iterator[None]:
    """Drop the message that the library logs at every call for x in a dtype other than float16.

    Other dtypes are intended here: float16 would also round the results and the outlier columns.
    """
    _LOGGER.addFilter(_is_no_cast_message)
    try:
        yield
    finally:
        _LOGGER.removeFilter(_is_no_cast_message)


def _is_no_cast_message(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("MatMul8bitLt: inputs will be cast from")


def _wrong_products(kind: str) -> str | None:
    """Return the error if torch multiplies int8 wrongly on this CPU, or None: with oneDNN limited to AVX2 on
    a machine with AVX-512, torch 2.13 did, silently. (On CUDA bitsandbytes multiplies itself.)"""
    if kind != "cpu":
        return None
    a = (torch.arange(64 * 128, dtype=torch.int32) % 255 - 127).view(64, 128)
    b = (torch.arange(128 * 64, dtype=torch.int32) * 7 % 255 - 127).view(128, 64)
    product = torch._int_mm(a.to(torch.int8), b.to(torch.int8))
    if torch.equal(product, (a.long() @ b.long()).int()):
        return None
    return (
        "torch multiplies int8 matrices wrongly on this machine (torch._int_mm against exact integers), on "
        "which bitsandbytes rests; is ONEDNN_MAX_CPU_ISA set?"
    )


def _without_native_library(kind: str) -> str | None:
    """Return the error if bitsandbytes lacks its binary for this CUDA, or None: it imports without one, and
    fails at the first call."""
    from bitsandbytes.cextension import lib

    if kind == "cpu" or getattr(lib, "compiled_with_cuda", False):  # int8 on the CPU is torch's own code
        return None
    return f"bitsandbytes has no binary for CUDA {torch.version.cuda}: see python -m bitsandbytes"


#: precision -> backend
