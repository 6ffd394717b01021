"""Scales as a GEMM reads them: round trips, the order byte by byte, and padding that nobody may look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat, element_format
from mxcheck.kernels.api import quantize
from mxcheck.kernels.layouts import (
    pad_scales,
    quantize_operand,
    swizzle_scales,
    unpad_scales,
    unswizzle_scales,
)
from mxcheck.kernels.quantized import QuantizedTensor, pack, unpack

MULTIPLES = {"rowwise": (128, 4), "columnwise": (4, 128)}
each_direction = pytest.mark.parametrize("direction", list(MULTIPLES))
directions = st.sampled_from(sorted(MULTIPLES))
seeds = st.integers(0, 2**32 - 1)

Reader = Callable[[Tensor, tuple[int, ...]], Tensor]
Swizzle = Callable[[Tensor], Tensor]


def random_bytes(shape: tuple[int, ...], seed: int = 0, below: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, below, shape, dtype=torch.uint8, generator=generator)


# Padding


@settings(max_examples=100)
@given(shape=st.tuples(st.integers(1, 300), st.integers(1, 300)), direction=directions, seed=seeds)
def test_scales_come_back(shape: tuple[int, int], direction: str, seed: int) -> None:
    scales = random_bytes(shape, seed)
    padded = pad_scales(scales, direction=direction, fill=seed % 256)
    for length, got, multiple in zip(shape, padded.shape, MULTIPLES[direction], strict=True):
        assert got % multiple == 0
        assert 0 <= got - length < multiple
    assert padded[shape[0] :].eq(seed % 256).all()
    assert padded[:, shape[1] :].eq(seed % 256).all()
    flat = swizzle_scales(padded, direction=direction)
    assert flat.shape == (padded.numel(),)
    back = unswizzle_scales(flat, padded.shape, direction=direction)
    assert torch.equal(back, padded)
    assert torch.equal(unpad_scales(back, shape), scales)


def test_scales_may_be_strided() -> None:
    scales = random_bytes((256, 16))
    expected = swizzle_scales(scales[:, ::2].contiguous())
    assert torch.equal(swizzle_scales(scales[:, ::2]), expected)
    assert torch.equal(unswizzle_scales(expected.repeat_interleave(2)[::2], (256, 8)), scales[:, ::2])


def test_padded_scales_are_a_copy() -> None:
    scales = random_bytes((128, 4))
    pad_scales(scales).zero_()
    assert scales.any()


def read_to_the_end(padded: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Wrong: aligned with the end of the buffer."""
    return padded[-shape[0] :, -shape[1] :].contiguous()


def read_without_pitch(padded: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Wrong: takes rows to lie shape[1] bytes apart."""
    return padded.flatten()[: shape[0] * shape[1]].reshape(shape)


def ignores_padding(read: Reader, quantized: QuantizedTensor, direction: str) -> bool:
    """Whether `quantized` dequantizes to the same numbers from padded and swizzled scales that `read` has
    unpadded, whatever the padding holds."""
    expected = quantized.dequantize()
    rows, columns = quantized.scales.shape
    for poison in (0, 0xFF, None):
        padded = pad_scales(quantized.scales, direction=direction, fill=poison or 0)
        if poison is None:
            padded = random_bytes(padded.shape, seed=7)
            padded[:rows, :columns] = quantized.scales
        flat = swizzle_scales(padded, direction=direction)
        scales = read(unswizzle_scales(flat, padded.shape, direction=direction), (rows, columns))
        got = QuantizedTensor(codes=quantized.codes, scales=scales, spec=quantized.spec).dequantize()
        if not torch.equal(got, expected):
            return False
    return True


@each_direction
@pytest.mark.parametrize("shape", [(1, 1), (33, 100), (130, 70), (200, 160)], ids=str)
def test_poisoned_padding_is_not_read(shape: tuple[int, int], direction: str) -> None:
    operand = quantize_operand(torch.randn(shape), "fp8_e4m3")
    assert ignores_padding(unpad_scales, getattr(operand, direction), direction)


@each_direction
@pytest.mark.parametrize("read", [read_to_the_end, read_without_pitch])
def test_a_reader_of_padding_is_caught(read: Reader, direction: str) -> None:
    operand = quantize_operand(torch.randn(130, 70), "fp8_e4m3")
    assert not ignores_padding(read, getattr(operand, direction), direction)
    # Where there is no padding there is nothing to read wrongly.
    whole = quantize_operand(torch.randn(128, 128), "fp8_e4m3")
    assert ignores_padding(read, getattr(whole, direction), direction)


def test_poison_spreads_to_a_product_that_contracts_over_padding() -> None:
    # Zero codes do not protect: 0 times the scale FF is NaN. Hence the fill 0 by default.
    x = quantize(torch.randn(4, 32), "fp8_e4m3")
    codes = torch.nn.functional.pad(x.codes, (0, 96))
    finite = {}
    for fill in (0, 0xFF):
        scales = pad_scales(x.scales, fill=fill)[:4]
        wide = QuantizedTensor(codes=codes, scales=scales, spec=x.spec).dequantize()
        finite[fill] = bool((wide @ wide.T).isfinite().all())
    assert finite == {0: True, 0xFF: False}


# The order


def by_definition(padded: Tensor, direction: str) -> Tensor:
    """Each scale put into its place, one at a time, by the formula of the cuBLAS documentation."""
    rows, columns = padded.shape
    inner_tiles = (columns if direction == "rowwise" else rows) // 4
    flat = [-1] * (rows * columns)
    for row, line in enumerate(padded.tolist()):
        for column, scale in enumerate(line):
            outer, inner = (row, column) if direction == "rowwise" else (column, row)
            tile = outer // 128 * inner_tiles + inner // 4
            r, c = outer % 128, inner % 4
            flat[tile * 512 + r % 32 * 16 + r // 32 * 4 + c] = scale
    return torch.tensor(flat, dtype=torch.int16).to(torch.uint8)


def columns_first(padded: Tensor) -> Tensor:
    """Wrong: tiles down the outer axis first."""
    tiles = padded.reshape(-1, 4, 32, padded.shape[1] // 4, 4)
    return tiles.permute(3, 0, 2, 1, 4).flatten()


def quarters_in_order(padded: Tensor) -> Tensor:
    """Wrong: within a tile, rows in their own order."""
    return padded.reshape(-1, 128, padded.shape[1] // 4, 4).transpose(1, 2).flatten()


@each_direction
@pytest.mark.parametrize("tiles", [(1, 1), (3, 1), (1, 3), (2, 3)], ids=str)
def test_order_is_that_of_the_formula(tiles: tuple[int, int], direction: str) -> None:
    rows, columns = MULTIPLES[direction]
    padded = random_bytes((tiles[0] * rows, tiles[1] * columns))
    assert torch.equal(swizzle_scales(padded, direction=direction), by_definition(padded, direction))


@pytest.mark.parametrize("swizzle", [columns_first, quarters_in_order, torch.flatten])
def test_a_wrong_order_is_caught(swizzle: Swizzle) -> None:
    padded = random_bytes((256, 12))
    assert swizzle(padded).sort().values.equal(padded.flatten().sort().values)  # the same bytes
    assert not torch.equal(swizzle(padded), by_definition(padded, "rowwise"))


def test_a_wrong_order_of_tiles_needs_two_of_them_each_way() -> None:
    one_column = random_bytes((256, 4))
    assert torch.equal(columns_first(one_column), by_definition(one_column, "rowwise"))


def test_columnwise_scales_are_swizzled_as_their_transpose() -> None:
    # This shape is whole tiles in either direction, and they differ: only the caller can tell them apart.
    padded = random_bytes((128, 256))
    columnwise = swizzle_scales(padded, direction="columnwise")
    assert torch.equal(columnwise, swizzle_scales(padded.T.contiguous()))
    assert not torch.equal(columnwise, swizzle_scales(padded))
    assert not torch.equal(unswizzle_scales(columnwise, (128, 256)), padded)


@each_direction
@pytest.mark.parametrize("shape", [(128, 4), (130, 5), (300, 9)], ids=str)
def test_order_is_that_of_torchao(shape: tuple[int, int], direction: str) -> None:
    torchao = pytest.importorskip("torchao.prototype.mx_formats.utils", reason="torchao is not installed")
    outer_inner = random_bytes(shape)
    scales = outer_inner if direction == "rowwise" else outer_inner.T
    padded = pad_scales(scales, direction=direction)
    flat = swizzle_scales(padded, direction=direction)
    assert torch.equal(flat, torchao.to_blocked(outer_inner))
    assert torch.equal(torchao.from_blocked(flat, *shape), outer_inner)


# Refusals


@pytest.mark.parametrize(
    ("shape", "direction", "message"),
    [
        ((130, 4), "rowwise", r"rowwise scales have shape \(130, 4\).*\[multiple of 128, multiple of 4\]"),
        ((128, 5), "rowwise", r"pad_scales\(scales, direction='rowwise'\) fills them up"),
        (
            (128, 4),
            "columnwise",
            r"columnwise scales have shape \(128, 4\).*\[multiple of 4, multiple of 128\]",
        ),
    ],
)
def test_scales_that_are_not_whole_tiles(shape: tuple[int, int], direction: str, message: str) -> None:
    scales = random_bytes(shape)
    with pytest.raises(ValueError, match=message):
        swizzle_scales(scales, direction=direction)
    with pytest.raises(ValueError, match=message):
        unswizzle_scales(scales.flatten(), shape, direction=direction)
    swizzle_scales(pad_scales(scales, direction=direction), direction=direction)  # the advice helps


def test_unswizzle_refuses_another_number_of_bytes() -> None:
    with pytest.raises(ValueError, match=r"shape \(512,\).*\(128, 8\) take \(1024,\); give the shape"):
        unswizzle_scales(random_bytes((512,)), (128, 8))
    with pytest.raises(ValueError, match=r"shape \(-128, -4\), which is not whole tiles"):
        unswizzle_scales(random_bytes((512,)), (-128, -4))


@pytest.mark.parametrize("shape", [(129, 1), (1, 5), (-1, 1), (4,)], ids=str)
def test_unpad_refuses_more_than_there_is(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"out of padded scales of shape \(128, 4\)"):
        unpad_scales(random_bytes((128, 4)), shape)


@pytest.mark.parametrize("fill", [-1, 256, True, 0.0])
def test_fill_is_a_byte(fill: int) -> None:
    with pytest.raises(ValueError, match=r"fill must be a byte, got .*; allowed: 0 to 255"):
        pad_scales(random_bytes((1, 1)), fill=fill)


def test_unknown_direction() -> None:
    with pytest.raises(ValueError, match=r"unknown direction 'rowise'.*did you mean 'rowwise'"):
        pad_scales(random_bytes((1, 1)), direction="rowise")
    with pytest.raises(ValueError, match=r"unknown direction 'colwise'"):
        swizzle_scales(random_bytes((128, 4)), direction="colwise")
    with pytest.raises(ValueError, match=r"unknown direction 'colwise'"):
        unswizzle_scales(random_bytes((512,)), (128, 4), direction="colwise")


@pytest.mark.parametrize("function", [pad_scales, swizzle_scales])
def test_scales_are_the_bytes_of_a_matrix(function: Swizzle) -> None:
    with pytest.raises(TypeError, match=r"scales have dtype torch.float32; allowed: torch.uint8"):
        function(torch.ones(128, 4))
    with pytest.raises(ValueError, match=r"got shape \(512,\); allowed: 2 axes"):
        function(random_bytes((512,)))


@pytest.mark.parametrize("function", [pad_scales, swizzle_scales])
def test_scales_are_a_tensor(function: Any) -> None:
    with pytest.raises(TypeError, match=r"scales must be a torch\.Tensor, got list"):
        function([1])
    with pytest.raises(TypeError, match=r"scales must be a torch\.Tensor, got list"):
        unpad_scales([1], (1, 1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"scales must be a torch\.Tensor, got list"):
        unswizzle_scales([1], (128, 4))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [128, None, "128x4", (128.0, 4.0), (1.5, 2), torch.ones(2)], ids=repr)
def test_shapes_are_integers(shape: Any) -> None:
    with pytest.raises(TypeError, match=r"^shape must be a tuple of integers, got .*such as \(128, 4\)"):
        unpad_scales(random_bytes((128, 4)), shape)
    with pytest.raises(TypeError, match=r"^padded_shape must be a tuple of integers, got .*\(128, 4\)"):
        unswizzle_scales(random_bytes((512,)), shape)


def test_shapes_may_be_lists_and_sizes() -> None:
    scales = random_bytes((128, 4))
    assert torch.equal(unpad_scales(scales, [128, 4]), scales)  # type: ignore[arg-type]
    assert torch.equal(unswizzle_scales(swizzle_scales(scales), scales.shape), scales)


# The operand


def test_operand_is_quantized_twice_from_the_same_matrix() -> None:
    x = torch.randn(70, 45)
    operand = quantize_operand(x, "fp6_e2m3", block_size=16)
    for got, axis in ((operand.rowwise, -1), (operand.columnwise, 0)):
        expected = quantize(x, "fp6_e2m3", axis=axis, block_size=16)
        assert got.spec == expected.spec
        assert torch.equal(got.codes, expected.codes)
        assert torch.equal(got.scales, expected.scales)
    assert operand.rowwise.scales.shape == (70, 3)
    assert operand.columnwise.scales.shape == (5, 45)


def test_transpose_of_quantized_is_not_quantized_transpose() -> None:
    # The large number takes the ones that share its block: those of row 0 rowwise, of column 0 columnwise.
    x = torch.ones(32, 32)
    x[0, 0] = 1024
    operand = quantize_operand(x, "fp4_e2m1")
    lost_rowwise, lost_columnwise = (
        torch.zeros(32, 32, dtype=torch.bool),
        torch.zeros(32, 32, dtype=torch.bool),
    )
    lost_rowwise[0, 1:] = True
    lost_columnwise[1:, 0] = True
    assert torch.equal(operand.rowwise.dequantize() == 0, lost_rowwise)
    assert torch.equal(operand.columnwise.dequantize() == 0, lost_columnwise)
    # What a GEMM on x.T needs is the quantization of x.T, and that is what columnwise is ...
    transposed = quantize(x.T, "fp4_e2m1")
    assert torch.equal(operand.columnwise.codes.T, transposed.codes)
    assert torch.equal(operand.columnwise.scales.T, transposed.scales)
    # ... not the transposed codes of rowwise, and not a second cast of its values.
    assert not torch.equal(operand.rowwise.codes.T, transposed.codes)
    again = quantize(operand.rowwise.dequantize(), "fp4_e2m1", axis=0)
    assert not torch.equal(again.dequantize(), operand.columnwise.dequantize())


def test_transpose_of_quantized_looks_right_on_kind_data() -> None:
    # Why the test above needs its large number: without it nobody would notice.
    operand = quantize_operand(torch.ones(32, 32), "fp4_e2m1")
    assert torch.equal(operand.rowwise.dequantize(), operand.columnwise.dequantize())


def test_operand_refusals() -> None:
    with pytest.raises(ValueError, match=r"got shape \(2, 3, 4\); flatten the leading axes"):
        quantize_operand(torch.randn(2, 3, 4), "fp8_e4m3")
    with pytest.raises(TypeError, match="takes no axis"):
        quantize_operand(torch.randn(3, 4), "fp8_e4m3", axis=0)
    with pytest.raises(TypeError, match=r"x must be a torch\.Tensor"):
        quantize_operand([[1.0]], "fp8_e4m3")  # type: ignore[arg-type]


# Sizes


@pytest.mark.parametrize(
    ("name", "bits", "ratio"),
    [
        ("fp8_e4m3", 8, 3.88),
        ("fp6_e2m3", 6, 5.12),
        ("fp6_e3m2", 6, 5.12),
        ("fp4_e2m1", 4, 7.53),
        ("mxint8", 8, 3.88),
    ],
)
@each_direction
def test_size_in_bytes(name: str, bits: int, ratio: float, direction: str) -> None:
    m, n = 64, 96
    quantized = getattr(quantize_operand(torch.randn(m, n), name), direction)
    assert quantized.nbytes == m * n * bits // 8 + m * n // 32
    assert quantized.nbytes == quantized.packed().numel() + quantized.scales.numel()
    assert round(4 * m * n / quantized.nbytes, 2) == ratio  # against fp32; fp8: 4 * 32 / 33


def test_size_of_a_tail_is_not_that_of_the_formula() -> None:
    operand = quantize_operand(torch.randn(64, 33), "fp8_e4m3")
    assert operand.columnwise.nbytes == 64 * 33 + 64 * 33 // 32
    assert operand.rowwise.nbytes == 64 * 33 + 64 * 2


# Packed codes


def one_number(packed: Tensor) -> int:
    return int.from_bytes(bytes(packed.tolist()), "little")


def by_place(codes: Tensor, element: ElementFormat) -> int:
    """The codes as one number, code i at bit i * bits: what `pack` writes, least significant byte first."""
    return sum(code << element.bits * i for i, code in enumerate(codes.tolist()))


@settings(max_examples=150)
@given(
    name=st.sampled_from(sorted(ELEMENT_FORMATS)),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    axis=st.integers(-2, 1),
    seed=seeds,
)
def test_packed_codes_come_back(name: str, shape: tuple[int, int], axis: int, seed: int) -> None:
    element = element_format(name)
    codes = random_bytes(shape, seed, below=2**element.bits)
    packed = pack(codes, element, axis)
    assert packed.shape[axis] == -(-shape[axis] * element.bits // 8) or element.bits == 6
    assert torch.equal(unpack(packed, element, axis, shape[axis]), codes)
    for line, packed_line in zip(codes.movedim(axis, -1), packed.movedim(axis, -1), strict=True):
        assert one_number(packed_line) == by_place(line, element)


@pytest.mark.parametrize("name", ["fp4_e2m1", "fp6_e2m3"])
def test_swapped_codes_are_caught(name: str) -> None:
    element = element_format(name)
    codes = random_bytes((12,), below=2**element.bits)
    # High nibble first, or the last of four codes first: reverse the codes of each group.
    in_group = {4: 2, 6: 4}[element.bits]
    swapped = pack(codes.reshape(-1, in_group).flip(1).flatten(), element, -1)
    assert swapped.numel() == pack(codes, element, -1).numel()
    assert one_number(swapped) != by_place(codes, element)
    assert not torch.equal(unpack(swapped, element, -1, 12), codes)
