"""Predictions that go with a record, and what a test changes about them."""

from __future__ import annotations

from typing import Any

from mxcheck.gate.predictions import PROBABILITY_CHANGE_PERCENTILES, Predictions, predictions_from_dict
from mxcheck.gate.record import Record

CHANGE_NAMES = [str(percent) for percent in PROBABILITY_CHANGE_PERCENTILES]
CHANGES = [-0.4, -0.3, -0.2, -0.1, -0.05, -0.01, 0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4]


def build_predictions(record: Record, **changes: Any) -> Predictions:
    """Of a case with the KL and the sequences of `record`: every position has the mean KL."""
    sequences = len(record.sequence_losses)
    figures: dict[str, Any] = {
        "sequence_entropies": [record.entropy] * sequences,
        "sequence_top1": [record.top1_agreement] * sequences,
        "sequence_k3": list(record.sequence_kl),
        "kl_percentiles": {"50": 0.2, "90": 0.4, "99": 0.6, "99.9": 0.8, "100": 1.0},
        "kl_by_position": [record.kl] * 4,
        "probability_change": -0.001,
        "probability_change_rms": 0.02,
        "probability_change_percentiles": dict(zip(CHANGE_NAMES, CHANGES, strict=True)),
    }
    assert changes.keys() <= figures.keys(), "a field that predictions have not"
    return predictions_from_dict({**figures, **changes})
