"""Paired statistics against values worked out by hand."""

from __future__ import annotations

import math

import pytest

from mxcheck.gate.statistics import (
    UPPER_95,
    differences,
    exponential,
    largest,
    mean_and_error,
    median_abs,
    rms,
)


def test_upper_95_is_the_one_sided_quantile() -> None:
    assert pytest.approx(1.6448536269514722, rel=1e-12) == UPPER_95


def test_differences_are_after_minus_before() -> None:
    assert differences([1.0, 2.0, 5.0], [0.5, 4.0, 5.0]) == [0.5, -2.0, 0.0]


@pytest.mark.parametrize(
    ("after", "before"), [pytest.param([1.0], [1.0, 2.0], id="less"), pytest.param([1.0], [], id="more")]
)
def test_unequal_lengths_are_refused(after: list[float], before: list[float]) -> None:
    with pytest.raises(ValueError, match=rf"cannot pair {len(after)} sequences with {len(before)}"):
        differences(after, before)


@pytest.mark.parametrize(
    ("values", "mean", "error"),
    [
        # squares about the mean: 2.25 + 0.25 + 0.25 + 2.25 = 5; sqrt(5 / 3) / sqrt(4)
        pytest.param([1.0, 2.0, 3.0, 4.0], 2.5, math.sqrt(5 / 12), id="four"),
        # squares about the mean sum to 2: sqrt(2 / 1) / sqrt(2)
        pytest.param([-1.0, 1.0], 0.0, 1.0, id="two"),
        pytest.param([3.0, 3.0, 3.0], 3.0, 0.0, id="constant"),
        pytest.param([0.25], 0.25, math.inf, id="single"),
    ],
)
def test_mean_and_error(values: list[float], mean: float, error: float) -> None:
    assert mean_and_error(values) == pytest.approx((mean, error), rel=1e-15)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=["nan", "inf", "minus-inf"])
@pytest.mark.parametrize("others", [[], [1.0, 2.0]], ids=["alone", "among-others"])
def test_what_is_no_number_has_no_mean_and_no_error(value: float, others: list[float]) -> None:
    mean, error = mean_and_error([*others, value])
    assert math.isnan(mean)
    assert math.isnan(error)


@pytest.mark.parametrize(
    ("value", "result"),
    [
        pytest.param(1.0, math.e, id="e"),
        pytest.param(-1000.0, 0.0, id="underflow"),
        pytest.param(709.0, math.exp(709.0), id="largest-whole-number"),
        pytest.param(710.0, math.inf, id="overflow"),
        pytest.param(math.inf, math.inf, id="infinity"),
    ],
)
def test_exponential(value: float, result: float) -> None:
    assert exponential(value) == result


def test_exponential_of_what_is_no_number_is_none() -> None:
    assert math.isnan(exponential(math.nan))


@pytest.mark.parametrize(
    ("values", "middle", "root", "most"),
    [
        pytest.param([3.0, -4.0], 3.5, math.sqrt(12.5), 4.0, id="negative-is-largest"),
        pytest.param([-1.0, 1.0, -1.0, 1.0], 1.0, 1.0, 1.0, id="cancelling"),
        pytest.param([0.0, 0.0], 0.0, 0.0, 0.0, id="zero"),
        pytest.param([0.0, -6.0, 0.0], 0.0, math.sqrt(12), 6.0, id="one-of-three"),
        pytest.param([-7.0, 1.0, 5.0], 5.0, 5.0, 7.0, id="not-in-order"),
        pytest.param([-2.0], 2.0, 2.0, 2.0, id="single"),
        pytest.param([1.0, math.inf, -2.0], 2.0, math.inf, math.inf, id="infinite"),
    ],
)
def test_typical_rms_and_largest(values: list[float], middle: float, root: float, most: float) -> None:
    assert median_abs(values) == middle
    assert rms(values) == pytest.approx(root, rel=1e-15)
    assert largest(values) == most


@pytest.mark.parametrize("place", range(4))
def test_nothing_is_typical_where_one_value_is_no_number(place: int) -> None:
    """A sort leaves NaN where it stood, and the median of what is left would look sound."""
    values = [1.0, 2.0, 3.0, 4.0]
    values[place] = math.nan
    assert math.isnan(median_abs(values))
    assert math.isnan(rms(values))
