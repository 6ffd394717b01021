"""What the kernel suite feeds to a cast: float32 arrays [blocks, 32], made to sit on the edges.

Imported inside the tests only: collecting the suite loads no numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from mxcheck.formats.codes import code_values, finite_codes
from mxcheck.formats.elements import ElementFormat

Blocks = NDArray[np.float32]
BLOCK = 32


def every_code(element: ElementFormat) -> Blocks:
    """The value of every code that an encoder may produce, in blocks whose scale is 1."""
    values = code_values(element)
    return _with_unit_scale(np.array([values[code] for code in finite_codes(element)], np.float32), element)


def midpoints(element: ElementFormat) -> Blocks:
    """The midpoint of every two neighbouring codes and both its fp32 neighbours, of either sign.

    Beyond the largest code there is one more: half a step above it, where saturation has to begin, and the
    largest fp32 value below the next binade, the farthest that the `floor` scale lets an element go. All
    of it with scale 1, and again with the lowest scale, where the scaling itself is the hard part.
    """
    values = code_values(element)
    ladder = np.array(sorted({abs(values[code]) for code in finite_codes(element)}))
    middle = (ladder[:-1] + ladder[1:]) / 2
    above = [ladder[-1] + (ladder[-1] - ladder[-2]) / 2, 2.0 ** (element.emax + 1)]
    points = np.concatenate([middle, above]).astype(np.float32)  # each has one bit more than a code: exact
    near = np.concatenate(
        [np.nextafter(points, np.float32(0)), points, np.nextafter(points, np.float32(4096))]
    )
    near = np.concatenate([near, -near])
    blocks = _with_unit_scale(near[np.abs(near) < 2.0 ** (element.emax + 1)], element)
    return np.concatenate([blocks, np.ldexp(blocks, -127)])


def bfloat16_together(element: ElementFormat) -> Blocks:
    """All 65,536 bf16 values: neighbours in one block, and the finite ones again in a seeded shuffle."""
    del element
    values = _bfloat16()
    finite = values[np.isfinite(values)]
    shuffled = np.random.default_rng(0).permutation(finite).astype(np.float32)
    return np.concatenate([values, shuffled]).reshape(-1, BLOCK)


def bfloat16_alone(element: ElementFormat) -> Blocks:
    """Each of the 65,536 bf16 values with 31 zeros, in every position in turn."""
    del element
    values = _bfloat16()
    blocks = np.zeros((values.size, BLOCK), np.float32)
    blocks[np.arange(values.size), np.arange(values.size) % BLOCK] = values
    return blocks


def zero_and_subnormal(element: ElementFormat) -> Blocks:
    """Blocks of zeros of either sign, of fp32 subnormals, and of both with a small normal number."""
    del element
    random = np.random.default_rng(1)
    signs = random.integers(0, 2, (16, BLOCK), np.uint32) << 31
    subnormal = random.integers(0, 1 << 23, (16, BLOCK), np.uint32) >> random.integers(
        0, 23, (16, 1), np.uint32
    )
    mixed = np.where(np.arange(BLOCK) % 3 == 0, np.uint32(1 << 23), subnormal)
    zeros = np.zeros((2, BLOCK), np.uint32)
    zeros[1] = 1 << 31
    bits = np.concatenate([zeros, signs, subnormal | signs, mixed | signs])
    return bits.view(np.float32)


def not_finite(element: ElementFormat) -> Blocks:
    """NaN and Inf of either sign, each in every position, among normal numbers and among zeros."""
    del element
    special = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0x7F800000, 0xFF800000], np.uint32)
    normal = np.random.default_rng(2).standard_normal(BLOCK).astype(np.float32).view(np.uint32)
    bits = np.stack([normal, np.zeros(BLOCK, np.uint32)])
    bits = np.tile(bits[:, None, None], (1, special.size, BLOCK, 1))
    for position in range(BLOCK):
        bits[:, :, position, position] = special
    return bits.reshape(-1, BLOCK).view(np.float32)


def amax_at_powers_of_two(element: ElementFormat) -> Blocks:
    """amax at every power of two that fp32 has, and one ulp to each side; the rest lie below it.

    The lowest and the highest powers reach both clamps of the scale, whatever the format.
    """
    del element
    powers = np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32).view(np.uint32)
    amax = np.concatenate([powers - 1, powers, powers + 1, [np.uint32(0x7F7FFFFF)]])
    random = np.random.default_rng(3)
    # Bits below amax's are magnitudes below amax; dropping low exponents keeps many in its own binade.
    rest = amax[:, None] - np.minimum(random.integers(0, 1 << 26, (amax.size, BLOCK)), amax[:, None])
    rest[np.arange(amax.size), random.integers(0, BLOCK, amax.size)] = amax
    signs = random.integers(0, 2, rest.shape, np.uint32) << 31
    blocks: Blocks = (rest.astype(np.uint32) | signs).view(np.float32)
    return blocks


INPUTS: Mapping[str, Callable[[ElementFormat], Blocks]] = MappingProxyType(
    {
        make.__name__: make
        for make in (
            every_code,
            midpoints,
            bfloat16_together,
            bfloat16_alone,
            zero_and_subnormal,
            not_finite,
            amax_at_powers_of_two,
        )
    }
)


def _bfloat16() -> NDArray[np.float32]:
    return (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)


def _with_unit_scale(values: NDArray[np.float32], element: ElementFormat) -> Blocks:
    """Values below 2^(emax + 1), 31 to a block, each block led by the largest code: scale 1 by `floor`."""
    padded = np.zeros(-(-values.size // (BLOCK - 1)) * (BLOCK - 1), np.float32)
    padded[: values.size] = values
    rows = padded.reshape(-1, BLOCK - 1)
    lead = np.full((rows.shape[0], 1), element.max_value, np.float32)
    return np.concatenate([lead, rows], axis=1)
