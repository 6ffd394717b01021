"""Seeded random numbers that are the same with every version of numpy (whose own streams may change)."""

from __future__ import annotations

import random
from math import prod

import numpy as np
from numpy.typing import NDArray


class Draws:
    """A stream of random integers, fixed by a word: Python's Mersenne Twister, read as bytes."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311  (test data, no secret)

    def integers(self, low: int, high: int, shape: int | tuple[int, ...]) -> NDArray[np.int64]:
        """Integers in [low, high), int64. (The bias of the remainder is below 2^-30.)"""
        raw = self._raw(shape if isinstance(shape, int) else prod(shape))
        return (low + (raw % np.uint64(high - low)).astype(np.int64)).reshape(shape)

    def permutation(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The values in another order."""
        return values[np.argsort(self._raw(values.size), kind="stable")]

    def _raw(self, count: int) -> NDArray[np.uint64]:
        return np.frombuffer(self._random.randbytes(8 * count), "<u8")
