"""Transformer Engine's MXFP8 cast, row by row. Unverified: it needs a GPU that this was not written on.

Source: NVIDIA's Transformer Engine, transformer_engine.pytorch.tensor.mxfp8_tensor.MXFP8Quantizer. Its scales
are padded to [a multiple of 128, a multiple of 4]; the padding is removed here.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor

from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.domain import NotSupported, domain
from mxcheck.kernels.rows import as_rows, from_rows

# our element -> the name in transformer_engine_torch.DType
_ELEMENTS = MappingProxyType({"fp8_e4m3": "kFloat8E4M3", "fp8_e5m2": "kFloat8E5M2"})
_CAPABILITY = (10, 0)  # Blackwell


@domain(
    formats=tuple(_ELEMENTS),
    scale_rules=("reciprocal",),
    nonfinite=("element",),
    block_sizes=(32,),
    roundings=("even",),
    ragged=False,
)
def quantize(x: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor]:
    """Return codes and scales by Transformer Engine, computed on the GPU, returned on x's device.

    Raises:
        NotSupported: Transformer Engine does not support it, or not on this machine.
        ModuleNotFoundError: Transformer Engine is not installed.
    """
    rows = as_rows(x, spec.axis)
    if rows.shape[0] % 32:
        raise NotSupported(f"Transformer Engine needs a number of rows that 32 divides, got {rows.shape[0]}")
    if not torch.cuda.is_available():
        raise NotSupported("Transformer Engine casts on a GPU only, and torch sees none")
    capability = torch.cuda.get_device_capability()
    if capability < _CAPABILITY:
        raise NotSupported(
            f"Transformer Engine has MXFP8 from compute capability {_CAPABILITY} on, and this GPU has "
            f"{capability}"
        )
    import transformer_engine_torch
    from transformer_engine.pytorch.tensor.mxfp8_tensor import MXFP8Quantizer

    quantizer = MXFP8Quantizer(
        fp8_dtype=getattr(transformer_engine_torch.DType, _ELEMENTS[spec.format]),
        rowwise=True,
        columnwise=False,
        with_2d_quantization=False,
    )
    quantized = quantizer.quantize(rows.cuda())
    # There is no public access to the codes and scales.
    codes = quantized._rowwise_data.view(torch.uint8).to(x.device)
    scales = quantized._rowwise_scale_inv.view(torch.uint8).to(x.device)
    scales = scales[: rows.shape[0], : rows.shape[1] // 32]
    return from_rows(codes, x.shape, spec.axis), from_rows(scales, x.shape, spec.axis)
