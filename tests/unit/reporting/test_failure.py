"""A red case's message: step, bound, place, environment, and what to type."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from sample_record import COUNTS, ERROR, Q, build_digests, build_full_record, build_record

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.record import Record
from mxcheck.gate.sublayer_drift import SublayerError
from mxcheck.gate.verdict import judge
from mxcheck.reporting.failure import (
    count_changes,
    failure_message,
    worst_layers,
)

WIDE = Bounds(kl=1.0, rise=1.0)
ACCEPT = "pytest --mx-models=ref-llama -k ref-llama-mxfp8_e4m3-B --snapshot-update"
OTHERWISE = "this machine's arithmetic is not the baseline's"


def message(record: Record, baseline: Record | None, bounds: Bounds = WIDE) -> list[str]:
    verdict = judge(record, baseline, bounds)
    return failure_message(record, baseline, verdict, accept=ACCEPT).splitlines()


def test_what_no_update_accepts_is_not_advised() -> None:
    lines = message(build_record(), build_record(), Bounds(kl=0.0, rise=1.0))
    assert not any(ACCEPT in line for line in lines)
    assert lines[-2:] == [
        "  cannot be accepted: a check fails that needs no baseline",
        (
            "  if this cost is meant: raise the bound in the file that step 5 names, or give another by "
            "--mx-bounds=FILE (docs/gate.md)"
        ),
    ]


def test_nor_where_the_records_are_not_comparable() -> None:
    """Of the checks that need no baseline none is shown then: one of them fails all the same."""
    of_another = build_record(model="ref-moe")
    lines = message(of_another, build_record(), Bounds(kl=0.0, rise=1.0))
    assert lines[0].startswith("ref-moe-mxfp8_e4m3-B: step 1 (inputs): another case: model is ref-moe")
    assert lines[-1] == "  cannot be accepted: a check fails that needs no baseline"
    assert message(of_another, build_record())[-1].endswith(ACCEPT)


def test_first_line_names_case_step_module_and_the_last_one_what_to_type() -> None:
    lines = message(build_record(digests=build_digests(q="codes")), build_record())
    assert lines[0] == (
        "ref-llama-mxfp8_e4m3-B: step 4 (casts): codes of the quantized weights changed bits in 1 of 2 "
        "modules: layers.0.q (rows 32 to 63 of 64)"
    )
    assert lines[-1] == f"  if the change is meant, accept it with: {ACCEPT}"
    assert not any("also step" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "bounds", "words"),
    [
        pytest.param(
            {"fingerprints": {**build_record().fingerprints, "tokens": "f" * 64}},
            WIDE,
            ["step 1 (inputs)", "tokens", "f" * 16, "accepted " + "c" * 16],
            id="inputs",
        ),
        pytest.param(
            {"reference_losses": [2.1, 2.1, 1.9, 2.05]},
            WIDE,
            ["step 2 (reference)", "rms 5.00e-02 (bound 4.20e-05)", "max 1.00e-01 (bound 6.20e-05)"],
            id="reference",
        ),
        pytest.param(
            {"replaced": {"layers.0.up": "mlp"}},
            WIDE,
            ["step 3 (conversion)", "no longer quantized: layers.0.q"],
            id="conversion",
        ),
        pytest.param(
            {}, Bounds(kl=0.0005, rise=1.0), ["step 5 (bounds)", "KL", "0.001000", "bound 0.0005"], id="kl"
        ),
        pytest.param(
            {},
            Bounds(kl=1.0, rise=0.0001),
            # rises 1, 2, 1.5, 1.2 e-3: mean 1.425e-3, error 2.175e-4
            ["step 5 (bounds)", "+0.001425 ± 0.000217", "upper 95 % bound +0.001783", "bound 0.0001"],
            id="rise",
        ),
        pytest.param(
            {"sequence_kl": [0.002, 0.0011, 0.0009, 0.001]},
            WIDE,
            [
                "step 6 (drift)",
                "KL moved by sequence: median 0.00e+00 (bound 1.00e-09)",
                "rms 5.00e-04 (bound 1.00e-09)",
                "max 1.00e-03 (bound 1.00e-09)",
            ],
            id="drift",
        ),
    ],
)
def test_what_moved_by_how_much_against_which_bound(
    changes: dict[str, Any], bounds: Bounds, words: list[str]
) -> None:
    first = message(build_record(**changes), build_record(), bounds)[0]
    for word in words:
        assert word in first


def test_the_other_failures_follow_the_cause() -> None:
    record = build_record(kl=0.5, sequence_losses=[3.0, 3.0, 3.0, 3.0])
    lines = message(record, build_record(), Bounds(kl=0.1, rise=0.1))
    assert lines[0].startswith("ref-llama-mxfp8_e4m3-B: step 5 (bounds): KL")
    assert lines[3].startswith("  also step 5 (bounds): rise")
    assert lines[4].startswith("  also step 6 (drift): losses moved")
    assert [line for line in lines if "also step" in line] == lines[3:5]


def test_the_cause_follows_the_first_failure() -> None:
    record = build_record(digests=build_digests(q="operands"), sequence_kl=[0.002, 0.0011, 0.0009, 0.001])
    lines = message(record, build_record())
    assert lines[3].startswith("  also step 6 (drift): KL")
    assert lines[1:3] == [
        (
            "  cause: conversion: weights are cast as accepted, but the operands of the matrix products are "
            "not the accepted ones"
        ),
        (
            "  look first at: models/conversion/linear.py and models/conversion/product_hooks.py: "
            "activations' cast, bias, weights' values"
        ),
    ]


def test_environment_differences() -> None:
    then = build_record(environment={"torch": "2.9.0", "capability": "AVX2", "MKL_CBWR": "COMPATIBLE"})
    now = build_record(environment={"torch": "2.10.0", "capability": "AVX2", "threads": "4"})
    expected = [
        "MKL_CBWR: unset, accepted with COMPATIBLE",
        "threads: 4, accepted with unset",
        "torch: 2.10.0, accepted with 2.9.0",
    ]
    lines = message(now, then, Bounds(kl=0.0, rise=1.0))
    assert [line for line in lines if "environment: " in line] == [f"  environment: {x}" for x in expected]


@pytest.mark.parametrize(
    ("changes", "otherwise"),
    [
        pytest.param({}, False, id="same"),
        pytest.param({"arithmetic": "x"}, True, id="products"),
        pytest.param({"reference_losses": [math.nextafter(2.0, 3.0), 2.1, 1.9, 2.05]}, True, id="reference"),
    ],
)
def test_another_arithmetic_is_named(changes: dict[str, Any], otherwise: bool) -> None:
    lines = message(build_record(**changes), build_record(), Bounds(kl=0.0, rise=1.0))
    assert any(OTHERWISE in line for line in lines) is otherwise


def test_without_a_baseline_nothing_is_compared() -> None:
    lines = message(build_record(), None, Bounds(kl=0.0, rise=1.0))
    assert lines == [
        "ref-llama-mxfp8_e4m3-B: step 5 (bounds): KL to the reference 0.001000 nats/token, bound 0",
        "  cause: bounds: the case is over its bounds; there is no baseline to compare with",
        "  look first at: the layers with the largest error, and the file that step 5 names",
        "  cannot be accepted: a check fails that needs no baseline",
        (
            "  if this cost is meant: raise the bound in the file that step 5 names, or give another by "
            "--mx-bounds=FILE (docs/gate.md)"
        ),
    ]


def places(**errors: SublayerError) -> dict[str, SublayerError]:
    return {f"layers.{place}.mlp": error for place, error in errors.items()}


WAS = "accepted 2 %, -4.00e-03; error vector moved by"


def test_the_worst_layers_are_those_whose_error_turned_most_then_the_largest_that_changed() -> None:
    before = places(a=ERROR, b=ERROR, c=ERROR, d=replace(ERROR, norm=0.5), e=ERROR, f=ERROR)
    now = {
        **before,
        **places(b=replace(ERROR, sketch=(800, 600, 0, 0)), c=replace(ERROR, sketch=(600, -700, 0, 0))),
        **places(a=replace(ERROR, norm=0.03, gain=0.01), g=replace(ERROR, norm=0.4)),
        "layers.b.layer": replace(ERROR, norm=9.0),
    }
    texts = worst_layers(build_full_record(sublayers=now), build_full_record(sublayers=before))
    assert texts == [
        f"layers: layers.b.mlp: error 2 % of its update, gain -4.00e-03 ({WAS} 141 %)",
        f"layers: layers.c.mlp: error 2 % of its update, gain -4.00e-03 ({WAS} 10 %)",
        "layers: layers.g.mlp: error 40 % of its update, gain -4.00e-03",
        f"layers: layers.a.mlp: error 3 % of its update, gain +1.00e-02 ({WAS} 0 %)",
    ]


def test_without_a_baseline_the_worst_layers_are_those_of_the_largest_error() -> None:
    now = {f"layers.{n}.attention": replace(ERROR, norm=n / 100) for n in (3, 1, 6, 2, 5, 4)}
    for baseline in (None, build_record()):
        texts = worst_layers(build_full_record(sublayers=now), baseline)
        assert [text.split()[1] for text in texts] == [f"layers.{n}.attention:" for n in (6, 5, 4, 3, 2)]
        assert texts[0] == "layers: layers.6.attention: error 6 % of its update, gain -4.00e-03"


def test_where_no_layer_changed_the_largest_are_named() -> None:
    record = build_full_record(sublayers=places(a=ERROR, b=replace(ERROR, norm=0.5)))
    texts = worst_layers(record, record)
    assert [text.split()[1] for text in texts] == ["layers.b.mlp:", "layers.a.mlp:"]


def test_a_case_without_layers_has_no_worst_ones() -> None:
    assert worst_layers(build_record(), None) == []
    assert worst_layers(build_record(), build_full_record()) == []


def test_what_the_casts_did_otherwise_is_told_and_the_rest_is_not() -> None:
    accepted = build_full_record()
    assert accepted.counters is not None
    counts = replace(COUNTS, saturated=3200, flushed=0, top=0, zero_blocks=0)
    operands = {**accepted.counters.operands, Q: {"weights": COUNTS, "activations": counts}}
    record = build_full_record(counters=replace(accepted.counters, operands=operands))
    assert count_changes(accepted, accepted) == []
    assert count_changes(record, None) == count_changes(record, build_record()) == []
    assert count_changes(record, accepted) == [
        f"counts: 100 % of activations of {Q} saturated (accepted 1 %)",
        f"counts: activations of {Q}: 0 blocks are zero (accepted 10)",
        f"counts: 0 % of activations of {Q} took the largest code (accepted 3 %)",
    ]


def test_the_message_has_layers_and_counts_after_the_cause() -> None:
    accepted = build_full_record()
    assert accepted.sublayers is not None
    moved = {**accepted.sublayers, "layers.0.mlp": replace(ERROR, norm=0.03)}
    lines = message(build_full_record(sublayers=moved), accepted)
    assert lines[0].endswith("worst by 5.00e-01 (bound 1.00e-09): layers.0.mlp 0.02 → 0.03")
    assert lines[1].startswith("  cause: numerics: casts of the fixed probe and losses are the accepted ones")
    assert lines[3:] == [
        f"  layers: layers.0.mlp: error 3 % of its update, gain -4.00e-03 ({WAS} 0 %)",
        f"  if the change is meant, accept it with: {ACCEPT}",
    ]
