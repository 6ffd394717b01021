"""Real FP8 products: torch's scaled matrix product of e4m3 codes, with fp32 scales.

mxcheck's kernel casts both operands (`e4m3_tensor`: one scale for the tensor; `e4m3_row`: one for each token,
and one for each output feature of the weight); torch multiplies the codes. The result is rounded to x's dtype
once, after the bias.

Source: torch.nn.functional.scaled_mm, 2.13, and ATen/native/cuda/ScaledBlas.cpp for CUDA's requirements. CPU:
any shape, fp32 result. CUDA: compute capability 8.9 or later, in and out multiples of 16; the row-wise
kernels return bfloat16, except cuBLAS 12.9 on 9.0, which returns fp32. CUDA is unverified: the development
machine had no GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mxcheck.files.printed import told
from mxcheck.kernels.api import quantize
from mxcheck.kernels.digest import WeightDigest, digest
from mxcheck.models.backends.backend import Replacement
from mxcheck.models.backends.library_linear import bias_of, indivisible, nbytes, not_linear, weight_of
from mxcheck.models.backends.requirements import Capability, cuda_capability, unfit_device

_LEAST_CAPABILITY = (8, 9)
_CUDA_MULTIPLE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledMM:
    """torch's scaled product with the scales of `format`, a format name of `mxcheck.quantize`."""

    name: str
    format: str

    @property
    def _by_row(self) -> bool:
        return self.format == "e4m3_row"

    def missing(self, device: str) -> str | None:
        """As `Backend.missing`."""
        if not hasattr(torch.nn.functional, "scaled_mm"):
            return f"needs torch 2.10 or later (torch.nn.functional.scaled_mm), got {torch.__version__}"
        if torch.device(device).type == "cpu":
            return self._trial()
        return unfit_device(device, cuda_capability(device), at_least=_LEAST_CAPABILITY)

    def refuses(self, module: nn.Module) -> str | None:
        """As `Backend.refuses`."""
        if (reason := not_linear(module)) is not None:
            return reason
        multiple = _CUDA_MULTIPLE if module.get_parameter("weight").device.type == "cuda" else 1
        return indivisible(module, multiple, multiple, "torch's scaled product on CUDA")

    def replace(self, module: nn.Module) -> Replacement:
        """As `Backend.replace`."""
        codes, scales = self._cast(weight_of(module))
        bias = bias_of(module)
        device = str(codes.device)
        dtype = product_dtype(self._by_row, cuda_capability(device), torch.version.cuda)

        def forward(x: Tensor) -> Tensor:
            rows = x.reshape(-1, x.shape[-1])
            product = self._product(self._cast(rows), (codes, scales), dtype).float()
            if bias is not None:
                product += bias
            return product.to(x.dtype).reshape(*x.shape[:-1], codes.shape[0])

        return Replacement(
            forward=forward,
            weight_digest=WeightDigest(codes=digest(codes.view(torch.uint8)), scales=digest(scales)),
            weight_bytes=nbytes(codes, scales),
            operand=self._operand,
        )

    def _operand(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes, scales = self._cast(x.reshape(-1, x.shape[-1]))
        return codes.view(torch.uint8), scales

    def _cast(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cast to codes [rows, k] and scales: [rows, 1], or [1]."""
        quantized = quantize(x, self.format, axis=-1)
        # A single scale is expanded with a stride of 0, which cannot be viewed as bytes.
        scales = quantized.scales.clone(memory_format=torch.contiguous_format)
        scales = scales if self._by_row else scales.reshape(1)
        return quantized.codes.view(torch.float8_e4m3fn), scales

    def _product(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
        """Multiply a [M, K] by the transpose of b [N, K]."""
        from torch.nn.functional import ScalingType, scaled_mm

        kind = ScalingType.RowWise if self._by_row else ScalingType.TensorWise
        (codes_a, scales_a), (codes_b, scales_b) = a, b
        scales_b = scales_b.t() if self._by_row else scales_b
        return scaled_mm(codes_a, codes_b.t(), scales_a, kind, scales_b, kind, output_dtype=dtype)

    def _trial(self) -> str | None:
        """Return why a small product fails on this CPU, or None."""
        operand = self._cast(torch.ones(16, 16))
        try:
            self._product(operand, operand, torch.float32)
        except (NotImplementedError, RuntimeError) as error:
            return f"torch's scaled product does not run on this CPU: {told(error)}"
        return None


def product_dtype(by_row: bool, capability: Capability | None, cuda: str | None) -> torch.dtype:
    """Return the widest dtype in which torch's kernel returns its result; `capability` is None on the CPU.

    `cuda` is the CUDA version of this build of torch, such as "12.8".
    """
    if not by_row or capability is None:
        return torch.float32
    version = tuple(int(part) for part in (cuda or "0").split("."))
    return torch.float32 if capability == (9, 0) and version >= (12, 9) else torch.bfloat16
