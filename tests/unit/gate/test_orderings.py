"""Orderings: what two records show, and that the table says only what can be asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from sample_record import build_record

from mxcheck.gate.case import Case, case_of
from mxcheck.gate.orderings import (
    EXCEPTIONS,
    ORDERINGS,
    SHOWN_BY_ALL,
    Standing,
    compare,
    compare_kl,
    deviation,
    standing,
)
from mxcheck.gate.record import Record
from mxcheck.models.recipes.ladder import with_tiers

CASE_NAMES = {name if tier is None else f"{name}-{tier}" for name, tier in with_tiers()}


def records(lower: list[float], higher: list[float]) -> tuple[Record, Record]:
    return build_record(tier="A", sequence_kl=lower), build_record(sequence_kl=higher)


def test_the_figures() -> None:
    """By hand: the changes are 1, 2, 3 and 2; their mean 2, their variance 2/3, the error sqrt(2/3/4)."""
    found = compare(*records([1.0, 1.0, 1.0, 1.0], [2.0, 3.0, 4.0, 3.0]))
    assert found.difference == 2.0
    assert found.error == pytest.approx(math.sqrt(1 / 6))
    assert found.margin == pytest.approx(2 * math.sqrt(6))
    assert found.ratio == 3.0
    assert found.shows == "holds"


def test_swapped_is_reversed() -> None:
    lower, higher = records([1.0, 1.1, 0.9, 1.0], [1.2, 1.3, 1.2, 1.1])
    assert compare(lower, higher).shows == "holds"
    swapped = compare(higher, lower)
    assert swapped.shows == "reversed"
    assert swapped.margin == -compare(lower, higher).margin


def test_noise_is_undecided() -> None:
    """The higher mean is 3 % higher: with such a spread of the changes that says nothing."""
    found = compare(*records([1.0, 1.1, 0.9, 1.0], [1.3, 0.9, 1.1, 0.82]))
    assert found.ratio == pytest.approx(1.03)
    assert found.shows == "undecided"


def test_pairs_and_not_means_are_compared() -> None:
    """Sequences differ tenfold and each gets worse by a tenth: unpaired, no difference would be seen."""
    lower = [1.0, 10.0, 2.0, 5.0]
    found = compare(*records(lower, [1.1, 10.12, 2.1, 5.11]))
    assert found.ratio < 1.03
    assert found.shows == "holds"


def test_the_bound_is_the_95_percent_quantile() -> None:
    """Changes of 1 ± s, two of each, have the margin sqrt(3) / s: one just beyond 1.645, one just within."""

    def margin_of(spread: float) -> tuple[float, str]:
        found = compare_kl([0.0] * 4, [1 - spread, 1 - spread, 1 + spread, 1 + spread])
        return found.margin, found.shows

    beyond, within = margin_of(1.05), margin_of(1.06)
    assert within[0] < 1.645 < beyond[0]
    assert (beyond[1], within[1]) == ("holds", "undecided")


def test_equal_records_are_undecided() -> None:
    lower, _ = records([0.001] * 4, [0.001] * 4)
    assert compare(lower, lower).margin == 0
    assert compare(lower, lower).shows == "undecided"


def test_the_same_change_everywhere_is_certain() -> None:
    assert compare_kl([1.0, 2.0], [1.5, 2.5]).margin == math.inf
    assert compare_kl([1.5, 2.5], [1.0, 2.0]).shows == "reversed"


def test_above_a_step_that_costs_nothing() -> None:
    assert compare_kl([0.0, 0.0], [0.1, 0.2]).ratio == math.inf


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": "ref-neo"}, "model ref-llama against ref-neo"),
        ({"fingerprints": {"weights": "a" * 64, "tokens": "d" * 64}}, "tokens cccccccccccc against dddd"),
        ({"fingerprints": {"weights": "d" * 64, "tokens": "c" * 64}}, "weights aaaaaaaaaaaa against dddd"),
        ({"sequence_kl": [0.1, 0.1]}, "cannot pair 2 sequences with 4"),
        ({"sequence_kl": [0.1, 0.1, 0.1, math.nan]}, "not finite"),
    ],
    ids=["model", "tokens", "weights", "length", "nan"],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        compare(build_record(tier="A"), build_record(**changes))


COSTS = {"small": [0.010, 0.011, 0.009, 0.010], "large": [0.110, 0.113, 0.110, 0.108]}


def accepted(**changes: Any) -> Callable[[Case], Record | None]:
    """mxfp6_e3m2-B and mxint8-B, under any options, both of large cost."""

    def found(case: Case) -> Record | None:
        if case.name.split("+")[0] not in ("mxfp6_e3m2-B", "mxint8-B"):
            return None
        fields = {"sequence_kl": COSTS["large"], "options": list(case.options), **changes}
        return build_record(precision=case.precision, **fields)

    return found


def test_a_step_that_costs_more_than_one_above_it_is_named() -> None:
    """fp6_e3m2 has fewer bits than fp8_e4m3. mxint8 has more, but outliers make it the worse of the two."""
    assert standing(build_record(sequence_kl=COSTS["small"]), accepted()) == Standing(compared=1)
    found = standing(build_record(sequence_kl=[1.0, 1.1, 1.2, 1.0]), accepted())
    assert found.compared == 1
    (words,) = found.reversed
    assert words.startswith(
        "mxfp8_e4m3-B costs more than mxfp6_e3m2-B (fewer significant bits, more damage): KL "
    )
    found = standing(build_record(precision="mxfp4_e2m1", sequence_kl=COSTS["small"]), accepted())
    assert [words.split(" (")[0] for words in found.reversed] == ["mxfp6_e3m2-B costs more than mxfp4_e2m1-B"]


@pytest.mark.parametrize(
    "costs",
    [[0.15, 0.11, 0.15, 0.12], [one + 0.1 for one in COSTS["large"]]],
    ids=["few", "same"],
)
def test_few_sequences_contradict_nothing_by_their_scatter(costs: list[float]) -> None:
    """Of three degrees of freedom one in a thousand lies beyond 10.2 standard errors."""
    record = build_record(sequence_kl=costs)
    other = accepted()(case_of(record.model, "mxfp6_e3m2-B"))
    assert other is not None
    assert compare(record, other).shows == "reversed"
    assert standing(record, accepted()) == Standing(compared=1)


DEAR = {"sequence_kl": [1.0, 1.1, 1.2, 1.0]}


@pytest.mark.parametrize(
    ("changes", "others"),
    [
        pytest.param({"options": ["even"]}, {}, id="rule-not-tried"),
        pytest.param({"options": ["attention"]}, {}, id="more-is-cast"),
        pytest.param({"kl": math.nan}, {}, id="not-finite"),
        pytest.param({"kl": None, "sequence_kl": None}, {}, id="no-kl"),
        pytest.param({}, {"kl": math.inf}, id="other-not-finite"),
        pytest.param({}, {"model": "another"}, id="file-of-another-model"),
        pytest.param({}, {"fingerprints": {**build_record().fingerprints, "tokens": "0"}}, id="other-text"),
        pytest.param(
            {}, {"fingerprints": {**build_record().fingerprints, "weights": "0"}}, id="other-weights"
        ),
    ],
)
def test_what_is_passed_over(changes: dict[str, Any], others: dict[str, Any]) -> None:
    assert standing(build_record(**{**DEAR, **changes}), accepted(**others)) == Standing()


@pytest.mark.parametrize("options", [["rceil"], ["samples4"], ["rceil", "prose", "length256"]])
def test_options_of_the_text_and_rceil_were_tried(options: list[str]) -> None:
    record = build_record(options=options, corpus={"used": "prose"}, **DEAR)
    assert len(standing(record, accepted()).reversed) == 1


def test_what_no_reference_model_reverses() -> None:
    shown = {one.id for one in SHOWN_BY_ALL}
    assert "mxint8-A-below-mxfp8_e4m3-A" not in shown
    assert not [one for one in shown if "fp4_e3m0" in one]  # outlier-llama reverses them under rceil
    assert {
        "mxfp8_e4m3-B-below-mxfp6_e3m2-B",
        "mxint8-A-below-mxint8-B",
        "nvfp4-A-below-mxfp4_e2m1-A",
    } <= shown


def test_the_table_is_of_the_ladder_and_says_everything_once() -> None:
    pairs = [(one.lower, one.higher) for one in ORDERINGS]
    assert len(set(pairs)) == len(pairs) == 41
    assert {case_name for pair in pairs for case_name in pair} < CASE_NAMES
    # No order contradicts another: with each ordering an arrow, there is a first case name again and again.
    left = set(pairs)
    while left:
        highest = {higher for _, higher in left}
        first = {(lower, higher) for lower, higher in left if lower not in highest}
        assert first, f"a circle among {left}"
        left -= first


def test_every_exception_is_of_an_ordering() -> None:
    found = [
        one for model in {e.model for e in EXCEPTIONS} for o in ORDERINGS if (one := deviation(model, o))
    ]
    assert sorted(found, key=repr) == sorted(EXCEPTIONS, key=repr)
    assert {one.shows for one in EXCEPTIONS} == {"reversed", "undecided"}
