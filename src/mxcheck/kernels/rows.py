"""What adapters need: a tensor as rows and back, and codes out of packed bytes. No arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from mxcheck.formats.spec import resolve_axis


def as_rows(x: Tensor, axis: int) -> Tensor:
    """x as contiguous [rows, n], its axis `axis` being the last: a transposition, no arithmetic."""
    moved = x.movedim(axis, -1)
    return moved.reshape(-1, moved.shape[-1]).contiguous()


def from_rows(rows: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """[rows, k] as a tensor of `shape` whose axis `axis` has the length k: undoes `as_rows`."""
    axis = resolve_axis(len(shape), axis)
    rest = (*shape[:axis], *shape[axis + 1 :])
    return rows.reshape(*rest, rows.shape[-1]).movedim(-1, axis)


def unpack_fp4(packed: Tensor) -> Tensor:
    """Codes [rows, n] of bytes [rows, n / 2], the first code of a byte in its low bits."""
    return torch.stack([packed & 0xF, packed >> 4], dim=-1).flatten(-2)
