"""A cast under test against the exact oracle: bit by bit, in words.

Imported inside the tests only: collecting the suite loads neither torch nor numpy.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor

from mxcheck.formats.codes import E8M0_NAN
from mxcheck.formats.oracle import dequantize_array, quantize_array
from mxcheck.formats.spec import CastSpec, resolve_axis
from mxcheck.kernels.api import Kernel, fake_quantize, quantize

_SHOWN = 5
_SAME_SIZE_INT = {4: torch.int32, 2: torch.int16, 1: torch.uint8}


def differences(x: Tensor, spec: CastSpec, kernel: str | Kernel = "auto") -> list[str]:
    """Where a cast of x differs from the oracle: a line a kind of output, with examples; empty if nowhere.

    Compared are codes, scales, the values of `fake_quantize` and those of `quantize(...).dequantize`, all
    by their bits, so -0 is not 0. NaNs equal each other. Element codes in a block whose scale is NaN mean
    nothing and are not compared.
    """
    arguments = asdict(spec) | {"kernel": kernel}
    quantized = quantize(x, **arguments)
    codes, scales = (torch.from_numpy(part.copy()) for part in quantize_array(x.float().numpy(), spec))
    exact = torch.from_numpy(dequantize_array(codes.numpy(), scales.numpy(), spec))
    values = exact.float().to(x.dtype)  # fp32 holds them exactly, so this rounds once
    poisoned = (scales == E8M0_NAN).repeat_interleave(spec.block_size, spec.axis)
    poisoned = poisoned.narrow(spec.axis, 0, x.shape[resolve_axis(x.dim(), spec.axis)])
    checks = (
        ("scale", quantized.scales, scales),
        ("code", quantized.codes.masked_fill(poisoned, 0), codes.masked_fill(poisoned, 0)),
        ("fake_quantize", fake_quantize(x, **arguments), values),
        ("dequantize", quantized.dequantize(x.dtype), values),
    )
    return [line for what, got, expected in checks for line in _describe(what, got, expected, x)]


def _describe(what: str, got: Tensor, expected: Tensor, x: Tensor) -> list[str]:
    if torch.equal(_bits(got), _bits(expected)):
        return []
    differ = _bits(got) != _bits(expected)
    if got.is_floating_point():
        differ &= ~(got.isnan() & expected.isnan())
    places = differ.nonzero()[:_SHOWN].tolist()
    if not places:
        return []
    examples = [
        f"[{', '.join(map(str, at))}] got {_hex(got, at)}, expected {_hex(expected, at)}"
        + (f" of {_hex(x, at)}" if got.shape == x.shape else "")
        for at in places
    ]
    return [f"{what}: {int(differ.sum())} of {differ.numel()} differ: {'; '.join(examples)}"]


def _bits(values: Tensor) -> Tensor:
    return values.contiguous().view(_SAME_SIZE_INT[values.element_size()])


def _hex(values: Tensor, at: list[int]) -> str:
    width = values.element_size()
    bits = int(_bits(values)[tuple(at)]) & ((1 << 8 * width) - 1)
    value = f" ({values[tuple(at)].item():g})" if values.is_floating_point() else ""
    return f"{bits:#0{2 + 2 * width}x}{value}"
