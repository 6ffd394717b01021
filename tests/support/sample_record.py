"""One sound record, and what a test changes about it."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean
from typing import Any

from mxcheck.gate.counters import Counters, OperandCounts
from mxcheck.gate.predictions import PROBABILITY_CHANGE_PERCENTILES, Predictions
from mxcheck.gate.record import Noise, Record
from mxcheck.gate.row_groups import Digests, RowGroups
from mxcheck.gate.statistics import exponential
from mxcheck.gate.sublayer_drift import FIGURES, SublayerError, SublayerNoise

NOISE = Noise(
    environments=["ATEN_CPU_CAPABILITY=default", "MKL_CBWR=COMPATIBLE"],
    reference_median=8e-6,
    reference_rms=1e-5,
    reference_max=1.5e-5,
    loss_median=8e-5,
    loss_rms=1e-4,
    loss_max=1.5e-4,
    kl_median=1.6e-5,
    kl_rms=2e-5,
    kl_max=3e-5,
)

_E4M3 = {"format": "fp8_e4m3", "block_size": 32, "scale_rule": "floor"}
CASTS = {"weights": _E4M3, "activations": _E4M3}
UP, Q = "layers.0.up", "layers.0.q"


def build_digests(**changed: str) -> Digests:
    """Of both modules: 64 rows of a weight in two groups, and two operands. `changed` names for `up` and `q`
    what is another: words of `codes`, `scales` and `operands`."""
    digests = {}
    for name in (UP, Q):
        other = changed.get(name.rpartition(".")[2], "").split()
        digests[name] = {
            kind: RowGroups(rows=rows, groups=(f"{kind}-1-{name}", "other" if kind in other else f"{kind}-2"))
            for kind, rows in (("codes", 64), ("scales", 64), ("operands", 2))
        }
    return digests


def build_record(**changes: Any) -> Record:
    """A case of two modules and four sequences that passes every check against itself. It has no predictions,
    layers or counters, and says so: a loss that moves alone contradicts them."""
    missing = ("predictions", "sublayers", "counters")
    figures: dict[str, Any] = {
        "kind": "recipe",
        "subject": "",
        "model": "ref-llama",
        "precision": "mxfp8_e4m3",
        "tier": "B",
        "options": [],
        "recipe": {"precision": "mxfp8_e4m3", "tier": "B", "roles": {"attention": CASTS, "mlp": CASTS}},
        "changes_bits": True,
        "fingerprints": {"weights": "a" * 64, "tokenizer": "b" * 64, "tokens": "c" * 64},
        "arithmetic": "f" * 64,
        "environment": {"torch": "2.9.0", "capability": "AVX2", "threads": "1"},
        "replaced": {UP: "mlp", Q: "attention"},
        "unconverted": {},
        "weight_bytes": 33_792,
        "original_bytes": 131_072,
        "digests": build_digests(),
        "corpus": {"used": "self", "block_length": 256},
        "scored_tokens": 1_000_000_000,  # so many that the sampling allowance vanishes
        "reference_cross_entropy": 2.0125,
        "reference_entropy": 2.0125,
        "reference_losses": [2.0, 2.1, 1.9, 2.05],
        "reference_entropies": [2.01, 2.08, 1.92, 2.04],
        "bit_equal": False,
        "cross_entropy": 2.013925,
        "perplexity": math.exp(2.013925),
        "entropy": 2.0131,
        "kl": 0.001,
        "top1_agreement": 0.9875,
        "sequence_losses": [2.001, 2.102, 1.9015, 2.0512],
        "sequence_kl": [0.001, 0.0011, 0.0009, 0.001],
        **dict.fromkeys(missing),
        "absent": dict.fromkeys(missing, "a sample has none"),
        "metrics": {},
        "unsteady": {},
        "kernel_cells": {},
        "noise": NOISE,
    }
    assert changes.keys() <= figures.keys(), "a field that a record has not"
    return Record(**{**figures, **_means(changes), **changes})


def _means(changes: dict[str, Any]) -> dict[str, Any]:
    """The means of lists by sequence that a test changes: what is shown is what was measured."""
    lists = {
        "sequence_losses": "cross_entropy",
        "sequence_kl": "kl",
        "reference_losses": "reference_cross_entropy",
        "reference_entropies": "reference_entropy",
    }
    means = {mean: fmean(changes[name]) for name, mean in lists.items() if changes.get(name)}
    if "cross_entropy" in means:
        means["perplexity"] = exponential(means["cross_entropy"])
    return means


#: What the sample's layers, casts and predictions are like.
ERROR = SublayerError(gain=-0.004, gain_99=0.02, norm=0.02, norm_99=0.05, size=0.3, sketch=(600, -800, 0, 0))
COUNTS = OperandCounts(
    elements=3200,
    saturated=32,
    flushed=64,
    top=96,
    nan=0,
    inf=0,
    zero_blocks=10,
    scales={120: 60, 121: 40},
)
_CHANGES = [-0.4, -0.3, -0.2, -0.1, -0.05, -0.01, 0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4]
PREDICTIONS = Predictions(
    sequence_entropies=[2.0105, 2.0815, 1.9205, 2.0399],
    sequence_top1=[0.985, 0.99, 0.9875, 0.9875],
    sequence_k3=[0.0011, 0.0012, 0.0008, 0.0011],
    kl_percentiles={"50": 0.0005, "90": 0.002, "99": 0.01, "99.9": 0.05, "100": 0.1},
    kl_by_position=[0.001] * 4,
    probability_change=-0.001,
    probability_change_rms=0.02,
    probability_change_percentiles=dict(zip(map(str, PROBABILITY_CHANGE_PERCENTILES), _CHANGES, strict=True)),
)


def build_full_record(**changes: Any) -> Record:
    """The same with every figure that a record can have."""
    quiet = SublayerNoise(typical=dict.fromkeys(FIGURES, 0.0), largest=dict.fromkeys(FIGURES, 0.0))
    places = [f"layers.0.{part}" for part in ("attention", "mlp", "layer")]
    figures: dict[str, Any] = {
        "predictions": PREDICTIONS,
        "sublayers": dict.fromkeys(places, ERROR),
        "counters": Counters(
            operands={name: {"weights": COUNTS, "activations": COUNTS} for name in (UP, Q)},
            expert_rows={"layers.0.experts": (70, 30)},
        ),
        "absent": {},
        "noise": replace(NOISE, sublayers=quiet),
    }
    return build_record(**{**figures, **changes})
