"""Steps 2, 3 and 6 on records that have every figure: each check fails alone when its figure moves."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from sample_record import COUNTS, ERROR, NOISE, PREDICTIONS, Q, build_full_record

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.counters import Counters
from mxcheck.gate.record import OPTIONAL, Record
from mxcheck.gate.sublayer_drift import FIGURES, SublayerNoise
from mxcheck.gate.verdict import judge

WIDE = Bounds(kl=1.0, rise=1.0)
ACCEPTED = build_full_record()
ELSEWHERE = {"arithmetic": "0" * 64}
assert ACCEPTED.counters is not None
assert ACCEPTED.sublayers is not None


def predicted(**changes: Any) -> dict[str, Any]:
    return {"predictions": replace(PREDICTIONS, **changes)}


def layer(**changes: Any) -> dict[str, Any]:
    assert ACCEPTED.sublayers is not None
    return {"sublayers": {**ACCEPTED.sublayers, "layers.0.mlp": replace(ERROR, **changes)}}


def counted(operand: str, **changes: Any) -> dict[str, Any]:
    assert ACCEPTED.counters is not None
    operands = {**ACCEPTED.counters.operands}
    operands[Q] = {**operands[Q], operand: replace(COUNTS, **changes)}
    return {"counters": Counters(operands=operands, expert_rows=ACCEPTED.counters.expert_rows)}


def failed(record: Record, baseline: Record | None = ACCEPTED) -> dict[str, str]:
    """By step and key, what failed."""
    found = judge(record, baseline, WIDE).failures
    return {f"{check.step} {check.key}": check.message for check in found}


def test_it_passes_against_itself_and_every_figure_is_held() -> None:
    verdict = judge(ACCEPTED, ACCEPTED, WIDE)
    assert verdict.passed
    assert [check.key for check in verdict.checks if check.step in (2, 3, 6)] == [
        *("own samples", "estimates", "reference", "reference entropies"),
        *("bits", "modules", "bytes", "figures"),
        *("losses", "KL", "entropy", "k3", "predictions", "top-1"),
        *("layers: places", *(f"layers: {name}" for name in FIGURES)),
        "counts",
    ]


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        (
            predicted(sequence_entropies=[2.0106, 2.0815, 1.9205, 2.0399]),
            "6 entropy",
            "entropies of the quantized model moved",
        ),
        (predicted(sequence_k3=[0.0012, 0.0012, 0.0008, 0.0011]), "6 k3", "k3 moved by sequence"),
        (
            predicted(probability_change=-0.002),
            "6 predictions",
            "mean of the probability changes is -0.002, accepted -0.001",
        ),
        ({"top1_agreement": 0.98}, "6 top-1", "top-1 agreement 0.980000, accepted 0.987500"),
        (layer(gain=-0.0041), "6 layers: gain", "layers.0.mlp -0.004 → -0.0041"),
        (layer(gain_99=0.021), "6 layers: gain_99", "layers.0.mlp 0.02 → 0.021"),
        (layer(norm=0.021), "6 layers: norm", "layers.0.mlp 0.02 → 0.021"),
        (layer(norm_99=0.051), "6 layers: norm_99", "layers.0.mlp 0.05 → 0.051"),
        (layer(size=0.31), "6 layers: size", "layers.0.mlp 0.3 → 0.31"),
        (layer(sketch=(600, -800, 1, 0)), "6 layers: sketch", "layers.0.mlp by 0.001"),
        (
            {"sublayers": {"layers.0.mlp": ERROR}},
            "6 layers: places",
            "no longer measured: layers.0.attention, layers.0.layer",
        ),
        (counted("weights", saturated=33), "6 counts", f"of weights of {Q} saturated"),
        (counted("activations", saturated=33), "6 counts", f"of activations of {Q} saturated"),
        ({"counters": Counters(operands={}, expert_rows={})}, "6 counts", "no counts: not counted"),
    ],
    ids=lambda value: value if isinstance(value, str) and value[0].isdecimal() else None,
)
def test_one_figure_that_moves_fails_one_check(changes: dict[str, Any], key: str, words: str) -> None:
    found = failed(build_full_record(**changes))
    assert list(found) == [key]
    assert words in found[key]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (predicted(sequence_entropies=[2.2, 2.3, 2.1, 2.2]), "6 entropy"),
        ({"top1_agreement": 0.5}, "6 top-1"),
        (layer(norm=0.03), "6 layers: norm"),
        (counted("activations", saturated=320), "6 counts"),
        (counted("weights", saturated=33), "6 counts"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_elsewhere_what_is_more_than_noise_fails(changes: dict[str, Any], key: str) -> None:
    assert list(failed(build_full_record(**changes, **ELSEWHERE))) == [key]


@pytest.mark.parametrize(
    "changes",
    [
        predicted(sequence_entropies=[2.01051, 2.0815, 1.9205, 2.0399]),
        predicted(sequence_k3=[0.0012, 0.0012, 0.0008, 0.0011]),
        {"top1_agreement": 0.98750001},
        layer(norm=0.0201),
        counted("activations", saturated=33),
    ],
    ids=["entropy", "k3", "top-1", "layers", "counts"],
)
def test_elsewhere_noise_passes_and_here_it_does_not(changes: dict[str, Any]) -> None:
    assert failed(build_full_record(**changes, **ELSEWHERE)) == {}
    assert failed(build_full_record(**changes)) != {}


def test_the_layers_noise_that_was_measured_counts() -> None:
    loud = dict.fromkeys(FIGURES, 0.2)
    accepted = build_full_record(noise=replace(NOISE, sublayers=SublayerNoise(typical=loud, largest=loud)))
    moved = build_full_record(**layer(norm=0.03), **ELSEWHERE)  # by 0.5 of it, where 4 times 0.2 may be
    assert failed(moved, accepted) == {}
    assert list(failed(moved, build_full_record(noise=None))) == ["6 layers: norm"]


# Figures that one of the records lacks


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_figure_that_is_lost_is_named_with_its_reason(name: str) -> None:
    lost = build_full_record(**{name: None}, absent={name: "nobody knows"})
    found = failed(lost)
    assert list(found) == ["3 figures"]
    assert found["3 figures"] == f"no longer measured: {name} (nobody knows)"
    assert failed(ACCEPTED, lost) == {"3 figures": f"measured and not accepted: {name}"}
    assert failed(lost, lost) == {}


def test_a_figure_that_is_lost_without_a_reason_is_named_too() -> None:
    found = failed(build_full_record(sublayers=None))
    assert found == {"3 figures": "no longer measured: sublayers (no reason is recorded)"}


def test_a_part_of_a_figure_that_is_lost_is_named() -> None:
    part = "sublayers: layers.1.mlp"
    lost = build_full_record(absent={part: "no such module"})
    assert failed(lost) == {"3 figures": f"no longer measured: {part} (no such module)"}
    assert failed(ACCEPTED, lost) == {"3 figures": f"measured and not accepted: {part}"}
    assert failed(lost, build_full_record(absent={part: "another reason"})) == {}


# Estimates of the KL


def test_estimates_are_held_alone_and_on_the_reference_s_own_text_only() -> None:
    wrong = build_full_record(**predicted(sequence_k3=[0.5] * 4))
    assert list(failed(wrong, wrong)) == list(failed(wrong, None)) == ["2 estimates"]
    assert not judge(wrong, None, WIDE).acceptable
    assert failed(replace(wrong, corpus={"used": "pile"}), None) == {}


@pytest.mark.parametrize("name", ["gain", "gain_99", "norm", "norm_99", "size"])
@pytest.mark.parametrize("elsewhere", [{}, ELSEWHERE], ids=["here", "elsewhere"])
@pytest.mark.parametrize("place", ["layers.0.attention", "layers.0.mlp", "layers.0.layer"])
def test_a_figure_of_a_layer_that_is_no_number_fails(
    name: str, elsewhere: dict[str, Any], place: str
) -> None:
    """Wherever it stands: an order has no place for NaN, and a maximum forgets it."""
    assert ACCEPTED.sublayers is not None
    spoilt = {**ACCEPTED.sublayers, place: replace(ERROR, **{name: math.nan})}
    assert f"6 layers: {name}" in failed(build_full_record(sublayers=spoilt, **elsewhere))
