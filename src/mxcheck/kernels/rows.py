"""Convert for adapters: a tensor to rows and back, and packed bytes to codes. No arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from mxcheck.formats.spec import resolve_axis


def as_rows(x: Tensor, axis: int) -> Tensor:
    """Return x as contiguous [rows, n], with `axis` as the last axis: a transposition, no arithmetic."""
    moved = x.movedim(axis, -1)
    return moved.reshape(-1, moved.shape[-1]).contiguous()


def from_rows(rows: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """Undo `as_rows`: return [rows, k] as a tensor of `shape` whose axis `axis` has length k."""
    axis = resolve_axis(len(shape), axis)
    rest = (*shape[:axis], *shape[axis + 1 :])
    return rows.reshape(*rest, rows.shape[-1]).movedim(-1, axis)


def unpack_fp4(packed: Tensor) -> Tensor:
    """Unpack bytes [rows, n / 2] to codes [rows, n], the first code of a byte in its low bits."""
    return torch.stack([packed & 0xF, packed >> 4], dim=-1).flatten(-2)
