"""What a first acceptance asserts, and the line that it makes."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from datetime import date

import pytest
from sample_record import build_record

from mxcheck.gate.absolute_checks import (
    WINDOW,
    Absolute,
    absolute_checks,
    bounds_lines,
    first_bounds,
    share_of_signed,
    two_digits_up,
)
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.orderings import Standing

RECORD = build_record()  # KL 0.001
ALONE = Standing()
SOUND = Absolute(signed=(0.001, 0.0011, 0.0009), compared=640)


def failed(found: Absolute) -> list[tuple[int, str]]:
    return [(one.step, one.key) for one in absolute_checks(RECORD, found, ALONE) if not one.passed]


def test_what_meets_the_oracle_and_its_own_error_passes() -> None:
    checks = list(absolute_checks(RECORD, SOUND, Standing(compared=3)))
    assert [(one.step, one.key, one.passed) for one in checks] == [
        (1, "zeros", True),
        (2, "causal", True),
        (2, "uniform", True),
        (5, "reversed", True),
        (4, "oracle", True),
        (5, "signs", True),
    ]
    assert checks[3].message == "in order with 3 accepted precisions"
    assert checks[4].message == "640 values of cast operands equal the oracle's"
    assert checks[5].message.startswith("KL 0.001000 nats/token is 1.00 of what the same errors with random")


@pytest.mark.parametrize(
    ("share", "red"),
    [
        (WINDOW[0] * 0.99, True),
        (WINDOW[0] * 1.01, False),
        (WINDOW[1] * 0.99, False),
        (WINDOW[1] * 1.01, True),
    ],
)
def test_the_window(share: float, red: bool) -> None:
    assert failed(replace(SOUND, signed=(0.001 / share,))) == ([(5, "signs")] if red else [])


def test_errors_that_cost_nothing_with_random_signs_are_no_measure() -> None:
    assert failed(replace(SOUND, signed=(0.0, 0.0, 0.0))) == [(5, "signs")]


def test_one_seed_of_five_decides_nothing() -> None:
    assert share_of_signed(0.001, Absolute(signed=(0.001, 1.0, 0.001, 0.001, 0.0))) == 1.0


def test_an_operand_that_is_not_the_oracle_s_is_named() -> None:
    wrong = {f"weights of layers.{n}": "1 of 32 values differ" for n in range(5)}
    (check,) = [one for one in absolute_checks(RECORD, Absolute(wrong=wrong), ALONE) if not one.passed]
    assert (check.step, check.key) == (4, "oracle")
    assert "weights of layers.0: 1 of 32 values differ" in check.message
    assert check.message.endswith("and 2 more")


@pytest.mark.parametrize(
    ("found", "step", "key", "words"),
    [
        (replace(SOUND, uniform=1.5), 2, "uniform", "a uniform distribution's 1.50: it predicts worse than"),
        (
            replace(SOUND, sees_later=0.3),
            2,
            "causal",
            "move the reference's logits of earlier ones by 0.3 of",
        ),
        (
            replace(SOUND, zeros=("a", "b")),
            1,
            "zeros",
            "2 matrices of the reference contain only zeros: a, b",
        ),
    ],
    ids=["worse-than-uniform", "not-causal", "zeros"],
)
def test_a_reference_that_is_none(found: Absolute, step: int, key: str, words: str) -> None:
    (check,) = [one for one in absolute_checks(RECORD, found, ALONE) if not one.passed]
    assert (check.step, check.key) == (step, key)
    assert words in check.message


def test_a_reversed_order_is_refused_in_words() -> None:
    (check,) = [
        one for one in absolute_checks(RECORD, SOUND, Standing(reversed=("a costs more",))) if not one.passed
    ]
    assert (check.step, check.key) == (5, "reversed")
    assert check.message == "this precision or an accepted one is wrong: a costs more"


def test_what_a_library_casts_is_said_to_be_unknown() -> None:
    *_, check = absolute_checks(RECORD, Absolute(unknown="bitsandbytes casts"), ALONE)
    assert check.passed
    assert check.message == "casts not compared with the oracle: bitsandbytes casts"


@pytest.mark.parametrize(
    ("value", "up"), [(0.0, 0.0), (0.1234, 0.13), (0.12, 0.12), (1.01e-5, 1.1e-5), (2.4, 2.4)]
)
def test_two_digits_up(value: float, up: float) -> None:
    assert two_digits_up(value) == up


def test_bounds_are_twice_what_was_measured() -> None:
    assert first_bounds(RECORD) == Bounds(kl=0.002, rise=0.002)


def test_the_rise_on_other_text_has_its_own() -> None:
    """On the model's own samples it is expected to be the KL; elsewhere a model may lose more than that."""
    losses = [loss + 0.05 for loss in RECORD.reference_losses]
    other = replace(RECORD, corpus={"used": "pile"}, sequence_losses=losses)
    assert first_bounds(other).rise == 0.1
    assert first_bounds(replace(other, corpus={"used": "self"})).rise == 0.002


@pytest.mark.parametrize("options", [[], ["rceil"]])
def test_a_line_is_toml_and_says_what_it_was_made_from(options: list[str]) -> None:
    record = replace(RECORD, options=options, scored_tokens=1020)
    text = bounds_lines(record, first_bounds(record), SOUND, today=date(2026, 11, 29))
    assert tomllib.loads(text) == {record.case.name: {"kl": 0.002}}
    assert "KL 0.001 on self, 4 sequences of 256; 1.00 of its errors with random signs; 2026-11-29" in text


def test_a_line_of_what_a_library_casts() -> None:
    text = bounds_lines(
        RECORD, Bounds(kl=0.2, rise=0.5), Absolute(unknown="torch casts"), today=date(2026, 1, 2)
    )
    assert "casts not compared: torch casts" in text
    assert tomllib.loads(text) == {"mxfp8_e4m3-B": {"kl": 0.2, "rise": 0.5}}


@pytest.mark.parametrize("unknown", ["", "torch casts"])
def test_a_reference_that_predicts_nothing_is_no_subject(unknown: str) -> None:
    for share, red in ((0.98, []), (0.991, [(2, "uniform")])):
        found = Absolute(signed=() if unknown else (0.001,), unknown=unknown, of_uniform=share)
        assert failed(found) == red
