"""Different numbers among many, by tables: what np.unique finds."""

from __future__ import annotations

import numpy as np
import pytest

from mxcheck.conformance.verify.numbered import among, numbered


@pytest.mark.parametrize("different", [1, 2, 300, 5000])
def test_as_by_sorting(different: int) -> None:
    """For keys of one digit and of several."""
    draws = np.random.default_rng(different)
    for bits in (1, 13, 14, 26, 27, 40):
        keys = draws.choice(draws.integers(0, 1 << bits, different), 20_000)
        found, number = numbered(keys)
        wanted, inverse = np.unique(keys, return_inverse=True)
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(number, inverse)


def test_none_and_zero() -> None:
    """No key has no number; zeros are one key."""
    found, number = numbered(np.zeros(0, np.int64))
    assert (found.size, number.size) == (0, 0)
    found, number = numbered(np.zeros(3, np.int64))
    assert (found.tolist(), number.tolist()) == ([0], [0, 0, 0])
    found, number = among(np.array([7, 2, 7]), 8)
    assert (found.tolist(), number.tolist()) == ([2, 7], [1, 0, 1])
