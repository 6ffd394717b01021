"""Digests of tensors by row group: 64-bit hashes that every device computes exactly, on the device of the
tensor.

A tensor is read as rows: its last axis is a row, its leading axes count them. Each row is a string of 32-bit
words s (its bytes in C order, little-endian, padded with zeros). Two levels hash it, in two lanes each:

1. a row gives sum(m[lane, i] * s[i]) mod 2^64, of which the upper 32 bits are kept: two words a row;
2. a row group gives the same sum over the words of its rows, with other keys, plus a sum over the dtypes and
   shapes of all tensors. The upper 32 bits of both lanes are its digest.

The sums are of integers, so tiles, threads and devices may add them in any order. Level 1 reads the tensor
and runs on its device; level 2 has 16 bytes a row and runs on the host. Keys are SplitMix64 numbers, computed
from a word's position when needed.

Bound: with random 64-bit keys m, two different strings of 32-bit words have the same upper 33 bits with
probability 2^-33 (Lemire and Kaser, "Strongly universal string hashing is fast", The Computer Journal 57(11),
2014, arXiv:1202.4961, MULTILINEAR with K = 64 and L = 32). Level 1 takes words with a sign, which the proof
allows: two of them differ by less than 2^32. Two lanes make it at most 2^-64 a level, so two tensors that
differ in a row group have the same digest of it with probability at most 2^-63. The keys are fixed and known:
this finds accidents, not forgeries; files and seals have SHA-256.

SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Most row groups of a digest.
MOST_GROUPS = 8
LANES = 2
# Keys come in streams of 2^48 positions; lane l of a level takes stream level + l. Stream 0 is unused,
# because its first key is 0.
_STREAM_BITS = 48
ROW_LEVEL, GROUP_LEVEL, SHAPE_LEVEL = 1, 3, 5

# Words in a tile. A CPU tile stays in a core's cache as int64 (512 KiB); elsewhere a tile keeps a GPU busy,
# and takes 32 MiB with its products.
_TILE = {"cpu": 1 << 16}
_TILE_ELSEWHERE = 1 << 21
# Rows per batch of sums and keys, which take at most 16 MiB.
_BAND = 1 << 17

Numbers = NDArray[np.uint64]

_REUSED = threading.local()


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """Digests of tensors.

    Attributes:
        rows: number of rows of all tensors.
        groups: 16 hexadecimal digits a row group. Group g holds the rows from g * n to g * n + n - 1, where n
            is ceil(rows / 8): at most 8 groups, and one where there are no rows.
    """

    rows: int
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightDigest:
    """Digests of a module's quantized weights: of all codes, and of all scales (None where a format has
    none). Rows are numbered across the weights, in order."""

    codes: Digest
    scales: Digest | None


def digest(*tensors: Tensor, most_groups: int = MOST_GROUPS) -> Digest:
    """Return the digest of tensors, with rows numbered across all of them.

    They may have any dtype, shape and strides, and lie on any device; the digest depends on dtypes, shapes
    and bits alone. Temporaries take at most 64 MiB.

    Args:
        most_groups: most groups into which the rows are divided.
    """
    rows = sum(_row_count(tensor) for tensor in tensors)
    size = max(1, -(-rows // most_groups))
    sums = np.zeros((LANES, max(1, -(-rows // size))), dtype=np.uint64)
    sums += text_sums(";".join(f"{tensor.dtype}{tuple(tensor.shape)}" for tensor in tensors))
    first = 0
    for tensor in tensors:
        for matrix in _matrices(tensor.detach().resolve_conj().resolve_neg()):
            for start in range(0, matrix.shape[0], _BAND):
                band = matrix[start : start + _BAND]
                add_to_groups(sums, sums_of_rows(band), first, size)
                first += band.shape[0]
    return Digest(rows=rows, groups=tuple(map(_hexadecimal, sums.T)))


def text_digest(text: str) -> str:
    """Return the digest of a text without NUL: 16 hexadecimal digits."""
    return _hexadecimal(text_sums(text)[:, 0])


def keys(level: int, start: int, count: int) -> Numbers:
    """Return the keys [LANES, count] of a level's positions from `start`: SplitMix64 with seed 0."""
    streams: Numbers = np.arange(level, level + LANES, dtype=np.uint64)[:, None]
    positions: Numbers = np.arange(start, start + count, dtype=np.uint64)
    z = (streams << np.uint64(_STREAM_BITS)) + positions
    z = z * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def sums_of_rows(x: Tensor, start: int = 0) -> Numbers:
    """Return the level-1 sums, [LANES, rows], of a matrix of any dtype and strides.

    Args:
        start: position of its first column, in words. The sums of a matrix are the sums of its tiles, added.
    """
    per_word = max(1, 4 // x.element_size())
    columns = max(1, _tile(x) // max(1, x.element_size() // 4)) * per_word
    sums = np.zeros((LANES, x.shape[0]), dtype=np.uint64)
    compute = _row_sums_on(x.device)
    for column in range(0, x.shape[1], columns):
        part = x[:, column : column + columns]
        length = -(-part.shape[1] * x.element_size() // 4)
        of = torch.from_numpy(keys(ROW_LEVEL, start + column * x.element_size() // 4, length).view(np.int64))
        of = of.to(x.device)
        height = max(1, _tile(x) // length)
        found = [compute(_words(part[row : row + height]), of) for row in range(0, x.shape[0], height)]
        sums += torch.cat(found, dim=1).cpu().numpy().view(np.uint64)  # together, to wait for a GPU only once
    return sums


def add_to_groups(sums: Numbers, of_rows: Numbers, first: int, size: int) -> None:
    """Add the level-2 sums of some rows to the sums [LANES, groups] of their groups.

    Args:
        of_rows: result of `sums_of_rows` for whole rows, [LANES, rows].
        first: number of the first of these rows.
        size: rows per group.
    """
    rows = of_rows.shape[1]
    words = (of_rows >> np.uint64(32)).T  # [rows, LANES]
    products = keys(GROUP_LEVEL, first * LANES, rows * LANES).reshape(LANES, rows, LANES) * words
    groups = range(first // size, (first + rows - 1) // size + 1)
    starts = [max(0, group * size - first) for group in groups]
    sums[:, groups.start : groups.stop] += np.add.reduceat(products.sum(-1), starts, axis=1)


@lru_cache(maxsize=256)  # a model has few shapes
def text_sums(text: str) -> Numbers:
    """Return what a text without NUL adds to each group, [LANES, 1]."""
    data = text.encode()
    words = np.frombuffer(data + bytes(-len(data) % 4), dtype="<u4").astype(np.uint64)
    sums: Numbers = (keys(SHAPE_LEVEL, 0, len(words)) * words).sum(-1, keepdims=True)
    return sums


def row_sums(words: Tensor, of: Tensor) -> Tensor:
    """Return the sums [LANES, rows] of words [rows, n] times their keys `of` [LANES, n], mod 2^64.

    Words are int32 and lie contiguous; keys and sums are int64.
    """
    if words.is_cpu:
        wide = _room(words.numel()).reshape(words.shape)
        torch.from_numpy(wide).copy_(words)
        # numpy accumulates products as it computes them, which torch does not for int64: half the time
        return torch.from_numpy(np.einsum("lj,ij->li", of.numpy(), wide))
    wide_words = words.long()
    return torch.stack([(wide_words * lane).sum(-1) for lane in of])


def _room(count: int) -> NDArray[np.int64]:
    """Return memory for so many words, which a thread reuses: new memory, handed out page by page, took twice
    the time of the sums."""
    if (room := getattr(_REUSED, "room", None)) is None or len(room) < count:
        room = _REUSED.room = np.empty(count, dtype=np.int64)
    found: NDArray[np.int64] = room[:count]
    return found


def _row_sums_on(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Return `row_sums`, or on CUDA its Triton form if Triton is installed; torch's CUDA build includes
    it."""
    if device.type == "cuda" and find_spec("triton") is not None:
        from mxcheck.kernels.digest_triton import row_sums_by_triton

        return row_sums_by_triton
    return row_sums


def _row_count(x: Tensor) -> int:
    return x.shape[:-1].numel() if x.dim() > 1 else 1


def _matrices(x: Tensor) -> Iterator[Tensor]:
    """Yield x as matrices of its rows, in order; copies no more than a tile."""
    if x.dim() < 2:
        yield x.reshape(1, -1)
    elif x.dim() == 2:
        yield x
    elif x.is_contiguous() or x.numel() <= _tile(x):
        yield x.contiguous().view(_row_count(x), x.shape[-1])
    else:
        for part in x.unbind(0):
            yield from _matrices(part)


def _words(x: Tensor) -> Tensor:
    """Return a matrix as 32-bit words [rows, n], with the bytes of each row padded with zeros."""
    # is_contiguous() ignores the stride of an axis of length 1, but a view does not
    if x.stride() != (x.shape[1], 1):
        x = x.clone(memory_format=torch.contiguous_format)
    octets = x.view(torch.uint8)
    if missing := -octets.shape[1] % 4:
        octets = torch.nn.functional.pad(octets, (0, missing))
    if octets.storage_offset() % 4:  # words can be read only from word-aligned memory
        octets = octets.clone()
    return octets.view(torch.int32)


def _tile(x: Tensor) -> int:
    return _TILE.get(x.device.type, _TILE_ELSEWHERE)


def _hexadecimal(sums: Numbers) -> str:
    return "{:08x}{:08x}".format(*(sums >> np.uint64(32)).tolist())
