"""What a peer library does, as data, and the layout that most of them want.

A peer is a library's own cast behind the signature of a kernel, `quantize(x, spec)`. Its adapter moves the
block axis and unpacks codes; it corrects nothing that the library computes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from mxcheck.formats.spec import CastSpec, block_count, resolve_axis


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What a library claims to do. A cast outside of it is no finding: `require` refuses it.

    Attributes:
        library: its name, as users write it.
        formats, scale_rules, roundings, nonfinite: of the fields of that name in `CastSpec`.
        dtypes: of the input.
        block_sizes: None where any will do.
        ragged: whether it takes an axis that the block size does not divide.
    """

    library: str
    formats: Collection[str]
    scale_rules: Collection[str]
    roundings: Collection[str] = ("even",)
    nonfinite: Collection[str] = ("block",)
    dtypes: Collection[torch.dtype] = (torch.float32, torch.bfloat16, torch.float16)
    block_sizes: Collection[int | None] | None = None
    ragged: bool = False


def require(coverage: Coverage, x: Tensor, spec: CastSpec) -> None:
    """Refuse what a library does not claim to do.

    Raises:
        NotImplementedError: with the first reason, in one sentence that names the library.
        ValueError: no such axis; a ragged tail that the spec refuses.
    """
    length = x.shape[resolve_axis(x.dim(), spec.axis)]
    block_count(length, spec)
    dtype = str(x.dtype).removeprefix("torch.")
    dtypes = [str(allowed).removeprefix("torch.") for allowed in coverage.dtypes]
    for what, asked, allowed in (
        ("format", spec.format, coverage.formats),
        ("scale rule", spec.scale_rule, coverage.scale_rules),
        ("rounding", spec.rounding, coverage.roundings),
        ("NaN/Inf policy", spec.nonfinite, coverage.nonfinite),
        ("block size", spec.block_size, coverage.block_sizes),
        ("cast from", dtype, dtypes),
    ):
        if allowed is not None and asked not in allowed:
            raise NotImplementedError(f"{coverage.library} has no {what} {asked}")
    if not coverage.ragged and spec.block_size is not None and length % spec.block_size:
        raise NotImplementedError(
            f"{coverage.library} needs a length that {spec.block_size} divides, got {length}"
        )


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
