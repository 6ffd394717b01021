"""The codes behind the values of a kernel that only fake-quantizes."""

from __future__ import annotations

from torch import Tensor

from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.eager import quantize_eager
from mxcheck.kernels.quantized import QuantizedTensor


def house_cast(x: Tensor, spec: CastSpec) -> QuantizedTensor:
    """Cast x by our own kernel, unreported to `api.called_kernels`."""
    codes, scales, *tensor_scale = quantize_eager(x, spec)
    return QuantizedTensor(
        codes=codes, scales=scales, spec=spec, tensor_scale=tensor_scale[0] if tensor_scale else None
    )


def stand_for(quantized: QuantizedTensor, values: Tensor) -> bool:
    """Return whether codes and scales decode to exactly these values, signs of zeros included."""
    decoded = quantized.dequantize(values.dtype)
    equal = (decoded == values) & (decoded.signbit() == values.signbit())
    return bool((equal | (decoded.isnan() & values.isnan())).all())
