"""Our own layouts: packing of codes, assignment of scales to blocks, padding and swizzling of scales.

`expected_layouts.py` computes the expected results independently, place by place. torch and numpy are
imported inside the tests, so that collecting this file costs nothing.

Sources: OCP MX v1.0, section 5 (what a block is); cuBLAS library documentation, "1D Block Scaling Factors
Layout"; Transformer Engine (columnwise scales).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mxcheck.formats.blocks import E8M0, block_format
from mxcheck.formats.spec import cast_spec, scales_shape

if TYPE_CHECKING:
    from mxcheck.suite.kernels.expected_layouts import Array

pytestmark = pytest.mark.usefixtures("mx_usual_settings")

LENGTHS = (1, 2, 3, 4, 5, 31, 32, 33)
MATRIX = (300, 660)  # several tiles of scales along both axes, the last ones partial
TILES = {"rowwise": (128, 4), "columnwise": (4, 128)}  # in the axes of the scales
AXES = {"rowwise": -1, "columnwise": 0}  # the axes of the blocks
POISON = 0xFF  # NaN, as an E8M0 scale and as an E4M3 scale

each_axis = pytest.mark.parametrize("axis", [0, 1, 2, -1], ids=lambda axis: f"axis{axis}")
each_direction = pytest.mark.parametrize("direction", list(TILES))


# Codes


@each_axis
def test_packed_codes(mx_layout: str, axis: int) -> None:
    """Check packing: 4-bit codes two to a byte, the first in the low bits; 6-bit codes four to three bytes,
    lowest first."""
    import numpy as np
    import torch

    from mxcheck.kernels.quantized import pack, unpack
    from mxcheck.suite.kernels.expected_layouts import GROUPS, assert_same, packed, random_bytes

    element = block_format(mx_layout).element
    for length in LENGTHS:
        shape = _shape(length, axis)
        codes = random_bytes(shape, below=1 << element.bits)
        expected = packed(codes, element.bits, axis)
        strided = torch.from_numpy(codes.T.copy()).permute(2, 1, 0)
        for source in (torch.from_numpy(codes), strided):
            assert_same(pack(source, element, axis), expected)
        assert_same(unpack(torch.from_numpy(expected), element, axis, length), codes)
        # Bits that no code fills may have any value.
        missing = list(shape)
        missing[axis] = -length % GROUPS[element.bits][0]
        filled = np.concatenate([codes, np.full(missing, (1 << element.bits) - 1, np.uint8)], axis)
        poisoned = torch.from_numpy(packed(filled, element.bits, axis))
        assert_same(unpack(poisoned, element, axis, length), codes)


@each_axis
def test_sizes(mx_layout: str, axis: int) -> None:
    """Check that `nbytes` counts what must be stored: packed codes, the scales, the tensor scale."""
    import torch

    from mxcheck.kernels.api import quantize
    from mxcheck.suite.kernels.expected_layouts import GROUPS, assert_same, packed

    block = block_format(mx_layout)
    per_group, group_bytes = GROUPS[block.element.bits]
    assert block.block_size is not None
    for length in LENGTHS:
        quantized = quantize(torch.ones(_shape(length, axis)), mx_layout, axis=axis)
        lines = quantized.codes.numel() // length
        code_bytes = lines * -(-length // per_group) * group_bytes
        scale_bytes = lines * -(-length // block.block_size) + (0 if block.scale == E8M0 else 4)
        assert_same(quantized.packed(), packed(quantized.codes.numpy(), block.element.bits, axis))
        assert quantized.packed().nbytes == code_bytes
        assert quantized.nbytes == code_bytes + scale_bytes, f"{length} elements along axis {axis}"


# Assignment of scales to elements


@each_axis
def test_dequantized_values(mx_layout: str, axis: int) -> None:
    """Check that element i along the axis has scale i div block size: any codes under any scales, with a
    ragged tail, rounded to fp32 (exact under powers of two), and then to the smaller dtype."""
    import numpy as np
    import torch

    from mxcheck.suite.kernels.expected_layouts import (
        assert_same_numbers,
        made_of,
        random_bytes,
        rounded,
        values,
    )

    for block_size in _block_sizes(mx_layout):
        spec = cast_spec(mx_layout, axis=axis, block_size=block_size)
        shape = _shape(2 * block_size + 5, axis)
        scales = random_bytes(scales_shape(shape, spec), seed=1)
        scales.flat[0] = POISON
        quantized = made_of(random_bytes(shape, below=2 * spec.element.sign_bit), scales, spec)
        exact = values(quantized)
        assert np.isnan(exact).any()
        assert np.isfinite(exact).any()
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            got = quantized.dequantize(dtype)
            assert (got.dtype, tuple(got.shape)) == (dtype, shape)
            assert_same_numbers(got, rounded(exact, dtype))


# Both quantizations of a matrix


def test_operand(mx_layout: str) -> None:
    """Check that rowwise is the matrix quantized along its rows, columnwise its transpose, transposed."""
    import torch

    from mxcheck.kernels.api import quantize
    from mxcheck.kernels.layouts import quantize_operand
    from mxcheck.suite.kernels.expected_layouts import assert_same, random_bytes

    for block_size in _block_sizes(mx_layout):
        x = torch.from_numpy(random_bytes((70, 2 * block_size + 5))).float() - 127.5
        operand = quantize_operand(x, mx_layout, block_size=block_size)
        for got, source, axis in ((operand.rowwise, x, -1), (operand.columnwise, x.T.contiguous(), 0)):
            expected = quantize(source, mx_layout, block_size=block_size)
            assert got.spec == cast_spec(mx_layout, axis=axis, block_size=block_size)
            for part in ("codes", "scales"):
                wanted = getattr(expected, part).numpy()
                assert_same(getattr(got, part), wanted if axis else wanted.T)
            assert got.tensor_scale == expected.tensor_scale


def test_columnwise_is_not_rowwise_transposed(mx_layout: str) -> None:
    """Check that a large number flushes the ones that share its scale: in row 0 rowwise, in column 0
    columnwise."""
    import numpy as np
    import torch

    from mxcheck.kernels.layouts import quantize_operand

    block = block_format(mx_layout)
    x = torch.ones(70, 70)
    # Beyond the range of any element; with NVFP4 it must not flush the other blocks.
    x[0, 0] = 2.0**40 if block.scale == E8M0 else 1024.0
    operand = quantize_operand(x, mx_layout)
    lost = np.zeros((70, 70), bool)
    lost[0, 1 : block.block_size] = True
    assert np.array_equal(operand.rowwise.dequantize().numpy() == 0, lost)
    assert np.array_equal(operand.columnwise.dequantize().numpy() == 0, lost.T)


# Scales in memory


@each_direction
def test_padded_scales(mx_layout: str, direction: str) -> None:
    """Check that scales fill whole tiles, padded at the end of both axes with 0 or the requested byte."""
    import numpy as np
    import torch

    from mxcheck.kernels.layouts import pad_scales, unpad_scales
    from mxcheck.suite.kernels.expected_layouts import assert_same

    scales = _scales(mx_layout, direction)
    (rows, columns), (down, across) = scales.shape, TILES[direction]
    for options, fill in (({}, 0), ({"fill": POISON}, POISON), ({"fill": 1}, 1)):
        expected = np.full((-(-rows // down) * down, -(-columns // across) * across), fill, np.uint8)
        for row in range(rows):
            expected[row, :columns] = scales[row]
        for source in (torch.from_numpy(scales), torch.from_numpy(scales.T.copy()).T):
            assert_same(pad_scales(source, direction=direction, **options), expected)
        assert_same(unpad_scales(torch.from_numpy(expected), (rows, columns)), scales)


@each_direction
def test_swizzled_scales(mx_layout: str, direction: str) -> None:
    """Check the order: tile after tile, along the inner axis first. In a tile, outer r and inner c: (r mod
    32) * 16 + (r div 32) * 4 + c. The outer axis is the one without blocks."""
    import torch

    from mxcheck.kernels.layouts import pad_scales, swizzle_scales, unswizzle_scales
    from mxcheck.suite.kernels.expected_layouts import assert_same, swizzled

    padded = pad_scales(torch.from_numpy(_scales(mx_layout, direction)), direction=direction, fill=POISON)
    expected = swizzled(padded.numpy(), direction)
    for source in (padded, padded.T.contiguous().T):
        assert_same(swizzle_scales(source, direction=direction), expected)
    back = unswizzle_scales(torch.from_numpy(expected), tuple(padded.shape), direction=direction)
    assert_same(back, padded.numpy())


@each_direction
def test_poisoned_padding_is_not_read(mx_layout: str, direction: str) -> None:
    """Check that scales surrounded by NaN in memory give the same values as before."""
    import torch

    from mxcheck.kernels import layouts
    from mxcheck.suite.kernels.expected_layouts import (
        assert_same_numbers,
        made_of,
        random_bytes,
        rounded,
        values,
    )

    spec = cast_spec(mx_layout, axis=AXES[direction])
    codes = random_bytes(MATRIX, below=2 * spec.element.sign_bit)
    quantized = made_of(codes, _scales(mx_layout, direction) & 0x77, spec)  # none of these is NaN
    padded = layouts.pad_scales(quantized.scales, direction=direction, fill=POISON)
    flat = layouts.swizzle_scales(padded, direction=direction)
    back = layouts.unswizzle_scales(flat, tuple(padded.shape), direction=direction)
    scales = layouts.unpad_scales(back, tuple(quantized.scales.shape))
    got = made_of(codes, scales.numpy(), spec).dequantize()
    assert_same_numbers(got, rounded(values(quantized), torch.float32))


# Inputs


def _shape(length: int, axis: int) -> tuple[int, ...]:
    """Return a shape of three different lengths, with `length` along `axis`."""
    shape = [2, 3, 4]
    shape[axis] = length
    return tuple(shape)


def _block_sizes(name: str) -> tuple[int, ...]:
    """Return the block sizes: NVFP4 has its own, the others accept any."""
    return (16, 32, 64, 128) if block_format(name).scale == E8M0 else (16,)


def _scales(name: str, direction: str) -> Array:
    """Return random bytes for the scales of MATRIX."""
    from mxcheck.suite.kernels.expected_layouts import random_bytes

    return random_bytes(scales_shape(MATRIX, cast_spec(name, axis=AXES[direction])), seed=2)
