"""Predictions as plain data, and the check that estimates of the KL agree."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from sample_predictions import build_predictions

from mxcheck.gate.predictions import (
    Predictions,
    check_estimates,
    part_bounds,
    percentiles_of,
    predictions_from_dict,
)
from mxcheck.gate.record import Record

MakeRecord = Callable[..., Record]


@pytest.fixture
def found(make_record: MakeRecord) -> Predictions:
    return build_predictions(make_record())


def test_round_trip_through_json(found: Predictions) -> None:
    assert predictions_from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_percentiles_come_in_their_order_however_they_are_stored(found: Predictions) -> None:
    """Sorted by name, as a baseline stores them, 100 comes before 50."""
    stored = predictions_from_dict(json.loads(json.dumps(found.as_dict(), sort_keys=True)))
    assert list(stored.kl_percentiles) == ["100", "50", "90", "99", "99.9"]
    assert percentiles_of(stored, "kl_percentiles") == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert percentiles_of(stored, "probability_change_percentiles")[:2] == [-0.4, -0.3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k4": 1.0}, r"missing fields: none, unknown: \['k4'\]"),
        ({"probability_change": "0.1"}, "probability_change must be a number, got '0.1'"),
        ({"probability_change_rms": True}, "probability_change_rms must be a number, got True"),
        ({"sequence_k3": 0.1}, "sequence_k3 must be a list of at least one number, got 0.1"),
        ({"sequence_k3": [0.1, None, 0.1, 0.1]}, "sequence_k3 must be a list of at least one number"),
        ({"kl_by_position": []}, r"kl_by_position must be a list of at least one number, got \[\]"),
        ({"kl_by_position": [0.1] * 5}, "kl_by_position has 5 parts, allowed 1 to 4"),
        ({"sequence_top1": [0.9]}, "lists by sequence must be of one length, got .*'sequence_top1': 1"),
        ({"kl_percentiles": {"50": 0.1}}, "kl_percentiles must be a dict of 50, 90, 99, 99.9, 100, got"),
        ({"kl_percentiles": [0.1]}, "kl_percentiles must be a dict of 50, 90, "),
        (
            {"kl_percentiles": {"50": "a", "90": 1, "99": 1, "99.9": 1, "100": 1}},
            "kl_percentiles must hold numbers, got {'50': 'a'",
        ),
    ],
)
def test_what_is_no_predictions_is_refused(found: Predictions, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictions_from_dict({**found.as_dict(), **change})


def test_what_is_no_dict_or_lacks_a_field_is_refused(found: Predictions) -> None:
    with pytest.raises(ValueError, match=r"predictions must be a dict, got \[\]"):
        predictions_from_dict([])
    data = found.as_dict()
    del data["sequence_k3"]
    with pytest.raises(ValueError, match=r"missing fields: \['sequence_k3'\], unknown: none"):
        predictions_from_dict(data)


def test_k3_and_its_error_are_those_of_its_sequences(make_record: MakeRecord) -> None:
    found = build_predictions(make_record(), sequence_k3=[1.0, 2.0, 3.0, 6.0])
    # deviations -2, -1, 0, 3: variance 14 / 3
    assert (found.k3, found.k3_error) == (3.0, pytest.approx(math.sqrt(14 / 3) / 2, rel=1e-12))


@pytest.mark.parametrize(
    ("positions", "bounds"), [(1, [0, 1]), (3, [0, 1, 2, 3]), (8, [0, 2, 4, 6, 8]), (11, [0, 2, 5, 8, 11])]
)
def test_parts_of_a_sequence_by_hand(positions: int, bounds: list[int]) -> None:
    assert part_bounds(positions) == bounds


# Estimates of the KL


REFERENCE = [2.0, 2.1, 1.9, 2.05]
#: Changes with mean 0 and standard error 1: their squares sum to 12, and 12 / 3 / 4 is 1.
UNIT = [math.sqrt(3.0), -math.sqrt(3.0), math.sqrt(3.0), -math.sqrt(3.0)]


def apart(z: float, *, sign: int = 1) -> list[float]:
    """Four values whose mean is `z` standard errors from 0."""
    return [1e-4 * (sign * z + one) for one in UNIT]


def add(first: list[float], second: list[float]) -> list[float]:
    return [a + b for a, b in zip(first, second, strict=True)]


KL = [0.01, 0.011, 0.009, 0.01]
#: 8 times 1 + 5 / 3
BOUND = 21.3333


@pytest.mark.parametrize("sign", [1, -1], ids=["above", "below"])
@pytest.mark.parametrize(("z", "passes"), [(BOUND - 0.01, True), (BOUND + 0.01, False)])
def test_k3_and_rise_are_held_where_the_kl_is_not_known(z: float, passes: bool, sign: int) -> None:
    k3 = add(KL, apart(z, sign=sign))
    passed, message = check_estimates(k3, add(REFERENCE, KL), REFERENCE)
    assert passed is passes
    assert message == (
        f"KL on the reference's own samples: k3 and the rise (mean of q/p - 1) are {sign * z * 1e-4:+.2e} ± "
        f"1.00e-04 nats/token apart, {sign * z:+.2f} standard errors (bound 21.3)"
    )


@pytest.mark.parametrize(
    ("k3", "rises", "pair"),
    [
        (add(KL, apart(22)), KL, "k3 and the KL"),
        (KL, add(KL, apart(22)), "the rise and the KL"),
    ],
    ids=["k3", "rise"],
)
def test_each_estimate_is_held_against_the_kl(k3: list[float], rises: list[float], pair: str) -> None:
    passed, message = check_estimates(k3, add(REFERENCE, rises), REFERENCE, KL)
    assert not passed
    # the other pair with the one at fault is as far apart: up to rounding either is the worst
    assert pair in message or "k3 and the rise" in message
    assert check_estimates(KL, add(REFERENCE, KL), REFERENCE, KL)[0]


def test_estimates_that_are_wrong_alike_are_seen_by_the_kl_alone() -> None:
    wrong = add(KL, apart(22))
    assert check_estimates(wrong, add(REFERENCE, wrong), REFERENCE)[0]
    assert not check_estimates(wrong, add(REFERENCE, wrong), REFERENCE, KL)[0]


def test_a_case_that_is_its_reference_agrees_with_itself() -> None:
    zeros = [0.0] * 4
    passed, message = check_estimates(zeros, REFERENCE, REFERENCE, zeros)
    assert passed
    assert "+0.00 standard errors" in message


def test_the_same_difference_in_every_sequence_is_no_scatter() -> None:
    assert not check_estimates([0.5] * 4, REFERENCE, REFERENCE)[0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_disagrees(value: float) -> None:
    assert not check_estimates([value, *KL[1:]], add(REFERENCE, KL), REFERENCE, KL)[0]
    assert not check_estimates(KL, add(REFERENCE, KL), REFERENCE, [value, *KL[1:]])[0]
    assert not check_estimates(KL, [value, *REFERENCE[1:]], REFERENCE)[0]


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot pair 3 sequences with 4"):
        check_estimates(KL[1:], REFERENCE, REFERENCE)


COARSE = [0.3, 0.31, 0.29, 0.3]


def test_k3_of_a_coarse_model_is_not_held() -> None:
    """Few tokens carry it, so that its standard error is none."""
    far = add(COARSE, apart(100))
    assert check_estimates(far, add(REFERENCE, COARSE), REFERENCE, COARSE)[0]
    passed, message = check_estimates(far, add(REFERENCE, COARSE), REFERENCE)
    assert passed
    assert message == "k3 says nothing about a rise of 0.3 nats/token (more than 0.2)"


def test_the_rise_of_a_coarse_model_is_held() -> None:
    rises = add(COARSE, apart(22))
    passed, message = check_estimates(COARSE, add(REFERENCE, rises), REFERENCE, COARSE)
    assert not passed
    assert "the rise and the KL are +2.20e-03" in message
