"""Tensors on the edges of formats whose scale is no power of two: NVFP4, fp8 by rows and by tensors.

A scale depends on a whole row or tensor, so an example is a tensor, and edges are made by choosing the scales
first: under an fp32 scale that is a power of two, every threshold is a representable input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.formats.blocks import E4M3
from mxcheck.formats.codes import code_values, finite_codes
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.real_scales import NVFP4_BLOCK_SCALE, fp32_quotient

Tensors = Sequence[NDArray[np.float32]]
_ROW = 64
_POWERS = (0, -20, 30)


def element_boundaries(cell: Cell, _: Draws) -> Tensors:
    """Give every code and every midpoint of the element, with both fp32 neighbours, in rows whose fp32 scale
    is a power of two; for NVFP4 under every block scale."""
    element = cell.spec().element
    points = _boundaries(element)
    found = []
    for power in _POWERS:
        if cell.spec().block.scale != E4M3:
            rows = _in_rows(points, _ROW - 1)
            found.append(np.concatenate([np.full((len(rows), 1), element.max_value), rows], 1) * 2.0**power)
            continue
        # amax = 448 * 6 gives the tensor scale 1; a block led by 6 * s has the block scale s.
        scales = _magnitudes(NVFP4_BLOCK_SCALE)[1:]
        parts = _in_rows(points, 15)
        led = np.concatenate([np.full((len(parts), 1), element.max_value), parts], 1)
        found.append((scales[:, None, None] * led).reshape(-1, 16) * 2.0**power)
    return [x.astype(np.float32) for x in found]


def element_boundaries_of_any_scale(cell: Cell, random: Draws) -> Tensors:
    """Give midpoints of two codes times a scale that is no power of two, in fp32, and both fp32 neighbours.
    Hardly one is a tie, but rounding the quotient before the element makes it one."""
    element, nvfp4 = cell.spec().element, cell.spec().block.scale == E4M3
    ladder = _magnitudes(element)
    middle = (ladder[:-1] + ladder[1:]) / 2
    block_scales = _magnitudes(NVFP4_BLOCK_SCALE)
    length = 16 if nvfp4 else _ROW
    found = []
    for amax in np.abs(_random(random, (24,), spread=12)).astype(np.float64):
        largest = NVFP4_BLOCK_SCALE.max_value * element.max_value if nvfp4 else element.max_value
        scales = np.array([fp32_quotient(float(amax), Fraction(largest))])
        if nvfp4:  # under eight of the normal block scales
            scales = scales * block_scales[random.integers(8, block_scales.size, 8)]
        rows = [np.full((1, length), amax)]
        for scale in scales:
            points = (scale * middle).astype(np.float32)
            above = np.nextafter(points, np.float32(np.inf))
            near = np.concatenate([np.nextafter(points, np.float32(0)), points, above])
            parts = _in_rows(near, length - 1)
            rows.append(np.concatenate([np.full((len(parts), 1), scale * element.max_value), parts], 1))
        found.append(np.concatenate(rows).astype(np.float32))
    return found


def scale_boundaries(cell: Cell, random: Draws) -> Tensors:
    """Give amax where the scale is hard: for NVFP4 every midpoint of two E4M3 block scales with both fp32
    neighbours; else random significands for which fp32(amax / max) rounds up, down and to even."""
    element = cell.spec().element
    if cell.spec().block.scale != E4M3:
        rows = _random(random, (256, _ROW), spread=3)
        return [rows] if not cell.spec().block.whole_tensor else list(rows[:64].reshape(64, 1, _ROW))
    lead = np.abs(_boundaries(NVFP4_BLOCK_SCALE)).astype(np.float64) * element.max_value
    blocks = _led_by(lead, random)
    top = np.zeros((1, 16))
    top[0, 5] = NVFP4_BLOCK_SCALE.max_value * element.max_value
    x = np.concatenate([top, blocks])
    return [(x * 2.0**power).astype(np.float32) for power in _POWERS]


def scale_boundaries_of_any_tensor(cell: Cell, random: Draws) -> Tensors:
    """Give, for NVFP4 alone, block amax at the midpoints of two block scales, under tensor scales that are no
    power of two. With both fp32 neighbours; and in bf16 those whose quotient is a midpoint but for the
    rounding of the tensor scale. Rounding the quotient before the block scale gives the other neighbour."""
    if cell.spec().block.scale != E4M3:
        return []
    largest = NVFP4_BLOCK_SCALE.max_value * cell.spec().element.max_value
    ladder = _magnitudes(NVFP4_BLOCK_SCALE)
    middle = (ladder[:-1] + ladder[1:]) / 2
    tensors = []
    for amax in np.abs(_random(random, (24,), spread=12)).astype(np.float64):
        points = (
            fp32_quotient(float(amax), Fraction(largest)) * cell.spec().element.max_value * middle
        ).astype(np.float32)
        above = np.nextafter(points, np.float32(np.inf))
        tensors.append((amax, np.concatenate([np.nextafter(points, np.float32(0)), points, above])))
    # amax 7t and 448 = 7 * 64: a block amax of t * (odd / 16) * 2^k has 8 bits, as has 7t.
    for t in range(1, 16, 2):
        tensors.append(
            (7.0 * t, (7.0 * t / largest * cell.spec().element.max_value * middle).astype(np.float32))
        )
    return [
        np.concatenate([np.full((1, 16), amax), _led_by(points, random)]).astype(np.float32)
        for amax, points in tensors
    ]


def _led_by(amax: NDArray[np.floating[Any]], random: Draws) -> NDArray[np.float64]:
    """Return blocks of 16 random numbers, each with its amax somewhere."""
    lead = amax.astype(np.float64)
    blocks = _random(random, (lead.size, 16), spread=2).astype(np.float64) % 1.0 * lead[:, None]
    blocks[np.arange(lead.size), random.integers(0, 16, lead.size)] = lead
    return blocks


def any_scale(cell: Cell, random: Draws) -> Tensors:
    """Give random tensors of any fp32 magnitude: the scale itself is rounded, down to subnormals."""
    del cell
    tensors = [
        np.ldexp(_random(random, (4, _ROW), spread=spread).astype(np.float64), power)
        for power in range(-146, 122, 4)
        for spread in (2, 12)
    ]
    with np.errstate(under="ignore", over="ignore"):
        return [x.astype(np.float32) for x in tensors if np.abs(x).max() < 3e38]


def zero_and_tiny(cell: Cell, random: Draws) -> Tensors:
    """Give zeros of either sign, a zero block or row among others, and tensors whose scale underflows
    fp32."""
    del cell
    zeros = np.zeros((2, _ROW), np.float32)
    mixed = _random(random, (4, _ROW), spread=3)
    mixed[1], mixed[2, :32] = 0, -0.0
    tiny = random.integers(0, 1 << 14, (4, _ROW)).astype(np.uint32).view(np.float32)
    smallest = np.zeros((1, _ROW), np.float32)
    smallest[0, 7] = np.float32(2.0**-149)
    return [zeros, -zeros, mixed, tiny, -tiny, smallest]


def not_finite(cell: Cell, random: Draws) -> Tensors:
    """Give one NaN or Inf of either sign in a tensor, in a few positions, and among zeros."""
    del cell
    found = []
    for special in (np.nan, -np.nan, np.inf, -np.inf):
        for position in (0, 17, _ROW - 1):
            x = _random(random, (3, _ROW), spread=3)
            x[1, position] = special
            alone = np.zeros((2, _ROW), np.float32)
            alone[0, position] = special
            found += [x, alone]
    return found


def plain(cell: Cell, random: Draws) -> Tensors:
    """Give random numbers over a dozen binades, some of them zeros of either sign."""
    del cell
    x = _random(random, (64, 256), spread=12)
    return [np.where(random.integers(0, 16, x.shape) == 0, np.copysign(np.float32(0), x), x)]


def large(cell: Cell, random: Draws) -> Tensors:
    """Give `plain` in one tensor of more than 2^18 elements, which a kernel splits into pieces."""
    del cell
    return [_random(random, (1030, 256), spread=12)]


def plain_at_length(cell: Cell, random: Draws) -> Tensors:
    """Give sixty-four times as many as `plain`."""
    return [x for _ in range(64) for x in plain(cell, random)]


def constant(cell: Cell, random: Draws) -> Tensors:
    """Give tensors of one magnitude, of either sign."""
    del cell
    signs = np.where(random.integers(0, 2, (4, _ROW)) == 0, np.float32(-1), np.float32(1))
    return [np.float32(value) * signs for value in (1.0, 0.7, 2.0**-20, 448.0, 3.0e4)]


_QUICK = (
    plain,
    element_boundaries,
    element_boundaries_of_any_scale,
    scale_boundaries,
    scale_boundaries_of_any_tensor,
    any_scale,
    zero_and_tiny,
    not_finite,
    large,
    constant,
)
#: level -> name -> group
TENSOR_GROUPS: Mapping[str, Mapping[str, Callable[[Cell, Draws], Tensors]]] = MappingProxyType(
    {
        "quick": {make.__name__: make for make in _QUICK},
        "full": {make.__name__: make for make in (*_QUICK, plain_at_length)},
    }
)


def _magnitudes(element: ElementFormat) -> NDArray[np.float64]:
    return np.array(sorted({abs(code_values(element)[code]) for code in finite_codes(element)}))


def _boundaries(element: ElementFormat) -> NDArray[np.float32]:
    """Return codes and midpoints up to the largest code, with both fp32 neighbours of each, of either
    sign."""
    ladder = _magnitudes(element)
    points = np.concatenate([(ladder[:-1] + ladder[1:]) / 2, ladder[1:]]).astype(np.float32)
    near = np.concatenate(
        [np.nextafter(points, np.float32(0)), points, np.nextafter(points, np.float32(2**17))]
    )
    near = near[near <= element.max_value]
    return np.concatenate([near, -near])


def _in_rows(values: NDArray[np.float32], length: int) -> NDArray[np.float64]:
    padded = np.zeros(-(-values.size // length) * length)
    padded[: values.size] = values
    return padded.reshape(-1, length)


def _random(random: Draws, shape: tuple[int, ...], *, spread: int) -> NDArray[np.float32]:
    """fp32 numbers of either sign, of random significands, over `spread` binades below 2."""
    exponent = 127 - random.integers(0, spread, shape)
    bits = (random.integers(0, 2, shape) << 31) | (exponent << 23) | random.integers(0, 1 << 23, shape)
    return bits.astype(np.uint32).view(np.float32)
