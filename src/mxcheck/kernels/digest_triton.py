"""The row sums of `mxcheck.kernels.digest` as a Triton kernel, which needs no memory for products."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_HEIGHT, _WIDTH = 8, 256


def row_sums_by_triton(words: Tensor, of: Tensor) -> Tensor:
    """As `mxcheck.kernels.digest.row_sums`."""
    rows, length = words.shape
    sums = torch.empty(of.shape[0], rows, dtype=torch.int64, device=words.device)
    _row_sums[(triton.cdiv(rows, _HEIGHT),)](
        words, of.contiguous(), sums, rows, length, lanes=of.shape[0], height=_HEIGHT, width=_WIDTH
    )
    return sums


@triton.jit  # type: ignore[untyped-decorator]
def _row_sums(  # type: ignore[no-untyped-def]
    words,
    of,
    sums,
    rows,
    length,
    lanes: tl.constexpr,
    height: tl.constexpr,
    width: tl.constexpr,
):
    """Sum `height` rows per program, `width` columns at a time; int64 wraps."""
    row = tl.program_id(0).to(tl.int64) * height + tl.arange(0, height)
    for lane in tl.static_range(lanes):
        total = tl.zeros([height], dtype=tl.int64)
        for start in range(0, length, width):
            column = start + tl.arange(0, width)
            inside = (row[:, None] < rows) & (column[None, :] < length)
            word = tl.load(words + row[:, None] * length + column[None, :], mask=inside, other=0).to(tl.int64)
            key = tl.load(of + lane * length + column, mask=column < length, other=0)
            total += tl.sum(word * key[None, :], axis=1)
        tl.store(sums + lane * rows + row, total, mask=row < rows)
