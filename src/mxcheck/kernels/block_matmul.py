"""The house matrix product of two quantized tensors: decoded values, multiplied and summed in IEEE fp32.

Source: OCP MX v1.0, sections 6.1 (dot product of two MX blocks) and 6.2 (general dot product): the sum over
the blocks of both scales times the dot product of the elements, with an accumulation that the specification
leaves open. Powers of two commute with every rounding short of underflow and overflow, so summing decoded
values is the same sum in another order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mxcheck.formats.spec import CastSpec, resolve_axis
from mxcheck.kernels.quantized import QuantizedTensor
from mxcheck.kernels.standing_for import house_cast


def matmul(a: QuantizedTensor, b: QuantizedTensor) -> Tensor:
    """Return a @ b.T in fp32, IEEE throughout: TF32, reduced-precision modes and autocast are off while it
    runs.

    torch keeps the precision of fp32 products as a setting of the process. It is changed for the duration of
    the call and restored, so concurrent products of other threads are IEEE fp32 as well.

    Args:
        a: [M, K], quantized along its last axis.
        b: [N, K], quantized along its last axis, as a weight is. Its format may differ.

    Returns:
        fp32 [M, N]. A block with the scale FF makes the outputs that use it NaN. What `dequantize` rounds is
        rounded: nothing where the scales are powers of two.

    Raises:
        ValueError: an operand is no matrix or is quantized along another axis; the lengths of the reduction
            axes or the devices differ.
    """
    problem = _problem(a, b)
    if problem:
        raise ValueError(f"matmul multiplies [M, K] by [N, K], both quantized along K: {problem}")
    with _ieee_fp32(), torch.autocast(a.codes.device.type, enabled=False):
        return torch.matmul(a.dequantize(), b.dequantize().T)


def product(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    """Cast both operands by the house kernel and multiply them by `matmul`: fp32 [M, N] of [M, K] and [N, K].

    Raises:
        TypeError, ValueError: as the cast and `matmul`.
    """
    return matmul(house_cast(a, spec), house_cast(b, spec))


def _problem(a: QuantizedTensor, b: QuantizedTensor) -> str:
    """Return why a and b cannot be multiplied; empty if they can."""
    for name, operand in (("a", a), ("b", b)):
        shape, spec = tuple(operand.codes.shape), operand.spec
        if len(shape) != 2:
            return f"{name} has the shape {shape}; reshape it to two axes before the cast"
        if not spec.block.whole_tensor and resolve_axis(2, spec.axis) != 1:
            return f"{name} is quantized along axis {spec.axis}; quantize it with axis=-1"
    (_, k_a), (_, k_b) = a.codes.shape, b.codes.shape
    if k_a != k_b:
        return f"a has K = {k_a} and b has K = {k_b}; they must be equal (b is not transposed)"
    if a.codes.device != b.codes.device:
        return f"a is on {a.codes.device} and b on {b.codes.device}; move one of them"
    return ""


@contextmanager
def _ieee_fp32() -> Iterator[None]:
    """Compute fp32 products without TF32 (CUDA) and without bf16 or TF32 (oneDNN on a CPU)."""
    settings = (
        torch.backends.cuda.matmul,
        torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]  # torch puts it there at run time
    )
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision
