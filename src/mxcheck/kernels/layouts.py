"""Memory layout of a matrix's scales for a GEMM: padded to tiles of 128 x 4, swizzled.

A matrix [M, N] has two quantizations, since a GEMM wants blocks along the axis that it contracts: `rowwise`
has blocks along N and scales [M, N/32], `columnwise` blocks along M and scales [M/32, N]. Below, the *outer*
axis of the scales is the one without blocks; the *inner* axis counts blocks.

Sources: cuBLAS library documentation, "1D Block Scaling Factors Layout" (the tile, and tiles one after the
other with the inner axis fastest); Transformer Engine, swizzle of MXFP8 scales. There columnwise scales
arrive as [inner, outer] and leave in the same order as rowwise ones: outer axis in 128s, inner axis in 4s. So
the swizzle of columnwise scales is the swizzle of their transpose. NVFP4 scales (blocks of 16) use the same
tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from mxcheck.formats.choices import choose
from mxcheck.kernels.api import quantize
from mxcheck.kernels.quantized import QuantizedTensor

OUTER, INNER = 128, 4  # a tile, in scales
_LANES = 32  # rows of a tile that lie 16 bytes apart

# direction -> the tile in the axes of the scales
_TILES: dict[str, tuple[int, int]] = {"rowwise": (OUTER, INNER), "columnwise": (INNER, OUTER)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedOperand:
    """A matrix quantized for both GEMMs that read it. Neither can be derived from the other.

    Attributes:
        rowwise: blocks along the last axis; scales [M, ceil(N / block_size)].
        columnwise: blocks along the first axis; scales [ceil(M / block_size), N].
    """

    rowwise: QuantizedTensor
    columnwise: QuantizedTensor


def quantize_operand(x: Tensor, format: str, **options: Any) -> QuantizedOperand:
    """Quantize a matrix along both axes, each time from x: the transpose of a quantized matrix is not the
    quantized transpose.

    Args:
        x: fp32, bf16 or fp16 [M, N], any strides, not empty.
        options: those of `quantize`, except `axis`.

    Raises:
        TypeError, ValueError: as `quantize`; x is not a matrix; `axis` given.
    """
    if "axis" in options:
        raise TypeError("quantize_operand takes no axis, it quantizes along both; for one use quantize")
    if isinstance(x, Tensor) and x.dim() != 2:
        raise ValueError(
            f"an operand is a matrix, got shape {tuple(x.shape)}; flatten the leading axes: x.flatten(0, -2)"
        )
    return QuantizedOperand(
        rowwise=quantize(x, format, axis=-1, **options), columnwise=quantize(x, format, axis=0, **options)
    )


def pad_scales(scales: Tensor, *, direction: str = "rowwise", fill: int = 0) -> Tensor:
    """Pad scales at the end of both axes to whole tiles.

    Args:
        scales: uint8 [M, N/32] (`rowwise`) or [M/32, N] (`columnwise`).
        fill: padding byte. 0 is the scale 2^-127, harmless for the zeros it scales; FF is NaN, and poisons
            whatever reads it.

    Returns:
        uint8, a new tensor: rowwise [multiple of 128, multiple of 4], columnwise [multiple of 4, of 128].

    Raises:
        TypeError: the scales are not uint8.
        ValueError: they are not a matrix; no such direction; `fill` is not a byte.
    """
    _check_scales(scales)
    rows, columns = _TILES[choose("direction", direction, _TILES)]
    if not isinstance(fill, int) or isinstance(fill, bool) or not 0 <= fill <= 0xFF:
        raise ValueError(f"fill must be a byte, got {fill!r}; allowed: 0 to 255")
    shape = (_multiple(scales.shape[0], rows), _multiple(scales.shape[1], columns))
    padded = scales.new_full(shape, fill)
    padded[: scales.shape[0], : scales.shape[1]] = scales
    return padded


def unpad_scales(padded: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Undo `pad_scales`, in either direction: return the scales of `shape`, uint8, contiguous.

    Raises:
        TypeError: `padded` is not uint8; `shape` is not a tuple of integers.
        ValueError: `padded` is not a matrix, or smaller than `shape`.
    """
    _check_scales(padded)
    shape = _lengths("shape", shape)
    if len(shape) != 2 or any(not 0 <= n <= limit for n, limit in zip(shape, padded.shape, strict=True)):
        raise ValueError(
            f"cannot take scales of shape {shape} out of padded scales of shape {tuple(padded.shape)};"
            f" allowed: two lengths up to those; give the shape that the scales had before pad_scales"
        )
    return padded[: shape[0], : shape[1]].contiguous()


def swizzle_scales(padded: Tensor, *, direction: str = "rowwise") -> Tensor:
    """Reorder padded scales to the order that cuBLAS' GEMM reads.

    Tiles follow one another, along the inner axis first. Within a tile the scale at (outer r, inner c) is at
    (r mod 32) * 16 + (r div 32) * 4 + c: the four scales of a row stay together, and rows 32 apart are
    neighbours.

    Args:
        padded: uint8, whole tiles, as from `pad_scales` with the same direction.

    Returns:
        uint8, flat, as many bytes as `padded`.

    Raises:
        TypeError: the scales are not uint8.
        ValueError: they are not a matrix of whole tiles; no such direction.
    """
    _check_scales(padded)
    _check_tiles(tuple(padded.shape), direction)
    scales = padded if direction == "rowwise" else padded.T
    outer, inner = scales.shape
    quarters = scales.reshape(outer // OUTER, OUTER // _LANES, _LANES, inner // INNER, INNER)
    return quarters.permute(0, 3, 2, 1, 4).flatten()


def unswizzle_scales(flat: Tensor, padded_shape: tuple[int, ...], *, direction: str = "rowwise") -> Tensor:
    """Undo `swizzle_scales`: return the padded scales of `padded_shape`, uint8, contiguous.

    Raises:
        TypeError: `flat` is not uint8; `padded_shape` is not a tuple of integers.
        ValueError: `padded_shape` is not whole tiles, or `flat` has another number of bytes; no such
            direction.
    """
    _check_dtype(flat)
    padded_shape = _lengths("padded_shape", padded_shape)
    _check_tiles(padded_shape, direction)
    rows, columns = padded_shape
    if flat.shape != (rows * columns,):
        raise ValueError(
            f"swizzled scales have shape {tuple(flat.shape)}; padded scales of shape {padded_shape} "
            f"take ({rows * columns},); give the shape that pad_scales returned"
        )
    outer, inner = (rows, columns) if direction == "rowwise" else (columns, rows)
    lanes = flat.reshape(outer // OUTER, inner // INNER, _LANES, OUTER // _LANES, INNER)
    scales = lanes.permute(0, 3, 2, 1, 4).reshape(outer, inner)
    return scales if direction == "rowwise" else scales.T.contiguous()


def _multiple(length: int, of: int) -> int:
    return -(-length // of) * of


def _lengths(name: str, shape: object) -> tuple[int, ...]:
    if isinstance(shape, tuple | list) and all(isinstance(n, SupportsIndex) for n in shape):
        return tuple(index(n) for n in shape)
    raise TypeError(f"{name} must be a tuple of integers, got {shape!r}; allowed: two, such as (128, 4)")


def _check_dtype(scales: Tensor) -> None:
    if not isinstance(scales, Tensor):
        raise TypeError(f"scales must be a torch.Tensor, got {type(scales).__name__}; allowed: one of uint8")
    if scales.dtype != torch.uint8:
        raise TypeError(
            f"scales have dtype {scales.dtype}; allowed: torch.uint8, one code a block; "
            f"fp32 scales have no such layout"
        )


def _check_scales(scales: Tensor) -> None:
    _check_dtype(scales)
    if scales.dim() != 2:
        raise ValueError(
            f"scales must be those of a matrix, got shape {tuple(scales.shape)}; allowed: 2 axes"
        )


def _check_tiles(shape: tuple[int, ...], direction: str) -> None:
    rows, columns = _TILES[choose("direction", direction, _TILES)]
    if len(shape) != 2 or any(n < 0 or n % tile for n, tile in zip(shape, (rows, columns), strict=True)):
        raise ValueError(
            f"{direction} scales have shape {shape}, which is not whole tiles; allowed: [multiple of {rows}, "
            f"multiple of {columns}]; pad_scales(scales, direction={direction!r}) fills them up"
        )
