"""Blocks on the edges of a cast with E8M0 scales: named groups of float32 arrays [blocks, n].

Each group is a function of the cell, the block length n and a seeded generator, and gives the same numbers on
any machine. The groups look for what bit-exact testers of IEEE arithmetic look for (TestFloat, FPgen): every
code, every boundary between two codes with both its fp32 neighbours, boundary exponents, both ends of the
range.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.formats.codes import code_values, finite_codes
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.oracle import scale_exponents

Blocks = NDArray[np.float32]

_INF = 0x7F80_0000
_NON_FINITE = np.array([0x7FC0_0000, 0xFFC0_0000, 0x7F80_0001, _INF, 0xFF80_0000], np.uint32)
# Exponents by which a block of scale 1 is shifted: none, to the lowest scale, near the highest, in between.
_SHIFTS = (0, -127, 100, -60)


@cache
def largest_of_unit_scale(element: ElementFormat, rule: str) -> np.float32:
    """Return the largest amax for which a scale rule gives the scale 1."""

    def exponent(bits: int) -> int:
        return int(scale_exponents(np.array(bits), element, rule))

    above = bisect_left(range(_INF), 1, key=exponent)
    return np.uint32(above - 1).view(np.float32)


def every_code(cell: Cell, length: int, random: Draws) -> Blocks:
    """Give the value of every code that can be reached, at four scales."""
    element = cell.spec().element
    values = np.array([code_values(element)[code] for code in finite_codes(element)], np.float32)
    return _at_scales(values, cell, length, random)


def boundaries(cell: Cell, length: int, random: Draws) -> Blocks:
    """Give the midpoint of every two neighbouring codes, the codes themselves, and both fp32 neighbours of
    each, of either sign, at four scales. Above the largest code: half a step more, where saturation must
    begin, and the next power of two."""
    element = cell.spec().element
    ladder = np.array(sorted({abs(code_values(element)[code]) for code in finite_codes(element)}))
    middle = (ladder[:-1] + ladder[1:]) / 2
    above = [ladder[-1] + (ladder[-1] - ladder[-2]) / 2, 2.0 ** (element.emax + 1)]
    points = np.concatenate([middle, ladder[1:], above]).astype(np.float32)  # exact: one bit more than a code
    near = np.concatenate(
        [np.nextafter(points, np.float32(0)), points, np.nextafter(points, np.float32(4096 * 32))]
    )
    return _at_scales(np.concatenate([near, -near]), cell, length, random)


def bfloat16_together(cell: Cell, length: int, random: Draws) -> Blocks:
    """Give all 65,536 bf16 values: neighbours in one block, and the finite ones again in a seeded shuffle."""
    del cell
    values = _bfloat16()
    shuffled = random.permutation(values[np.isfinite(values)])
    return _in_blocks(np.concatenate([values, shuffled]), length)


def bfloat16_alone(cell: Cell, length: int, random: Draws) -> Blocks:
    """Give each of the 65,536 bf16 values among zeros, in each position in turn."""
    del cell, random
    return _alone(_bfloat16(), length)


def bfloat16_alone_in_part(cell: Cell, length: int, random: Draws) -> Blocks:
    """Give `bfloat16_alone` for a seeded sample of 2,048 values."""
    del cell
    return _alone(random.permutation(_bfloat16())[:2048], length)


def zero_and_subnormal(cell: Cell, length: int, random: Draws) -> Blocks:
    """Give blocks of zeros of either sign, of fp32 subnormals, and of both with a small normal number."""
    del cell
    zeros = np.zeros((16, length), np.int64)
    subnormal = random.integers(0, 1 << 23, (16, length)) >> random.integers(0, 23, (16, 1))
    mixed = np.where(np.arange(length) % 3 == 0, 1 << 23, subnormal)
    signed = _with_random_signs(np.concatenate([zeros, subnormal, mixed]), random)
    return np.concatenate(
        [np.full((1, length), 0.0, np.float32), np.full((1, length), -0.0, np.float32), signed]
    )


def not_finite(cell: Cell, length: int, random: Draws) -> Blocks:
    """Give NaN and Inf of either sign: each in every position among normal numbers and among zeros, both in
    one block, and blocks of nothing else."""
    del cell
    normal = _with_random_signs(random.integers(0x3E00_0000, 0x4080_0000, length), random).view(np.uint32)
    bits = np.stack([normal, np.zeros(length, np.uint32)])
    bits = np.tile(bits[:, None, None], (1, _NON_FINITE.size, length, 1))
    for position in range(length):
        bits[:, :, position, position] = _NON_FINITE
    both = np.tile(normal, (length, 1))
    both[np.arange(length), np.arange(length)] = _INF
    both[np.arange(length), np.arange(1, length + 1) % length] = 0x7FC0_0000
    only = np.repeat(_NON_FINITE, length).reshape(-1, length)
    blocks: Blocks = np.concatenate([bits.reshape(-1, length), both, only]).view(np.float32)
    return blocks


def infinite(cell: Cell, length: int, random: Draws) -> Blocks:
    """Give Inf of either sign in every position, among normal numbers; for casts that refuse NaN."""
    del cell
    normal = random.integers(0x3E00_0000, 0x4080_0000, length)
    bits = np.tile(normal, (2, length, 1))
    bits[:, np.arange(length), np.arange(length)] = np.array([[_INF], [0xFF80_0000]])
    return np.asarray(bits.reshape(-1, length).astype(np.uint32).view(np.float32))


def amax_boundaries(cell: Cell, length: int, random: Draws) -> Blocks:
    """Give amax at every fp32 power of two, at that times the largest code's significand and times the one
    from which `even` rounds up, and one fp32 value to each side; the other elements lie below. The lowest and
    highest powers reach both clamps of the scale in every format."""
    amax = _amax_on_boundaries(cell.spec().element)
    # Smaller bits are smaller magnitudes; subtracting at most 2^26 keeps many in amax's own binade.
    rest = amax[:, None] - np.minimum(random.integers(0, 1 << 26, (amax.size, length)), amax[:, None])
    rest[np.arange(amax.size), random.integers(0, length, amax.size)] = amax
    return _with_random_signs(rest, random)


@cache
def _amax_on_boundaries(element: ElementFormat) -> NDArray[np.int64]:
    """Return the bits of these amax, in order."""
    exponents = np.arange(-149, 128)
    significands = (1.0, element.max_value / 2.0**element.emax, 2 - 2.0 ** -(element.mantissa_bits + 1))
    points = np.concatenate([np.ldexp(np.float64(one), exponents) for one in significands])
    bits = np.unique(points.astype(np.float32).view(np.uint32)).astype(np.int64)
    return np.unique(np.concatenate([bits - 1, bits, bits + 1, [0x7F7F_FFFF]]).clip(1, 0x7F7F_FFFF))


def wide(cell: Cell, length: int, random: Draws) -> Blocks:
    """Give random bit patterns: exponents within a block's reach of a random one; plain, sparse and dense
    significands."""
    del cell
    return _wide(512, length, random)


def large(cell: Cell, length: int, random: Draws) -> Blocks:
    """Give `wide` in one tensor of more than 2^18 elements, which a kernel splits into pieces."""
    del cell
    return _wide((1 << 18) // length + 9, length, random)


def constant(cell: Cell, length: int, random: Draws) -> Blocks:
    """Give blocks of one magnitude, or of two: all alike, of either sign, in turn, beside zeros, beside
    halves."""
    exponents = random.integers(-24, 12, 48)
    significands = 1 + random.integers(0, 1 << 6, 48) / 64
    values = np.ldexp(significands, exponents)
    values = np.concatenate([values, np.ldexp(cell.spec().element.max_value, np.arange(-6, 6)), [1.0]])
    turn = np.where(np.arange(length) % 2 == 0, 1.0, -1.0)
    patterns = [np.ones(length), -np.ones(length), turn, (turn + 1) / 2, (3 + turn) / 4]
    made: Blocks = np.concatenate([values[:, None] * pattern for pattern in patterns]).astype(np.float32)
    return made


def wide_at_length(cell: Cell, length: int, random: Draws) -> Blocks:
    """Give sixteen times as many blocks as `wide`."""
    del cell
    return _wide(8192, length, random)


_QUICK = (
    every_code,
    boundaries,
    bfloat16_together,
    bfloat16_alone_in_part,
    zero_and_subnormal,
    not_finite,
    infinite,
    constant,
    amax_boundaries,
    wide,
    large,
)
#: level -> name -> group
GROUPS: Mapping[str, Mapping[str, Callable[[Cell, int, Draws], Blocks]]] = MappingProxyType(
    {
        "quick": {make.__name__: make for make in _QUICK},
        "full": {make.__name__: make for make in (*_QUICK, bfloat16_alone, wide_at_length)},
    }
)


@cache
def _bfloat16() -> NDArray[np.float32]:
    return (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)


def _alone(values: NDArray[np.float32], length: int) -> Blocks:
    blocks = np.zeros((values.size, length), np.float32)
    blocks[np.arange(values.size), np.arange(values.size) % length] = values
    return blocks


def _in_blocks(values: NDArray[np.float32], length: int) -> Blocks:
    padded = np.zeros(-(-values.size // length) * length, np.float32)
    padded[: values.size] = values
    return padded.reshape(-1, length)


def _at_scales(values: NDArray[np.float32], cell: Cell, length: int, random: Draws) -> Blocks:
    """Put values in blocks led by the largest amax of scale 1, in every position; shift by powers of two as
    far as fp32 can hold them."""
    largest = largest_of_unit_scale(cell.spec().element, cell.scale_rule)
    values = values[np.abs(values) <= largest]
    room = max(length - 1, 1)
    rows = _in_blocks(values, room)
    position = random.integers(0, length, rows.shape[0])
    blocks = np.full((rows.shape[0], length), largest, np.float32)
    if length > 1:
        blocks[np.arange(length) != position[:, None]] = rows.ravel()
    with np.errstate(over="ignore", under="ignore"):
        moved = np.concatenate([np.ldexp(blocks, shift) for shift in _SHIFTS])
    return np.asarray(moved[np.isfinite(moved).all(-1)])


def _wide(count: int, length: int, random: Draws) -> Blocks:
    top = random.integers(1, 255, (count, 1))
    exponent = (top - random.integers(0, 12, (count, length)) * random.integers(0, 3, (count, 1))).clip(0)
    plain = random.integers(0, 1 << 23, (count, length))
    one_bit = np.int64(1) << random.integers(0, 23, (count, length))
    fraction = np.choose(
        random.integers(0, 4, (count, length)), [plain, one_bit, (1 << 23) - one_bit, plain & 0x7F_0000]
    )
    return _with_random_signs((exponent << 23) | fraction, random)


def _with_random_signs(magnitudes: NDArray[np.int64], random: Draws) -> Blocks:
    signs = random.integers(0, 2, magnitudes.shape) << 31
    return np.asarray((magnitudes | signs).astype(np.uint32).view(np.float32))
