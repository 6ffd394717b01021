"""Examples of records whose figures contradict each other, so that summaries do not match the
measurements."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.decision import Accepted, decide
from mxcheck.gate.update import Update
from validation.known_verdicts.expectation import Expectation, expect
from validation.known_verdicts.healthy import HEALTHY, KL, PREDICTED, PREDICTIONS

_FULL = replace(HEALTHY, **PREDICTED)
_CHANGE, _PERCENTILES = PREDICTIONS.probability_change_percentiles, PREDICTIONS.kl_percentiles


def _predictions(**changed: Any) -> dict[str, Any]:
    return {"predictions": replace(PREDICTIONS, **changed)}


def _decided(changes: dict[str, Any]) -> str:
    """Return the decision on the healthy record with these fields, compared with the same without a noise."""
    record = replace(_FULL, **changes)
    try:
        return decide(record, Accepted(record=record), Bounds(kl=1.0, rise=1.0), Update()).result.word
    except ValueError as error:
        return "refused" if "contradicts itself" in str(error) else str(error)


_RUINED: dict[str, Any] = {
    "sequence_losses": [1e4] * 16,
    "cross_entropy": 1e4,
    "perplexity": math.inf,
    "predictions": None,
    "absent": {"predictions": "an example"},
}
_BIT_EQUAL: dict[str, Any] = {
    "bit_equal": True,
    "changes_bits": None,
    "top1_agreement": 1.0,
    "kl": 0.0,
    "sequence_kl": [0.0] * 16,
    "predictions": None,
    "absent": {"predictions": "an example"},
}
_WRONG: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("cross-entropy", "the cross-entropy is not the mean", {"cross_entropy": 2.0051}),
    ("reference", "the reference's cross-entropy is not", {"reference_cross_entropy": 2.0001}),
    ("reference-entropy", "the reference's entropy is not", {"reference_entropy": 2.0001}),
    ("entropy", "the entropy is not", {"entropy": 2.0051}),
    ("entropy-lost", "the entropy is not there", {"entropy": None, "absent": {"entropy": "an example"}}),
    ("kl", "the KL is not", {"kl": 0.0051}),
    ("kl-sequence", "the last KL of a sequence moved", {"sequence_kl": [*KL[:-1], 0.007]}),
    ("perplexity", "the perplexity is of base 2", {"perplexity": 2.0**2.005}),
    ("top1", "the top-1 agreement is not the mean", {"top1_agreement": 0.97}),
    ("bit-equal-top1", "equal bits rank other tokens first", {**_BIT_EQUAL, "top1_agreement": 0.98}),
    ("bit-equal-kl", "equal bits have a KL", {**_BIT_EQUAL, "kl": 0.005, "sequence_kl": KL}),
    ("entropies-count", "an entropy is missing", _predictions(sequence_entropies=[2.005] * 15)),
    ("parts", "the KL of the parts is another", _predictions(kl_by_position=[0.005, 0.005, 0.005, 0.006])),
    ("parts-count", "a part is missing", _predictions(kl_by_position=[0.005] * 3)),
    (
        "percentiles",
        "the median KL is above the 90 %",
        _predictions(kl_percentiles={**_PERCENTILES, "50": 0.02}),
    ),
    (
        "largest",
        "a part has more KL than any token",
        _predictions(kl_percentiles=dict.fromkeys(_PERCENTILES, 0.004)),
    ),
    (
        "probability",
        "a probability rose by more than 1",
        _predictions(probability_change_percentiles={**_CHANGE, "100": 1.1}),
    ),
    ("probability-mean", "the mean change is above the largest", _predictions(probability_change=0.2)),
    ("probability-rms", "the rms is below the mean", _predictions(probability_change=0.05)),
    ("k3", "k3 of a sequence is negative", _predictions(sequence_k3=[*KL[:-1], -0.001])),
)

CONTRADICTIONS: tuple[Expectation, ...] = (
    expect("figures", "a record whose figures fit", lambda: _decided({}), "pass"),
    expect("figures-infinite", "a perplexity that overflows", lambda: _decided(_RUINED), "FAIL step 5"),
    expect("figures-bit-equal", "a record of equal bits", lambda: _decided(_BIT_EQUAL), "pass"),
    *(
        expect(f"figures-{name}", what, partial(_decided, changes), "refused")
        for name, what, changes in _WRONG
    ),
)
