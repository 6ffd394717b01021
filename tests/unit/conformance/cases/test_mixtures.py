"""Faults that show only where dtype, block size, axis, length and strides meet are caught at `quick`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.conformance.cases.mixtures import DTYPES, LAYOUTS, SHAPES, mixtures, sixteen_bit_blocks
from mxcheck.conformance.cell_run import run_cell
from mxcheck.formats.spec import CastSpec, resolve_axis
from mxcheck.kernels.eager import quantize_eager

pytestmark = pytest.mark.slow

CELLS = {cell.id: cell for cell in cells("quick")}
E4M3, E2M1 = CELLS["mxfp8_e4m3-floor"], CELLS["mxfp4_e2m1-floor"]
Where = Callable[[Tensor, CastSpec], bool]


def length(x: Tensor, spec: CastSpec) -> int:
    return x.shape[spec.axis]


def ragged(x: Tensor, spec: CastSpec) -> bool:
    return bool(length(x, spec) % (spec.block_size or 1))


def last(x: Tensor, spec: CastSpec) -> bool:
    return resolve_axis(x.dim(), spec.axis) == x.dim() - 1


def sixteen_bits(x: Tensor) -> bool:
    return x.dtype != torch.float32


MEETINGS: dict[str, Where] = {
    "first axis of a matrix, whole blocks": lambda x, s: x.dim() == 2 and not last(x, s) and not ragged(x, s),
    "another axis than the last, whole blocks": lambda x, s: not last(x, s) and not ragged(x, s),
    "16 bits, ragged": lambda x, s: sixteen_bits(x) and ragged(x, s),
    "16 bits, another axis": lambda x, s: sixteen_bits(x) and not last(x, s),
    "bfloat16, blocks of 16": lambda x, s: x.dtype == torch.bfloat16 and s.block_size == 16,
    "bfloat16, strided": lambda x, _: x.dtype == torch.bfloat16 and not x.is_contiguous(),
    "another block size, ragged": lambda x, s: s.block_size != 32 and ragged(x, s),
    "another block size, another axis": lambda x, s: s.block_size != 32 and not last(x, s),
    "four dimensions, an inner axis": lambda x, s: x.dim() == 4 and not last(x, s),
    "stride 0": lambda x, _: 0 in x.stride(),
    "one dimension, strided": lambda x, _: x.dim() == 1 and not x.is_contiguous(),
    "longer than 1024": lambda x, s: length(x, s) > 1024,
    "more than 100 blocks in a row": lambda x, s: length(x, s) > 3200 and last(x, s),
    "the first axis, long": lambda x, s: length(x, s) > 1024 and not last(x, s),
    "a NaN, blocks of 64": lambda x, s: s.block_size == 64 and bool(x.isnan().any()),
    "a NaN, ragged": lambda x, s: ragged(x, s) and bool(x.isnan().any()),
    "tail='error'": lambda _, s: s.tail == "error",
}


@pytest.mark.parametrize("cell", [E4M3, E2M1], ids=lambda cell: cell.format)
@pytest.mark.parametrize("meeting", MEETINGS)
def test_a_fault_where_things_meet(meeting: str, cell: Cell) -> None:
    met = []

    def wrong(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        if not MEETINGS[meeting](x, spec):
            return codes, scales
        met.append(1)
        return codes, torch.where(scales < 0xFE, scales + 1, scales)

    assert run_cell(wrong, cell, "quick").counts
    assert met


def test_a_16_bit_fault_inside_a_block() -> None:
    """amax read from the last element only; every other input of these dtypes has it there."""

    def wrong(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        if not sixteen_bits(x) or x.dim() != 2 or ragged(x, spec):
            return codes, scales
        lasts = x.view(x.shape[0], -1, spec.block_size or 32)[..., -1:].expand(-1, -1, spec.block_size or 32)
        return codes, quantize_eager(lasts.reshape(x.shape), spec)[1]

    assert run_cell(wrong, E4M3, "quick").counts["bfloat16_input"]["scale"] > 1000


@pytest.mark.parametrize(
    "cell", [E4M3, CELLS["nvfp4-amax"], CELLS["e4m3_tensor-amax"]], ids=lambda cell: cell.id
)
def test_full_has_every_combination(cell: Cell) -> None:
    seen = {
        (one.group, one.block_size, one.x.dim(), one.axis, one.x.stride()) for one in mixtures(cell, "full")
    }
    sizes = {size for _, size, *_ in seen}
    count = sum(1 for _ in mixtures(cell, "full"))
    assert count == len(DTYPES) * len(sizes) * len(SHAPES) * len(LAYOUTS) * 2 + 3


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("cell", [E4M3, CELLS["mxint8-rceil"]], ids=lambda cell: cell.id)
def test_16_bit_blocks_have_mixed_signs_and_amax_anywhere(cell: Cell, dtype: torch.dtype) -> None:
    blocks = sixteen_bit_blocks(cell, dtype)
    assert blocks.dtype == dtype
    assert len(blocks.abs().argmax(-1).unique()) > 16
    assert ((blocks < 0).any(-1) & (blocks > 0).any(-1)).float().mean() > 0.5
    assert torch.equal(blocks.view(torch.int16), sixteen_bit_blocks(cell, dtype).view(torch.int16))
