"""The expected results of the tests of layouts, computed place by place with plain integers and numpy
indices.

Only the values of codes come from `mxcheck.formats`. The tests import this module when they run, since it
imports torch and numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mxcheck.formats.blocks import E8M0
from mxcheck.formats.codes import code_values, scale_values
from mxcheck.formats.elements import element_format
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.quantized import QuantizedTensor

Array = np.ndarray[Any, Any]

#: Bits of a code: codes in a group, bytes in a group.
GROUPS = {4: (2, 1), 6: (4, 3), 8: (1, 1)}


def packed(codes: Array, bits: int, axis: int) -> Array:
    """Return each line of codes along the axis as one integer, code i at bit i * bits, lowest byte first."""
    per_group, group_bytes = GROUPS[bits]
    length = -(-codes.shape[axis] // per_group) * group_bytes

    def line_bytes(line: Array) -> Array:
        number = sum(code << bits * place for place, code in enumerate(line.tolist()))
        return np.array(list(number.to_bytes(length, "little")), np.uint8)

    return np.ascontiguousarray(np.apply_along_axis(line_bytes, axis, codes))


def values(quantized: QuantizedTensor) -> Array:
    """Return element times scale, exact in float64: element i along the axis has scale i div block size."""
    spec, tensor_scale = quantized.spec, quantized.tensor_scale
    if tensor_scale is None:
        table = np.array(scale_values())
    else:
        table = np.array(code_values(element_format("fp8_e4m3"))) * tensor_scale.item()
    assert spec.block_size is not None
    block = np.arange(quantized.codes.shape[spec.axis]) // spec.block_size
    scales = np.take(table[quantized.scales.numpy()], block, spec.axis)
    product: Array = np.array(code_values(spec.element))[quantized.codes.numpy()] * scales
    return product


def rounded(exact: Array, dtype: torch.dtype) -> Array:
    """Round to fp32, then to the dtype, ties to even; return as fp32."""
    with np.errstate(over="ignore"):
        single = exact.astype(np.float32)
        if dtype == torch.float16:
            return single.astype(np.float16).astype(np.float32)
    if dtype == torch.float32:
        return single
    bits = single.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def swizzled(padded: Array, direction: str) -> Array:
    """Move each scale to its place, one at a time, by the formula of the cuBLAS documentation."""
    inner_tiles = padded.shape[1 if direction == "rowwise" else 0] // 4
    flat = np.zeros(padded.size, np.uint8)
    for (row, column), scale in np.ndenumerate(padded):
        outer, inner = (row, column) if direction == "rowwise" else (column, row)
        tile = outer // 128 * inner_tiles + inner // 4
        r, c = outer % 128, inner % 4
        flat[tile * 512 + r % 32 * 16 + r // 32 * 4 + c] = scale
    return flat


def assert_same(got: torch.Tensor, expected: Array) -> None:
    """Assert equal shapes and bytes."""
    assert tuple(got.shape) == expected.shape
    _assert_nowhere(got.numpy() != expected)


def assert_same_numbers(got: torch.Tensor, expected: Array) -> None:
    """Assert equal bits in fp32, including -0; all NaNs are equal."""
    numbers = got.float().numpy()
    nan = np.isnan(numbers) & np.isnan(expected)
    _assert_nowhere(~nan & (numbers.view(np.uint32) != expected.view(np.uint32)))


def _assert_nowhere(differ: Array) -> None:
    places = np.argwhere(differ).tolist()
    assert not places, f"{len(places)} of {differ.size} differ, the first at {places[0]}"


def random_bytes(shape: tuple[int, ...], *, below: int = 256, seed: int = 0) -> Array:
    """Return random bytes, the same for each call."""
    return np.random.default_rng(seed).integers(0, below, shape, np.uint8)


def made_of(codes: Array, scales: Array, spec: CastSpec) -> QuantizedTensor:
    """Return a quantized tensor with the given codes and scales; for NVFP4 with a fixed tensor scale."""
    return QuantizedTensor(
        codes=torch.from_numpy(codes),
        scales=torch.from_numpy(scales),
        spec=spec,
        tensor_scale=None if spec.block.scale == E8M0 else torch.tensor(3.3e-3),
    )
