"""Whole matrices and single rows: kernels choose a fast path by rows and columns together.

Blocks, and their expected results, are taken from a pool that the oracle casts once: a block's result does
not depend on its neighbours. Where a row shares a scale, whole rows are taken; where a tensor shares one,
each matrix holds the largest number of the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.generator import ANYTHING, OTHER_BLOCK_SIZES, Example, own_block_size
from mxcheck.conformance.cases.inside import aligned, columns_of, dtypes_of, in_rank, rows_of
from mxcheck.conformance.cases.mixtures import pool_of
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.conformance.verify.verifier import expected_parts
from mxcheck.formats.blocks import E8M0
from mxcheck.formats.oracle import Parts
from mxcheck.kernels.domain import Domain

ROWS = (1, 2, 3, 17, 31, 32, 33, 64, 127, 128, 129, 256, 384, 512, 1024, 4096, 65_537)
#: Whole blocks of a row; whole blocks before a tail.
BLOCKS = (1, 2, 3, 8, 16, 128, 129)
_BEHIND = 2
#: Rows and blocks for other block sizes.
_FEW_ROWS, _FEW_BLOCKS = (1, 33, 128), (2, 8)
#: Most elements of a matrix; the most rows have at least one block each regardless. Above `quick` each pair
#: occurs, except that of the most rows and the most blocks, a gigabyte; roundings other than even, in which
#: kernels differ little, have smaller ones.
MOST_ELEMENTS = {"quick": 1 << 20, "full": 1 << 25}
_MOST_OF_OTHER_ROUNDINGS = {"quick": 1 << 18, "full": 1 << 22}
#: Up to this size a matrix is cast in each dtype and in two layouts; a larger one in one dtype.
_SMALL = {"quick": 1 << 16, "full": 1 << 19}
#: Rows in the pool of a format with a scale per row.
_POOL_ROWS = 24
LAYOUTS = ("contiguous", "transposed", "sliced", "rows apart", "columns of a wider one", "at an offset")
# The first is no multiple of 16 bytes; the second is one of 64.
_GAP, _WIDER = 3, 64
_BITS = {4: torch.int32, 2: torch.int16}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Matrix:
    """An input, and the oracle's codes and scales for it."""

    example: Example
    expected: Parts


def matrices(
    cell: Cell, level: str, domain: Domain = ANYTHING, rows: Sequence[int] = ROWS
) -> Iterator[Matrix]:
    """Yield every pair of rows and columns that lies in a domain: contiguous, and in turn in other layouts
    and along the first axis; in each dtype, large ones in one dtype in turn; some in other block sizes."""
    yield from _of_size(cell, level, domain, own_block_size(cell, domain) or 32, rows, BLOCKS)
    if cell.spec().block.scale == E8M0 and domain.block_sizes is None:
        for size in OTHER_BLOCK_SIZES:
            yield from _of_size(
                cell, level, domain, size, [one for one in _FEW_ROWS if one in rows], _FEW_BLOCKS
            )


def _of_size(
    cell: Cell, level: str, domain: Domain, size: int, every: Sequence[int], blocks: Sequence[int]
) -> Iterator[Matrix]:
    axes = [axis for axis in (-1, 0) if domain.axes is None or axis % 2 in {one % 2 for one in domain.axes}]
    most = MOST_ELEMENTS[level]
    if cell.rounding != "even":
        most = _MOST_OF_OTHER_ROUNDINGS[level]
    layouts = LAYOUTS[:1] if domain.contiguous or (domain.ranks and 2 not in domain.ranks) else LAYOUTS
    pools = [_Pool(cell, size, dtype) for dtype in dtypes_of(domain)]
    for (i, rows), (j, columns) in product(
        enumerate(_rows(every, domain)), enumerate(_columns(size, blocks, domain))
    ):
        single_blocks = columns <= size and rows > ROWS[-2]
        if rows * columns > most and not single_blocks:
            continue
        small = rows * columns <= _SMALL[level]
        for number, pool in enumerate(pools):
            if not small and number != (i + j) % len(pools):
                continue
            ways = [(layouts[0], axes[0])]
            if not small and (i + j) % 4 == 0:
                ways.append((layouts[0], axes[-1]))
            if small:  # a Latin square: no two columns of a row agree in both
                ways.append((layouts[(2 * i + j + number) % len(layouts)], axes[(i + j) % len(axes)]))
            for layout, axis in dict.fromkeys(ways):
                made = _in_rank(pool.matrix(rows, columns, axis, layout), domain)
                made = replace(made, example=replace(made.example, x=aligned(made.example.x, domain)))
                if not domain.refuses(made.example.x, made.example.spec):
                    yield made


def _in_rank(one: Matrix, domain: Domain) -> Matrix:
    """Return the same matrix in a rank of the domain."""
    x, spec = one.example.x, one.example.spec
    if in_rank(x, spec.axis, domain) is x:
        return one
    random = None if spec.random is None else in_rank(spec.random, spec.axis, domain)
    codes, scales, *tensor_scale = one.expected
    shaped = [
        in_rank(torch.from_numpy(np.ascontiguousarray(part)), spec.axis, domain).numpy()
        for part in (codes, scales)
    ]
    return Matrix(
        example=replace(one.example, x=in_rank(x, spec.axis, domain), spec=replace(spec, random=random)),
        expected=(*shaped, *tensor_scale),
    )


def _rows(every: Sequence[int], domain: Domain) -> list[int]:
    if domain.ranks is not None and max(domain.ranks) < 2:
        return [1]
    return list(dict.fromkeys(rows_of(count, domain) for count in every))


def _columns(size: int, every: Sequence[int], domain: Domain) -> list[int]:
    wanted = [*(blocks * size for blocks in every), _BEHIND * size + size // 2 + 1]
    return list(dict.fromkeys(columns_of(count, domain, size) for count in wanted))


class _Pool:
    """Blocks of a cell in a dtype, and the oracle's results for them, whole and cut short."""

    def __init__(self, cell: Cell, size: int, dtype: torch.dtype) -> None:
        self.cell, self.size, self.dtype = cell, size, dtype
        self.blocks = pool_of(cell, size, dtype, Draws(f"{cell.seed} matrices {dtype} {size}"))
        self.cast: dict[int, _Cast] = {}

    def matrix(self, rows: int, columns: int, axis: int, layout: str) -> Matrix:
        draws = Draws(f"{self.cell.seed} {self.dtype} {rows} {columns} {axis} {layout}")
        block = self.cell.spec().block
        a_scale_a_row = block.block_size is None and not block.whole_tensor
        made = (self._of_rows if a_scale_a_row else self._of_blocks)(rows, columns, draws)
        x, random, (codes, scales, *tensor_scale) = made.x, made.random, made.parts
        if axis == 0:
            x, codes, scales = x.T.contiguous(), codes.T, scales.T
            random = None if random is None else random.T.contiguous()
        spec = self.cell.spec(axis=axis, block_size=self._block_size, random=random)
        group = "single_rows" if rows == 1 else "matrices"
        return Matrix(
            example=Example(group=group, x=_laid_out(x, layout), spec=spec),
            expected=(codes, scales, *tensor_scale),
        )

    def _of_blocks(self, rows: int, columns: int, draws: Draws) -> _Cast:
        """Put random blocks side by side, and a partial block behind them where columns are no multiple."""
        whole, tail = divmod(columns, self.size)
        source = self._cast(tail, lambda: torch.cat([self.blocks, self.blocks[:, :tail]], 1))
        chosen = draws.integers(0, len(self.blocks), (rows, whole))
        if self.cell.spec().block.scale != E8M0:
            largest = int(self.blocks.abs().amax(1).argmax())
            chosen.flat[int(draws.integers(0, chosen.size, 1)[0])] = largest
        ends = draws.integers(0, len(self.blocks), (rows, 1))

        def side_by_side(every: NDArray[Any], width: int) -> NDArray[Any]:
            found = np.take(every[:, :width], chosen, 0).reshape(rows, -1)
            return np.concatenate([found, every[:, width:][ends[:, 0]]], 1) if tail else found

        codes, scales, *tensor_scale = source.parts
        if not self.cell.spec().block.whole_tensor:
            scales = side_by_side(scales, 1)
        x = side_by_side(_as_array(source.x), self.size)
        random = None if source.random is None else side_by_side(source.random.numpy(), self.size)
        return _Cast(
            x=_as_tensor(x, self.dtype),
            random=None if random is None else torch.from_numpy(random),
            parts=(side_by_side(codes, self.size), scales, *tensor_scale),
        )

    def _of_rows(self, rows: int, columns: int, draws: Draws) -> _Cast:
        """Stack random rows of `columns` elements."""

        def long_rows() -> Tensor:
            count = -(-columns // self.size)
            chosen = draws.integers(0, len(self.blocks), (_POOL_ROWS, count))
            return self.blocks[torch.from_numpy(chosen)].reshape(_POOL_ROWS, -1)[:, :columns].contiguous()

        source = self._cast(columns, long_rows)
        chosen = draws.integers(0, _POOL_ROWS, rows)
        return _Cast(
            x=source.x[torch.from_numpy(chosen)],
            random=None,
            parts=tuple(part[chosen] for part in source.parts),
        )

    @property
    def _block_size(self) -> int | None:
        return None if self.cell.spec().block_size is None else self.size

    def _cast(self, key: int, make: Callable[[], Tensor]) -> _Cast:
        if key not in self.cast:
            x, random = make(), None
            if self.cell.rounding == "stochastic":
                draws = Draws(f"{self.cell.seed} {self.dtype} matrices, random {key}")
                random = torch.from_numpy(draws.integers(0, 1 << 32, tuple(x.shape)))
            spec = self.cell.spec(block_size=self._block_size, random=random)
            self.cast[key] = _Cast(x=x, random=random, parts=expected_parts(x, spec))
        return self.cast[key]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Cast:
    """An input along its last axis, its random integers if any, and the oracle's codes and scales."""

    x: Tensor
    random: Tensor | None
    parts: Parts


def _as_array(x: Tensor) -> NDArray[Any]:
    """Return the bits of x: numpy has no bf16."""
    return x.contiguous().view(_BITS[x.element_size()]).numpy()


def _as_tensor(bits: NDArray[Any], dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(bits).view(dtype)


def _laid_out(x: Tensor, layout: str) -> Tensor:
    """Copy the values into another memory layout, whose gaps hold a large number."""
    rows, columns = x.shape
    match layout:
        case "transposed":
            return x.T.contiguous().T
        case "sliced":
            return _filled(x, (rows, 2 * columns + 1))[:, 1::2].copy_(x)
        case "rows apart":
            return _filled(x, (rows, columns + _GAP))[:, :columns].copy_(x)
        case "columns of a wider one":
            return _filled(x, (rows, columns + _WIDER))[:, :columns].copy_(x)
        case "at an offset":
            flat = _filled(x, (x.numel() + 2 * _GAP,))
            return flat[_GAP : _GAP + x.numel()].view(x.shape).copy_(x)
        case _:
            return x


def _filled(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.full(shape, 2.0**15, dtype=x.dtype)
