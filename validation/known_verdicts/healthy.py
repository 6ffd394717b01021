"""A healthy record, written by hand, and examples derived from it: a change, and the steps that must fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.counters import Counters, OperandCounts
from mxcheck.gate.predictions import Predictions
from mxcheck.gate.record import Noise, Record
from mxcheck.gate.row_groups import RowGroups
from mxcheck.gate.sublayer_drift import SublayerError


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRecord:
    """A record to judge against `baseline` (None: alone), and exactly the steps that must fail."""

    name: str
    wrong: str
    fails: tuple[int, ...]
    record: Record
    baseline: Record | None
    bounds: Bounds


WIDE = Bounds(kl=1.0, rise=1.0)
TIGHT = Bounds(kl=0.005, rise=0.005)  # and 0.01 for the sampling error of 1600 tokens: 4 √(2 · 0.005 / 1600)

# A healthy record: sixteen sequences of a hundred tokens. Its mean rise and its KL are 0.005.
REFERENCE = [2.0, 2.1, 1.9, 2.05, 1.95, 2.2, 1.8, 2.0, 2.15, 1.85, 2.0, 2.02, 1.98, 2.3, 1.7, 2.0]
ENTROPIES = [2.01, 2.09, 1.91, 2.04, 1.96, 2.19, 1.81, 1.99, 2.16, 1.84, 2.01, 2.01, 1.99, 2.29, 1.71, 1.99]
LOSSES = [2.004, 2.106, 1.904, 2.056, 1.954, 2.206, 1.804, 2.006]
LOSSES += [2.154, 1.856, 2.004, 2.026, 1.984, 2.306, 1.704, 2.006]
KL = [0.004, 0.006, 0.004, 0.006, 0.004, 0.006, 0.004, 0.006] * 2
ROLES = {f"layers.{layer}.{name}": "mlp" for layer in range(4) for name in ("up", "down")}
ROLES |= {f"layers.{layer}.q": "attention" for layer in range(4)}
Q = "layers.3.q"
DIGESTS = {
    name: {
        "codes": RowGroups(rows=64, groups=(f"c-{name}", f"d-{name}")),
        "scales": RowGroups(rows=64, groups=(f"s-{name}", f"t-{name}")),
        "operands": RowGroups(rows=2, groups=(f"x-{name}", f"w-{name}")),
    }
    for name in ROLES
}
#: Four sublayers: a sketch of length 1000, errors of 2 % of an update that is 0.3 of its input.
LAYERS = {
    f"layers.{layer}.{name}": SublayerError(
        gain=-0.004, gain_99=0.02, norm=0.02, norm_99=0.05, size=0.3, sketch=(600, -800, 0, 0)
    )
    for layer in range(2)
    for name in ("attention", "mlp")
}
#: Counters of one module's weights and activations, in blocks of 32; two experts took 100 rows each.
COUNTS = OperandCounts(
    elements=3200,
    saturated=320,
    flushed=320,
    top=320,
    nan=0,
    inf=0,
    zero_blocks=10,
    scales={120: 50, 121: 50},
)
COUNTERS = Counters(
    operands={Q: {"weights": COUNTS, "activations": COUNTS}}, expert_rows={"layers.0.mlp": (100, 100)}
)
OUTPUT_ENTROPIES = [2.0, 2.1, 1.91, 2.05, 1.95, 2.21, 1.8, 2.0]
OUTPUT_ENTROPIES += [2.16, 1.85, 2.0, 2.03, 1.98, 2.31, 1.7, 2.03]
PREDICTIONS = Predictions(
    sequence_entropies=OUTPUT_ENTROPIES,
    sequence_top1=[0.98] * 16,
    sequence_k3=[0.004, 0.006] * 8,
    kl_percentiles={"50": 0.002, "90": 0.01, "99": 0.04, "99.9": 0.09, "100": 0.1},
    kl_by_position=[0.005] * 4,
    probability_change=0.0,
    probability_change_rms=0.01,
    probability_change_percentiles={
        "0": -0.1,
        "0.1": -0.09,
        "1": -0.04,
        "5": -0.02,
        "10": -0.01,
        "25": -0.001,
        "50": 0.0,
        "75": 0.001,
        "90": 0.01,
        "95": 0.02,
        "99": 0.04,
        "99.9": 0.09,
        "100": 0.1,
    },
)
#: Fields of a record with predictions. (HEALTHY has none: a loss that moves alone contradicts them.)
PREDICTED: dict[str, Any] = {"predictions": PREDICTIONS, "absent": {}}
CASTS = {"format": "fp8_e4m3", "block_size": 32, "scale_rule": "floor"}
PRINTS = {"weights": "a" * 64, "tokenizer": "b" * 64, "tokens": "c" * 64, "documents": "d" * 64}
SELF = {"used": "self", "block_length": 256}
OTHER_MACHINE = "e" * 64

#: The median's bound decides: of losses 0.04, of KL 0.004, of step 2 4e-4; the others are wide.
MEDIAN_DECIDES = Noise(
    environments=["example"],
    reference_median=1e-4,
    reference_rms=5e-4,
    reference_max=1e-3,
    loss_median=0.01,
    loss_rms=0.05,
    loss_max=0.1,
    kl_median=1e-3,
    kl_rms=5e-3,
    kl_max=1e-2,
)
#: The rms's bound decides: of losses 0.04, of KL 0.004, of step 2 4e-4. (Below a quarter of the maximum's,
#: 0.12, 0.012 and 1.2e-3, it would have no effect: one sequence of sixteen alone may move by that.)
RMS_DECIDES = Noise(
    environments=["example"],
    reference_median=1e-3,
    reference_rms=1e-4,
    reference_max=3e-4,
    loss_median=0.1,
    loss_rms=0.01,
    loss_max=0.03,
    kl_median=1e-2,
    kl_rms=1e-3,
    kl_max=3e-3,
)
#: The maximum's bound decides: of losses 0.08, of KL 0.008, of step 2 4e-4.
MAX_DECIDES = Noise(
    environments=["example"],
    reference_median=1e-3,
    reference_rms=1e-3,
    reference_max=1e-4,
    loss_median=0.1,
    loss_rms=0.1,
    loss_max=0.02,
    kl_median=1e-2,
    kl_rms=1e-2,
    kl_max=2e-3,
)
#: The shares decide. For the median: losses 5e-4, which is 0.05 of √(2 · 0.005 / 100), KL 5e-5, 0.01 of it.
#: For the maximum: losses 0.012, twice the largest rise of 0.006, and KL 0.0024, 0.4 of the largest, 0.006.
NO_NOISE = Noise(
    environments=["example"],
    reference_median=0.0,
    reference_rms=0.0,
    reference_max=0.0,
    loss_median=0.0,
    loss_rms=0.0,
    loss_max=0.0,
    kl_median=0.0,
    kl_rms=0.0,
    kl_max=0.0,
)
#: The same for the maximum alone.
NO_MAX_NOISE = replace(NO_NOISE, loss_rms=0.02, kl_rms=2e-3)

HEALTHY = Record(
    kind="recipe",
    subject="",
    model="example",
    precision="mxfp8_e4m3",
    tier="B",
    options=["block16"],
    recipe={"precision": "mxfp8_e4m3", "roles": {"mlp": {"weights": CASTS, "activations": CASTS}}},
    changes_bits=True,
    fingerprints=PRINTS,
    arithmetic="f" * 64,
    environment={"torch": "2.9.0"},
    replaced=ROLES,
    unconverted={"layers.0.bias": "no matrix"},
    weight_bytes=1000,
    original_bytes=4000,
    digests=DIGESTS,
    corpus=SELF,
    scored_tokens=1600,
    reference_cross_entropy=2.0,
    reference_entropy=2.0,
    reference_losses=REFERENCE,
    reference_entropies=ENTROPIES,
    bit_equal=False,
    cross_entropy=2.005,
    perplexity=math.exp(2.005),
    entropy=2.005,
    kl=0.005,
    top1_agreement=0.98,
    sequence_losses=LOSSES,
    sequence_kl=KL,
    predictions=None,
    sublayers=LAYERS,
    counters=COUNTERS,
    absent={"predictions": "this is an example"},
    metrics={"flipped": [0.01, 0.02] * 8},
    noise=RMS_DECIDES,
)


def moved(values: Sequence[float], *changes: float) -> list[float]:
    """Add `changes`, repeated cyclically, to `values`."""
    return [value + changes[index % len(changes)] for index, value in enumerate(values)]


def some_moved(values: Sequence[float], change: float) -> list[float]:
    """Move seven of sixteen values: too few for the median. Their rms is 0.66 of the change."""
    return [value + change * (index < 7) for index, value in enumerate(values)]


def one_moved(values: Sequence[float], change: float) -> list[float]:
    return [value + change * (index == 5) for index, value in enumerate(values)]


def bad(
    name: str,
    wrong: str,
    *fails: int,
    was: dict[str, Any] | None = None,
    alone: bool = False,
    bounds: Bounds = WIDE,
    **now: Any,
) -> KnownRecord:
    """Return the healthy record with fields `now`, against the healthy one with fields `was`; `fails` must
    fail."""
    baseline = replace(HEALTHY, **(was or {}))
    # `was` alone changes fields of both records; the noise belongs to the baseline, since a run measures
    # none.
    record = replace(baseline, **{"noise": None, **now})
    return KnownRecord(
        name=name,
        wrong=wrong,
        fails=fails,
        record=record,
        baseline=None if alone else baseline,
        bounds=bounds,
    )


def good(name: str, wrong: str, **rest: Any) -> KnownRecord:
    """Return a record that must pass: people switch off a gate with false alarms."""
    return bad(name, wrong, **rest)


def elsewhere(noise: Noise | None, *, was: dict[str, Any] | None = None, **now: Any) -> dict[str, Any]:
    """Return the fields of a run on a machine of other arithmetic than the baseline's, whose
    record has `noise` and the fields `was`."""
    return {"was": {"noise": noise, **(was or {})}, "arithmetic": OTHER_MACHINE, **now}


def without(table: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != name}
