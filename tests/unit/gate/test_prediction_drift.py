"""Entropy and top-1 agreement against the accepted ones."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mxcheck.gate.drift import entropy_drift, top1_held

#: KL 0.001 and 250,000,000 tokens a sequence: sqrt(2 KL / tokens) is 2.8284e-6. The largest change of an
#: entropy by quantization is 0.003, downwards.
ACCEPTED: dict[str, Any] = {
    "then": [2.001, 2.098, 1.9, 2.051],
    "reference": [2.0, 2.101, 1.9, 2.05],
    "kl": 0.001,
    "scored_tokens": 1_000_000_000,
}


def moved_by(*changes: float) -> list[float]:
    return [value + change for value, change in zip(ACCEPTED["then"], changes, strict=True)]


@pytest.mark.parametrize("sign", [1, -1], ids=["up", "down"])
@pytest.mark.parametrize(("change", "within"), [(9e-10, True), (1.1e-9, False)])
def test_entropies_on_the_same_arithmetic(change: float, within: bool, sign: int) -> None:
    found = entropy_drift(
        moved_by(0, sign * change, 0, 0), **ACCEPTED, same_arithmetic=True, noise=(1.0, 1.0, 1.0)
    )
    assert (found.median_bound, found.rms_bound, found.max_bound) == (1e-9, 1e-9, 1e-9)
    assert found.within is within


def test_entropies_elsewhere_have_shares_of_what_quantization_does() -> None:
    found = entropy_drift(moved_by(0, 0, 0, 0), **ACCEPTED, same_arithmetic=False)
    most = 2e-6 + 2 * 0.003
    assert (found.median_bound, found.rms_bound, found.max_bound) == pytest.approx(
        (2e-6 + 0.05 * 2.8284e-6 * 8 / 3, most / 2, most), rel=1e-4
    )


def test_entropies_elsewhere_have_four_times_their_noise() -> None:
    found = entropy_drift(moved_by(0, 0, 0, 0), **ACCEPTED, same_arithmetic=False, noise=(3e-4, 5e-3, 4e-3))
    bounds = (found.median_bound, found.rms_bound, found.max_bound)
    assert bounds == pytest.approx((4 * 3e-4 * 8 / 3 + 2e-6, 2.0002e-2, 1.6002e-2), rel=1e-12)


@pytest.mark.parametrize("sign", [1, -1], ids=["up", "down"])
@pytest.mark.parametrize(
    ("changes", "within"),
    [
        ((2.3e-6, 2.3e-6, 2.3e-6, 2.3e-6), True),
        ((2.5e-6, 2.5e-6, 2.5e-6, 2.5e-6), False),
        ((6e-3, 0, 0, 0), True),
        ((6.1e-3, 0, 0, 0), False),
    ],
)
def test_entropies_elsewhere(changes: tuple[float, ...], within: bool, sign: int) -> None:
    now = moved_by(*(sign * change for change in changes))
    assert entropy_drift(now, **ACCEPTED, same_arithmetic=False).within is within


def test_of_one_sequence_the_median_is_the_maximum() -> None:
    one = {"then": [2.0], "reference": [1.997], "kl": 0.001, "scored_tokens": 10**9}
    found = entropy_drift([2.0], **one, same_arithmetic=False)
    assert found.median_bound == found.rms_bound == found.max_bound


@pytest.mark.parametrize("same", [True, False], ids=["here", "elsewhere"])
def test_an_entropy_that_is_no_number_is_not_within(same: bool) -> None:
    assert not entropy_drift(moved_by(0, math.nan, 0, 0), **ACCEPTED, same_arithmetic=same).within


def test_other_sequences_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot pair 3 sequences with 4"):
        entropy_drift([2.0] * 3, **ACCEPTED, same_arithmetic=True)


@pytest.mark.parametrize("sign", [1, -1], ids=["up", "down"])
@pytest.mark.parametrize(
    ("tokens", "same", "held"),
    [
        (0, True, True),
        (1, True, False),
        # 100 of 10,000 disagree: 1 + 3 * 10 tokens
        (31, False, True),
        (32, False, False),
    ],
)
def test_top1(tokens: int, same: bool, held: bool, sign: int) -> None:
    now = 0.99 + sign * (tokens - 1e-6) / 10_000 if tokens else 0.99
    found, message = top1_held(now, 0.99, same_arithmetic=same, scored_tokens=10_000)
    assert found is held
    assert message.startswith(f"top-1 agreement {now:.6f}, accepted 0.990000: moved by ")


def test_top1_of_a_case_that_is_its_reference_may_move_by_one_token() -> None:
    assert top1_held(1 - 1 / 100, 1.0, same_arithmetic=False, scored_tokens=100)[0]
    assert not top1_held(1 - 2 / 100, 1.0, same_arithmetic=False, scored_tokens=100)[0]


@pytest.mark.parametrize("same", [True, False], ids=["here", "elsewhere"])
def test_a_top1_that_is_no_number_is_not_held(same: bool) -> None:
    assert not top1_held(math.nan, 0.99, same_arithmetic=same, scored_tokens=100)[0]
