"""The generator: named tensors for a cell of the matrix, deterministic, in levels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.edge_blocks import GROUPS, Blocks, wide
from mxcheck.conformance.cases.inside import aligned, as_matrices, dtypes_of, fitted, in_pieces
from mxcheck.conformance.cases.mixtures import in_dtype, mixtures, sixteen_bit_blocks
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.conformance.cases.tensors import TENSOR_GROUPS
from mxcheck.formats.blocks import E8M0
from mxcheck.formats.spec import CastSpec, resolve_axis
from mxcheck.kernels.domain import Domain, named

BLOCK = 32
ANYTHING = Domain()
OTHER_BLOCK_SIZES = (16, 64, 128)
# No axis is a multiple of 32, and one is longer.
_RAGGED_SHAPE = (33, 7, 70)
_TAIL_LENGTHS = (1, 2, 31, 33, 63, 65, 344)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """One input of a cast, and the group that it belongs to."""

    group: str
    x: Tensor
    spec: CastSpec


def examples(cell: Cell, level: str, domain: Domain = ANYTHING) -> Iterator[Example]:
    """Yield every example of a cell at `quick` or `full` that lies in a domain, in a fixed order. The first
    one is plain: whole blocks along the last axis, in fp32 if the domain allows it.

    An example outside of the domain is rearranged to lie inside if possible, in each dtype of the domain: the
    same blocks, as a matrix of allowed rows and columns.

    `quick` has each group in blocks of 32 along the last axis, and a mixture for other block sizes, axes,
    strides, ragged tails and 16-bit inputs; `full` has every group for every block size, and along the first
    axis too.
    """
    yield from (_along_its_axis(one, domain) for one in _in_domain(cell, level, domain))


def _in_domain(cell: Cell, level: str, domain: Domain) -> Iterator[Example]:
    for plain in _groups(cell, level, own_block_size(cell, domain)):
        one = replace(plain, x=aligned(plain.x, domain))
        if domain.refuses(one.x, one.spec):
            yield from _inside(one, cell, domain, dtypes_of(domain))
            continue
        yield one
        if one.x.dtype == torch.float32 and one.spec.block_size == own_block_size(cell, domain):
            yield from _inside(one, cell, domain, [some for some in dtypes_of(domain) if some != one.x.dtype])
    for plain in (*_layouts(cell), *_mixtures(cell, level)):
        one = replace(plain, x=aligned(plain.x, domain))
        if not domain.refuses(one.x, one.spec):
            yield one


def _along_its_axis(one: Example, domain: Domain) -> Example:
    """Name the same axis as the domain does: a kernel of axis -1 may know no other name for it."""
    if domain.axes is None or one.spec.axis in domain.axes:
        return one
    dims = one.x.dim()
    same = (axis for axis in domain.axes if -dims <= axis < dims and (axis - one.spec.axis) % dims == 0)
    return replace(one, spec=replace(one.spec, axis=next(same, one.spec.axis)))


def placed(group: str, x: Tensor, cell: Cell, domain: Domain) -> Example:
    """Build an example from a matrix of numbers, with the shape, dtype and axis that the domain requires."""
    size = own_block_size(cell, domain)
    inside, axis = fitted(x, domain, cell.spec(block_size=size))
    return example(group, inside, cell, axis=axis, block_size=size)


def own_block_size(cell: Cell, domain: Domain) -> int | None:
    """Return the block size for most of a cell's examples: 32, or another one that the domain allows."""
    own = cell.spec().block_size
    if cell.spec().block.scale != E8M0 or domain.block_sizes is None or own in domain.block_sizes:
        return own
    return min((size for size in domain.block_sizes if size is not None), default=own)


def _groups(cell: Cell, level: str, size: int | None) -> Iterator[Example]:
    """Yield the groups of edges, in whole blocks along the last axis, and the 16-bit groups."""
    if cell.spec().block.scale == E8M0:
        yield from _blocks(cell, level, size or BLOCK)
    else:
        for group, make in TENSOR_GROUPS[level].items():
            for x in make(cell, Draws(f"{cell.seed} {group}")):
                yield example(group, torch.from_numpy(x), cell)
    yield from _sixteen_bits(cell, size)


def _inside(one: Example, cell: Cell, domain: Domain, dtypes: Sequence[torch.dtype]) -> Iterator[Example]:
    """Yield the blocks of an example as matrices inside a domain, once for each of these dtypes; nothing
    where the domain excludes the cast itself. The group keeps its name for the domain's first dtype."""
    spec = one.spec
    if domain.refuses_cast(spec) or one.x.dim() != 2 or resolve_axis(2, spec.axis) != 1:
        return
    plain = dtypes_of(domain)[0] if one.x.dtype == torch.float32 else one.x.dtype
    for dtype in dtypes if one.x.dtype == torch.float32 else [one.x.dtype]:
        if dtype not in domain.dtypes:
            continue
        blocks = one.x if dtype == one.x.dtype else _rounded(one.x, cell, dtype)
        if not len(blocks):
            continue
        group = one.group if dtype == plain else f"{one.group}, {named(dtype)}"
        in_parts = as_matrices if cell.spec().block.scale == E8M0 else in_pieces
        for part in in_parts(blocks, domain):
            x, axis = fitted(part, domain, spec)
            made = example(group, x, cell, axis=axis, block_size=spec.block_size, tail=spec.tail)
            if not domain.refuses(made.x, made.spec):
                yield made


def _rounded(x: Tensor, cell: Cell, dtype: torch.dtype) -> Tensor:
    """Round blocks to a 16-bit dtype. Finite numbers stay finite; with E8M0 scales, finite blocks that do not
    fit are left out."""
    made = in_dtype(x.numpy(), cell, dtype)
    fits = made.isfinite() | ~x.isfinite()
    return made[fits.all(-1)] if cell.spec().block.scale == E8M0 else made[: len(made) * bool(fits.all())]


def _blocks(cell: Cell, level: str, size: int) -> Iterator[Example]:
    for group, make in GROUPS[level].items():
        yield example(group, _made(make, cell, size, group), cell, block_size=size)
    for other in OTHER_BLOCK_SIZES:
        if level == "quick":
            yield example(f"blocks_of_{other}", _made(wide, cell, other, "wide"), cell, block_size=other)
            continue
        for group, make in GROUPS[level].items():
            yield example(
                f"{group}, blocks of {other}", _made(make, cell, other, group), cell, block_size=other
            )
    if level == "full":
        for group, make in GROUPS[level].items():
            x = _made(make, cell, size, group).T.contiguous()
            yield example(f"{group}, first axis", x, cell, axis=0, block_size=size)


def _mixtures(cell: Cell, level: str) -> Iterator[Example]:
    for one in mixtures(cell, level):
        yield example(one.group, one.x, cell, axis=one.axis, block_size=one.block_size, tail=one.tail)


def _made(make: Callable[[Cell, int, Draws], Blocks], cell: Cell, length: int, group: str) -> Tensor:
    with np.errstate(over="ignore", under="ignore"):  # moving blocks by powers of two
        blocks = make(cell, length, Draws(f"{cell.seed} {group} {length}"))
    return torch.from_numpy(blocks)


def _layouts(cell: Cell) -> Iterator[Example]:
    """Yield ragged tails, each axis counted from either end, contiguous or not; 1 to 4 dimensions."""
    random = Draws(f"{cell.seed} layouts")
    for length in _TAIL_LENGTHS:
        yield example("ragged_tails", spread((5, length), random), cell)
    x = spread(_RAGGED_SHAPE, random)
    views = {"axes": x, "transposed": x.transpose(0, 2), "strided": x[::2, :, 3:]}
    for group, view in views.items():
        for axis in range(-x.dim(), x.dim()):
            yield example(group, view, cell, axis=axis)
    for shape in ((64,), (2, 3, 4, 32)):
        yield example("dimensions", spread(shape, random), cell)


def _sixteen_bits(cell: Cell, size: int | None) -> Iterator[Example]:
    """Yield every bf16 and every fp16 value, blocks of zeros, and blocks on the edges, in the input's own
    dtype. Where a tensor shares a scale, yield finite values of moderate size only: others have their own
    group."""
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    for group, dtype in (("bfloat16_input", torch.bfloat16), ("float16_input", torch.float16)):
        values = bits.view(dtype)
        if cell.spec().block.scale != E8M0:
            values = values[(values.abs() < 2.0**15) & (values.abs() > 2.0**-14)]
        rows = values[: values.numel() // BLOCK * BLOCK].view(-1, BLOCK)
        zeros = torch.zeros(2, BLOCK, dtype=dtype)
        zeros[1] = -0.0
        parts = [rows, zeros]
        if cell.spec().block.scale == E8M0:
            parts.append(sixteen_bit_blocks(cell, dtype))
        yield example(group, torch.cat(parts), cell, block_size=size)


def spread(shape: tuple[int, ...], random: Draws) -> Tensor:
    """Draw fp32 numbers of either sign over a dozen binades, some of them zero."""
    bits = random.integers(0x3C00_0000, 0x4200_0000, shape) | (random.integers(0, 2, shape) << 31)
    bits = np.where(random.integers(0, 16, shape) == 0, 0, bits)
    return torch.from_numpy(bits.astype(np.uint32).view(np.float32))


def spread_with_ties(shape: tuple[int, ...], random: Draws) -> Tensor:
    """Draw as `spread` does, but three in four numbers have significands of 2 to 7 bits: many lie midway
    between two codes, where roundings differ. Zeros have either sign."""
    bits = spread(shape, random).numpy().view(np.uint32)
    lost = np.where(random.integers(0, 4, shape) > 0, random.integers(17, 23, shape), 0).astype(np.uint32)
    bits = bits >> lost << lost
    signs = random.integers(0, 2, shape).astype(np.uint32) << 31
    return torch.from_numpy(np.where(bits == 0, signs, bits).astype(np.uint32).view(np.float32))


def example(
    group: str,
    x: Tensor,
    cell: Cell,
    *,
    axis: int = -1,
    block_size: int | None = None,
    tail: str = "pad",
) -> Example:
    random = None
    if cell.rounding == "stochastic":
        # Add both ends and the middle: a remainder of one half rounds up from 2^31 on.
        draws = Draws(f"{cell.seed} {group} {tuple(x.shape)} random")
        edges = np.array([0, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
        plain = draws.integers(0, 1 << 32, tuple(x.shape))
        chosen = draws.integers(0, 8, tuple(x.shape))
        random = torch.from_numpy(np.where(chosen < 4, edges[chosen % 4], plain))
    return Example(
        group=group, x=x, spec=cell.spec(axis=axis, block_size=block_size, tail=tail, random=random)
    )
