"""Inputs that lie inside of a domain: which dtype, how many rows and columns, and blocks as a matrix."""

from __future__ import annotations

from math import lcm

import torch
from torch import Tensor

from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.domain import DTYPES, Domain


def dtypes_of(domain: Domain) -> list[torch.dtype]:
    """Those that may be asked, fp32 first: it has the most edges."""
    return [dtype for dtype in DTYPES.values() if dtype in domain.dtypes]


def axis_of(domain: Domain) -> int:
    """An axis of a matrix that blocks may run along, the last one if it may be."""
    axes = (-1, 0, 1, -2)
    return next((one for one in axes if domain.axes is None or one in domain.axes), -1)


def rows_of(count: int, domain: Domain) -> int:
    """So many rows at least, as the domain wants them."""
    return _up(max(count, domain.least_rows), domain.rows_multiple)


def columns_of(count: int, domain: Domain, block_size: int | None) -> int:
    """So many columns at least, as the domain wants them."""
    blocks = 1 if domain.ragged or block_size is None else block_size
    return _up(max(count, domain.least_columns), lcm(domain.columns_multiple, blocks))


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def as_matrix(blocks: Tensor, domain: Domain) -> Tensor:
    """Blocks [count, n] as a matrix [rows, columns], columns being n or a multiple of it; where the domain
    wants more rows than they fill, the first ones again."""
    count, length = blocks.shape
    columns = _up(max(length, domain.least_columns), lcm(domain.columns_multiple, length))
    rows = rows_of(-(-count // (columns // length)), domain)
    again = torch.arange(rows * columns // length) % count
    return blocks[again].reshape(rows, columns)


def fitted(x: Tensor, domain: Domain, spec: CastSpec) -> tuple[Tensor, int]:
    """A matrix that is cast along its last axis, in a dtype, with rows and columns and along an axis that the
    domain allows, in a rank of its; its rows and columns are repeated where it must grow. And that axis."""
    rows, columns = rows_of(x.shape[0], domain), columns_of(x.shape[1], domain, spec.block_size)
    grown = x.repeat(-(-rows // x.shape[0]), -(-columns // x.shape[1]))[:rows, :columns]
    axis = axis_of(domain)
    moved = grown if axis % 2 else grown.T
    dtype = x.dtype if x.dtype in domain.dtypes else dtypes_of(domain)[0]
    return in_rank(moved.to(dtype).contiguous(), axis, domain), axis


def in_rank(x: Tensor, axis: int, domain: Domain) -> Tensor:
    """A matrix with as many dimensions as the domain wants, a matrix if it may be: with leading ones (behind
    the block axis where that is the first), or flat."""
    if domain.ranks is None or 2 in domain.ranks:
        return x
    more = max(domain.ranks) - 2
    if more < 0:
        return x.reshape(-1)
    return x.reshape((1,) * more + x.shape if axis % 2 else x.shape + (1,) * more)
