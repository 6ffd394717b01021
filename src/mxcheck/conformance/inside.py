"""Inputs that lie inside of a domain: which dtype, how many rows and columns, and blocks as a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm

import torch
from torch import Tensor

from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.domain import DTYPES, Domain, up


def dtypes_of(domain: Domain) -> list[torch.dtype]:
    """Those that may be asked, fp32 first: it has the most edges."""
    return [dtype for dtype in DTYPES.values() if dtype in domain.dtypes]


def axis_of(domain: Domain) -> int:
    """An axis of a matrix that blocks may run along, the last one if it may be."""
    axes = (-1, 0, 1, -2)
    return next((one for one in axes if domain.axes is None or one in domain.axes), -1)


def rows_of(count: int, domain: Domain) -> int:
    """So many rows, as near as the domain has them."""
    return _within(count, domain.least_rows, domain.most_rows, domain.rows_multiple)


def columns_of(count: int, domain: Domain, block_size: int | None) -> int:
    """So many columns, as near as the domain has them."""
    return _within(count, domain.least_columns, domain.most_columns, _step(domain, block_size))


def _step(domain: Domain, block_size: int | None) -> int:
    """What must divide columns."""
    return lcm(domain.columns_multiple, 1 if domain.ragged or block_size is None else block_size)


def _within(count: int, least: int, most: int | None, multiple: int) -> int:
    least = up(max(count, least), multiple)
    return least if most is None else min(least, max(most // multiple, 1) * multiple)


def as_matrices(blocks: Tensor, domain: Domain) -> Iterator[Tensor]:
    """Blocks [count, n] as a matrix [rows, columns], columns being n or a multiple of it: few, unless there
    is a limit of rows. Where the domain wants more rows than they fill, the first ones again; several
    matrices where one may not hold them."""
    count, length = blocks.shape
    step = lcm(domain.columns_multiple, length)
    # Of few rows as many columns as may be.
    wanted = length if domain.most_rows is None else -(-count * length // domain.most_rows)
    columns = _within(max(wanted, length), domain.least_columns, domain.most_columns, step)
    rows = up(max(-(-count // (columns // length)), domain.least_rows), domain.rows_multiple)
    again = torch.arange(rows * columns // length) % count
    yield from in_pieces(blocks[again].reshape(rows, columns), domain)


def in_pieces(x: Tensor, domain: Domain) -> Iterator[Tensor]:
    """A matrix as one, or several where it has more rows or columns than the domain allows."""
    columns = _within(x.shape[1], 1, domain.most_columns, domain.columns_multiple)
    rows = _within(x.shape[0], 1, domain.most_rows, domain.rows_multiple)
    for column in range(0, x.shape[1], columns):
        for row in range(0, x.shape[0], rows):
            yield x[row : row + rows, column : column + columns]


def fitted(x: Tensor, domain: Domain, spec: CastSpec) -> tuple[Tensor, int]:
    """A matrix that is cast along its last axis, in a dtype, with rows and columns and along an axis that the
    domain allows, in a rank of its; its rows and columns are repeated where it must grow, and cut off where
    it must not be as large. And that axis."""
    rows, columns = rows_of(x.shape[0], domain), columns_of(x.shape[1], domain, spec.block_size)
    grown = x.repeat(-(-rows // x.shape[0]), -(-columns // x.shape[1]))[:rows, :columns]
    axis = axis_of(domain)
    moved = grown if axis % 2 else grown.T
    dtype = x.dtype if x.dtype in domain.dtypes else dtypes_of(domain)[0]
    return in_rank(moved.to(dtype).contiguous(), axis, domain), axis


def aligned(x: Tensor, domain: Domain) -> Tensor:
    """x, or a copy where only chance placed its memory otherwise than a domain wants: numpy may. An x that is
    laid out at an offset stays as it is."""
    return x if x.storage_offset() or not x.data_ptr() % domain.alignment else x.clone()


def in_rank(x: Tensor, axis: int, domain: Domain) -> Tensor:
    """A matrix with as many dimensions as the domain wants, a matrix if it may be: with leading ones (behind
    the block axis where that is the first), or flat."""
    if domain.ranks is None or 2 in domain.ranks:
        return x
    more = max(domain.ranks) - 2
    if more < 0:
        return x.reshape(-1)
    return x.reshape((1,) * more + x.shape if axis % 2 else x.shape + (1,) * more)
