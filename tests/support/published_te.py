"""Transformer Engine's MXFP8 cast, in numpy, from its public description alone.

Written before its author had read mxcheck's oracle, from these facts of the public source
(``transformer_engine/common``: ``util/ptx.cuh``, ``utils.cuh`` and ``cast/mxfp8``, releases 2.0 to 2.18):

- A block's amax, in fp32, is multiplied by 1/max of the element format, which is a constant in fp32.
- The product becomes a biased exponent. It is rounded up: a normal number with any mantissa bit goes to the
  next exponent; a subnormal number above 2^-127 goes to code 1; all others of them keep code 0.
- The elements are multiplied by the reciprocal of that scale in fp32 and converted to the element format, to
  nearest with ties to even, and beyond the maximum to the maximum.
- The reciprocal of code 0 is 1 up to release 2.12; since 2.13 it is 2^127, which is right.

NaN and Inf are left out: what they give depends on the release and on the GPU.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

ELEMENTS = {"fp8_e4m3": (ml_dtypes.float8_e4m3fn, 448.0), "fp8_e5m2": (ml_dtypes.float8_e5m2, 57344.0)}


def scale_codes(amax: NDArray[np.float32], largest: float) -> NDArray[np.uint8]:
    """Return the E8M0 codes of finite `amax`, any shape, for elements whose largest value is `largest`."""
    one_over_max = np.float32(1.0 / largest)
    bits = (amax.astype(np.float32, copy=False) * one_over_max).view(np.uint32)
    exponent, fraction = bits >> np.uint32(23), bits & np.uint32((1 << 23) - 1)
    half = np.uint32(1 << 22)  # the bits of 2^-127
    up = np.where(exponent == 0, fraction > half, (fraction != 0) & (exponent < 254))
    return (exponent + up).astype(np.uint8)


def reciprocals(codes: NDArray[np.uint8], *, release: tuple[int, int]) -> NDArray[np.float32]:
    """Return what a release multiplies the elements by, for scale codes below 254."""
    assert codes.max(initial=0) < 254
    factors = np.ldexp(np.float32(1), 127 - codes.astype(np.int32)).astype(np.float32)
    if release < (2, 13):
        factors[codes == 0] = 1
    return factors


def cast(
    blocks: NDArray[np.float32], element: str, *, release: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cast finite blocks, one a row, and return (element codes, scale codes)."""
    dtype, largest = ELEMENTS[element]
    scales = scale_codes(np.abs(blocks).max(axis=1), largest)
    scaled = blocks * reciprocals(scales, release=release)[:, None]
    clamped = np.clip(scaled, np.float32(-largest), np.float32(largest))
    return clamped.astype(dtype).view(np.uint8), scales
