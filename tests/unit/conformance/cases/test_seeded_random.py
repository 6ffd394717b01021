"""Streams of random numbers that may never change: findings count the mismatches that they lead to."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mxcheck.conformance.cases.seeded_random import Draws


def test_golden_values() -> None:
    draws = Draws("mxcheck")
    assert draws.integers(0, 1000, 8).tolist() == [481, 560, 771, 468, 225, 546, 221, 361]
    assert draws.integers(-5, 1 << 32, (2, 2)).tolist() == [
        [1528388214, 1666354556],
        [1506033633, 1188940940],
    ]
    assert draws.permutation(np.arange(8, dtype=np.float32)).tolist() == [1, 2, 6, 5, 0, 7, 4, 3]


@pytest.mark.parametrize("word", ["", "mxcheck", "fp8_e4m3-floor wide 32", "\0\0é" * 40])
def test_the_words_are_those_of_python(word: str) -> None:
    found, python = Draws(word), random.Random(word)
    for count in (1, 3, 1000):
        expected = np.frombuffer(python.randbytes(8 * count), "<u8") % 1000003
        assert found.integers(0, 1000003, count).tolist() == expected.tolist()


def test_a_stream_is_its_word() -> None:
    first, again, other = (Draws(word).integers(0, 1 << 62, 20).tolist() for word in ("a", "a", "b"))
    assert first == again
    assert first != other


@pytest.mark.parametrize("shape", [1, 7, (3,), (2, 3, 4), (2, 0)])
def test_shapes(shape: int | tuple[int, ...]) -> None:
    found = Draws("s").integers(3, 5, shape)
    assert found.shape == ((shape,) if isinstance(shape, int) else shape)
    assert found.dtype == np.int64
    assert set(found.ravel().tolist()) <= {3, 4}


def test_integers_are_spread_over_their_range() -> None:
    found = Draws("range").integers(-2, 2, 4000)
    values, counts = np.unique(found, return_counts=True)
    assert values.tolist() == [-2, -1, 0, 1]
    assert counts.min() > 900


def test_a_permutation_keeps_every_value() -> None:
    values = np.arange(1000, dtype=np.float32)
    found = Draws("p").permutation(values)
    assert sorted(found.tolist()) == values.tolist()
    assert (found != values).sum() > 900
