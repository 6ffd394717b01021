"""Trials as plain data, and the noise that is taken from them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from sample_record import ERROR, build_digests, build_full_record, build_record

from mxcheck.gate.noise import Trial, trial_from_dict, worst

RECORD = build_full_record(noise=None)
assert RECORD.sublayers is not None
#: One of its three places, the last, moved.
MOVED = {**RECORD.sublayers, "layers.0.layer": replace(ERROR, norm=0.025)}


def trial(environment: str, **changes: Any) -> Trial:
    own = {
        "digests": RECORD.digests,
        "reference_losses": RECORD.reference_losses,
        "sequence_losses": RECORD.sequence_losses,
        "sequence_kl": RECORD.sequence_kl,
        "sublayers": RECORD.sublayers,
    }
    return Trial(environment=environment, **{**own, **changes})


@pytest.mark.parametrize("one", [trial("a"), Trial(environment="b", failure="out of memory")])
def test_a_trial_survives_plain_types_with_json_and_without(one: Trial) -> None:
    """The process that measured reads its own as the others do that find them in a file."""
    assert trial_from_dict(one.as_dict()) == one
    assert trial_from_dict(json.loads(json.dumps(one.as_dict()))) == one


def test_the_layers_have_noise_of_their_own() -> None:
    noise = worst(RECORD, [trial("a"), trial("b", sublayers=MOVED)])
    assert noise.environments == ["a", "b"]
    assert noise.sublayers is not None
    assert noise.sublayers.largest["norm"] == pytest.approx(0.25)
    assert noise.sublayers.typical["norm"] == 0.0
    assert noise.sublayers.largest["gain"] == 0.0


def test_a_record_without_layers_has_none() -> None:
    assert worst(build_record(), [trial("a")]).sublayers is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digests": build_digests(q="scales")}, "the casts gave other bits in environment 'b'"),
        ({"failure": "out of memory"}, "in environment 'b' it cannot be measured: out of memory"),
        ({"sublayers": {}}, "cannot compare different places"),
        ({"sequence_losses": [2.0]}, "cannot pair 1 sequences with 4"),
    ],
)
def test_what_is_no_noise_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        worst(RECORD, [trial("a"), trial("b", **change)])


def test_an_environment_that_cannot_run_it_says_nothing_and_one_has_to() -> None:
    away = Trial(environment="b", unavailable="no library")
    assert worst(RECORD, [trial("a"), away]).environments == ["a"]
    with pytest.raises(
        ValueError, match=r"it can run in no environment .*: no library; nothing was accepted"
    ):
        worst(RECORD, [away])
