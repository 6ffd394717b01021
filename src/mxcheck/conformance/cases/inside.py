"""Fit inputs into a domain: dtype, rows and columns, and blocks as a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm

import torch
from torch import Tensor

from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.domain import DTYPES, Domain, up


def dtypes_of(domain: Domain) -> list[torch.dtype]:
    """Return the allowed dtypes, fp32 first: it has the most edges."""
    return [dtype for dtype in DTYPES.values() if dtype in domain.dtypes]


def axis_of(domain: Domain) -> int:
    """Return an axis of a matrix that blocks may run along, the last one if allowed."""
    axes = (-1, 0, 1, -2)
    return next((one for one in axes if domain.axes is None or one in domain.axes), -1)


def rows_of(count: int, domain: Domain) -> int:
    """Return the allowed number of rows nearest to `count`."""
    return _within(count, domain.least_rows, domain.most_rows, domain.rows_multiple)


def columns_of(count: int, domain: Domain, block_size: int | None) -> int:
    """Return the allowed number of columns nearest to `count`."""
    return _within(count, domain.least_columns, domain.most_columns, _step(domain, block_size))


def _step(domain: Domain, block_size: int | None) -> int:
    """Return the number that must divide columns."""
    return lcm(domain.columns_multiple, 1 if domain.ragged or block_size is None else block_size)


def _within(count: int, least: int, most: int | None, multiple: int) -> int:
    least = up(max(count, least), multiple)
    return least if most is None else min(least, max(most // multiple, 1) * multiple)


def as_matrices(blocks: Tensor, domain: Domain) -> Iterator[Tensor]:
    """Yield blocks [count, n] as matrices [rows, columns], where columns is n or a multiple of it: few
    columns, unless rows are limited. Repeat the first rows where the domain requires more; split where one
    matrix may not hold them."""
    count, length = blocks.shape
    step = lcm(domain.columns_multiple, length)
    # With a limit of rows, as many columns as needed.
    wanted = length if domain.most_rows is None else -(-count * length // domain.most_rows)
    columns = _within(max(wanted, length), domain.least_columns, domain.most_columns, step)
    rows = up(max(-(-count // (columns // length)), domain.least_rows), domain.rows_multiple)
    again = torch.arange(rows * columns // length) % count
    yield from in_pieces(blocks[again].reshape(rows, columns), domain)


def in_pieces(x: Tensor, domain: Domain) -> Iterator[Tensor]:
    """Yield a matrix whole, or split where it has more rows or columns than the domain allows."""
    columns = _within(x.shape[1], 1, domain.most_columns, domain.columns_multiple)
    rows = _within(x.shape[0], 1, domain.most_rows, domain.rows_multiple)
    for column in range(0, x.shape[1], columns):
        for row in range(0, x.shape[0], rows):
            yield x[row : row + rows, column : column + columns]


def fitted(x: Tensor, domain: Domain, spec: CastSpec) -> tuple[Tensor, int]:
    """Return a matrix that the domain allows, in dtype, rows, columns, axis and rank, and its axis. Rows and
    columns are repeated where it must grow, and cut off where it must shrink. The input is cast along its
    last axis."""
    rows, columns = rows_of(x.shape[0], domain), columns_of(x.shape[1], domain, spec.block_size)
    grown = x.repeat(-(-rows // x.shape[0]), -(-columns // x.shape[1]))[:rows, :columns]
    axis = axis_of(domain)
    moved = grown if axis % 2 else grown.T
    dtype = x.dtype if x.dtype in domain.dtypes else dtypes_of(domain)[0]
    return in_rank(moved.to(dtype).contiguous(), axis, domain), axis


def aligned(x: Tensor, domain: Domain) -> Tensor:
    """Return x, or a copy where its memory misses the domain's alignment by chance, as numpy's may. An x that
    is placed at an offset on purpose stays as it is."""
    return x if x.storage_offset() or not x.data_ptr() % domain.alignment else x.clone()


def in_rank(x: Tensor, axis: int, domain: Domain) -> Tensor:
    """Reshape a matrix to a rank that the domain allows (a matrix if possible): add leading dimensions
    (behind the block axis where that is the first), or flatten."""
    if domain.ranks is None or 2 in domain.ranks:
        return x
    more = max(domain.ranks) - 2
    if more < 0:
        return x.reshape(-1)
    return x.reshape((1,) * more + x.shape if axis % 2 else x.shape + (1,) * more)
