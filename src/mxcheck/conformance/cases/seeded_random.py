"""Seeded random numbers that are the same with every version of numpy (whose newer streams may change)."""

from __future__ import annotations

from hashlib import sha512
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray


class _NoSeed(np.random.SeedSequence):
    """Let a generator be made in a fraction of the time that numpy's own seed of it takes: numpy reads the
    words one by one, and those of bytes soonest."""

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        del dtype
        return bytes(n_words)


_NO_SEED = _NoSeed()


class Draws:
    """A stream of random integers, fixed by a word: the words of Python's `random.Random(seed)`.

    Both are the Mersenne Twister, and numpy has frozen `RandomState` (NEP 19). It fills arrays; Python turns
    its words into one long integer and back, which takes three times as long.
    """

    def __init__(self, seed: str) -> None:
        self._words = np.random.RandomState(np.random.MT19937(_NO_SEED))
        self._words.seed(_key(seed))

    def integers(self, low: int, high: int, shape: int | tuple[int, ...]) -> NDArray[np.int64]:
        """Integers in [low, high), int64. (The bias of the remainder is below 2^-30.)"""
        raw = self._raw(shape if isinstance(shape, int) else prod(shape))
        count = high - low
        if count & (count - 1):
            whole = raw // np.uint64(count)
            whole *= np.uint64(count)
            raw -= whole  # faster in numpy than %
        else:
            raw &= np.uint64(count - 1)
        found: NDArray[np.int64] = raw.view(np.int64).reshape(shape)
        if low:
            found += low
        return found

    def permutation(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The values in another order."""
        return values[np.argsort(self._raw(values.size), kind="stable")]

    def _raw(self, count: int) -> NDArray[np.uint64]:
        return self._words.randint(0, 1 << 32, 2 * count, np.uint32).astype("<u4", copy=False).view("<u8")


def _key(seed: str) -> NDArray[np.uint32]:
    """Return the key that `random.Random(seed)` starts from: the word and its digest as one integer, in words
    of 32 bits, the lowest first."""
    word = seed.encode()
    key = (word + sha512(word).digest()).lstrip(b"\0")[::-1]
    return np.frombuffer(key + bytes(-len(key) % 4), "<u4").astype(np.uint32)
