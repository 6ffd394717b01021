"""Mix the kinds of blocks that the other groups test one at a time, in tensors of every kind.

Kernels choose a fast path by dtype, block size, axis, length and strides together, and a fault in one shows
only where they meet. So edge, zero, subnormal and not finite blocks are mixed in tensors of each dtype, block
size, shape and axis, with whole and ragged lengths and every kind of stride.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from mxcheck.conformance.cases import edge_blocks
from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.formats.blocks import E8M0
from mxcheck.kernels.block_views import DTYPES

BLOCK_SIZES = (16, 32, 64, 128)
LAYOUTS = ("contiguous", "transposed", "sliced", "expanded")
# Lengths of the other axes, and the position of the block axis among them.
SHAPES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((), 0),
    ((5,), 0),
    ((5,), -1),
    ((3, 4), 1),
    ((2, 3), -1),
    ((2, 3, 2), 1),
)
_KINDS = (
    edge_blocks.every_code,
    edge_blocks.boundaries,
    edge_blocks.zero_and_subnormal,
    edge_blocks.not_finite,
    edge_blocks.amax_boundaries,
    edge_blocks.wide,
)
_OF_EACH_KIND = 16
_LONG = 4096
_INTEGERS = {torch.bfloat16: torch.int16, torch.float16: torch.int16}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mixture:
    """A tensor, and how to cast it: `block_size` is None for the format's own."""

    group: str
    x: Tensor
    axis: int
    block_size: int | None
    tail: str = "pad"


def mixtures(cell: Cell, level: str) -> Iterator[Mixture]:
    """Yield mixed tensors of a cell. `full` has every combination; `quick` each pair of dtype, block size and
    shape with every kind of stride in turn, and all of fp32 with the format's own block size."""
    own = cell.spec().block_size
    sizes = BLOCK_SIZES if cell.spec().block.scale == E8M0 else (own,)
    for (d, dtype), (s, size) in product(enumerate(DTYPES), enumerate(sizes)):
        random = Draws(f"{cell.seed} mixed {dtype} {size}")
        pool = pool_of(cell, size or 32, dtype, random)
        everything = level != "quick" or (dtype == torch.float32 and size == own)
        for (p, (others, axis)), (at, layout), ragged in product(
            enumerate(SHAPES), enumerate(LAYOUTS), (False, True)
        ):
            # As in a Latin square, each pair of dtype, size and shape meets each layout and both tails.
            if everything or (at, ragged) == ((d + s + p) % len(LAYOUTS), (d + s // 2 + p) % 2 == 1):
                length = 3 * (size or 32) - ragged * ((size or 32) // 2 + 1)
                x = _laid_out(_tensor(pool, others, axis, length, random), layout, axis)
                tail = "error" if p % 2 and not ragged else "pad"
                yield Mixture(group=_group(dtype), x=x, axis=axis, block_size=size, tail=tail)
    yield from _long(cell, own)


def sixteen_bit_blocks(cell: Cell, dtype: torch.dtype) -> Tensor:
    """Return blocks whose 16-bit values sit on the edges at scale 1: codes, midpoints, their neighbours in
    the dtype, and random numbers of either sign over a dozen binades; for formats with E8M0 scales."""
    random = Draws(f"{cell.seed} {dtype}")
    edges = (edge_blocks.every_code, edge_blocks.boundaries, edge_blocks.wide)
    blocks = torch.cat([in_dtype(make(cell, 32, random), cell, dtype) for make in edges])
    blocks = blocks[blocks.isfinite().all(-1) & blocks.ne(0).any(-1)]
    bits = blocks.view(_INTEGERS[dtype])
    beside = [(bits + step).view(dtype) for step in (1, -1)]
    lead = blocks.abs().argmax(-1, keepdim=True)
    beside = [near.scatter(-1, lead, blocks.gather(-1, lead)) for near in beside]  # amax stays
    moved = torch.cat([blocks, *beside])
    return moved[moved.isfinite().all(-1)]


def _group(dtype: torch.dtype) -> str:
    return f"mixed_{str(dtype).removeprefix('torch.')}"


def _long(cell: Cell, size: int | None) -> Iterator[Mixture]:
    """Yield rows longer than a kernel's own tile, along the last axis and the first."""
    random = Draws(f"{cell.seed} long")
    pool = pool_of(cell, size or 32, torch.float32, random)
    for axis, length in ((-1, _LONG), (-1, _LONG + 17), (0, _LONG)):
        x = _tensor(pool, (2,), axis, length, random)
        yield Mixture(group="long", x=x, axis=axis, block_size=size)


def pool_of(cell: Cell, length: int, dtype: torch.dtype, random: Draws) -> Tensor:
    """Return blocks [count, length] of every kind, in `dtype`."""
    if cell.spec().block.scale != E8M0:
        # The tensor shares one scale: not finite values have groups of their own.
        exponent = 127 - random.integers(0, 12, (64, length))
        bits = (random.integers(0, 2, (64, length)) << 31) | (exponent << 23)
        values = (bits | random.integers(0, 1 << 23, (64, length))).astype(np.uint32).view(np.float32)
        zero = random.integers(0, 16, values.shape) == 0
        values = np.where(zero, np.copysign(np.float32(0), values), values)
        return torch.from_numpy(values).to(dtype)
    chosen = []
    for make in _KINDS:
        blocks = in_dtype(make(cell, length, random), cell, dtype)
        if make not in (
            edge_blocks.not_finite,
            edge_blocks.zero_and_subnormal,
        ):  # fp16 has no room for most of them
            blocks = blocks[blocks.isfinite().all(-1) & blocks.ne(0).any(-1)]
        chosen.append(blocks[torch.from_numpy(random.integers(0, len(blocks), _OF_EACH_KIND))])
    return torch.cat(chosen)


def in_dtype(blocks: edge_blocks.Blocks, cell: Cell, dtype: torch.dtype) -> Tensor:
    """Round blocks to `dtype`; for fp16 scale them down by a power of two where the format's range is
    larger."""
    reach = max(0, cell.spec().element.emax - 12) if dtype == torch.float16 else 0
    return (torch.from_numpy(blocks) * 2.0**-reach).to(dtype)


def _tensor(pool: Tensor, others: tuple[int, ...], axis: int, length: int, random: Draws) -> Tensor:
    """Return a tensor whose block axis has this length and holds blocks of the pool."""
    rows = int(np.prod(others, dtype=int))
    count = -(-length // pool.shape[1])
    picked = pool[torch.from_numpy(random.integers(0, len(pool), rows * count))]
    x = picked.view(rows, -1)[:, :length].reshape(*others, length)
    return x.movedim(-1, axis).contiguous()


def _laid_out(x: Tensor, layout: str, axis: int) -> Tensor:
    """Copy the values into another memory layout: gaps of a slice hold large numbers; an expanded axis has
    stride 0."""
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), 2.0**15, dtype=x.dtype)
        wide[..., 1::2] = x
        return wide[..., 1::2]
    if layout == "expanded":
        return x.unsqueeze(0).expand(2, *x.shape) if axis < 0 else x.unsqueeze(-1).expand(*x.shape, 2)
    return x
