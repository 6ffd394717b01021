"""Examples of steps 2 and 6: k3, entropies and top-1 agreement. Their numbers are written down as those of
`drifts` are.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from mxcheck.gate.record import Noise
from validation.known_verdicts.healthy import (
    HEALTHY,
    KL,
    MAX_DECIDES,
    MEDIAN_DECIDES,
    NO_MAX_NOISE,
    NO_NOISE,
    OUTPUT_ENTROPIES,
    PREDICTED,
    PREDICTIONS,
    REFERENCE,
    RMS_DECIDES,
    bad,
    elsewhere,
    good,
    moved,
    one_moved,
    some_moved,
)


def _predictions(**changed: Any) -> dict[str, Any]:
    return {**PREDICTED, "predictions": replace(PREDICTIONS, **changed)}


def _k3(*values: float) -> dict[str, Any]:
    """Return the healthy k3 moved by `values`, repeated cyclically."""
    return _predictions(sequence_k3=moved(KL, *values))


# Step 2. With k3 scattered by 0.001 about the rise the standard error is 2.6e-4. 10.7 of these are allowed:
# 2.75e-3.
_COARSE = {"kl": 0.3, "sequence_kl": [0.3] * 16}
_FINE = {"kl": 0.1, "sequence_kl": [0.1] * 16, "sequence_losses": moved(REFERENCE, 0.11, 0.09)}
_WITHOUT_KL = {"kl": None, "sequence_kl": None, "absent": dict.fromkeys(("kl", "sequence_kl"), "an example")}
ESTIMATES = (
    good("estimates", "nothing: k3 is the rise and the KL", was=_k3(0.001, -0.001)),
    good("estimates-alone", "nothing, without a baseline", alone=True, was=_k3(0.001, -0.001)),
    bad("k3-above", "k3 is above the rise and the KL", 2, was=_k3(0.0065, 0.0045)),
    bad("k3-below", "k3 is below them", 2, was=_k3(-0.0045, -0.0065)),
    bad("k3-alone", "the same, without a baseline", 2, alone=True, was=_k3(0.0065, 0.0045)),
    bad("k3-now", "k3 moved away from them", 2, 6, was=_k3(0.001, -0.001), **_k3(0.0065, 0.0045)),
    good("k3-near", "nothing: k3 is above them by half of what may be", was=_k3(0.0024, 0.0004)),
    bad(
        "k3-against-the-rise",
        "k3 is above the rise, where no KL is known",
        2,
        was={**_k3(0.0065, 0.0045), **_WITHOUT_KL},
    ),
    good(
        "k3-near-the-rise",
        "nothing: by half of what may be, where no KL is known",
        was={**_k3(0.0024, 0.0004), **_WITHOUT_KL},
    ),
    bad(
        "other-tokens",
        "the case is scored against other tokens than the reference",
        2,
        was={**PREDICTED, "sequence_losses": moved(REFERENCE, 1.1, 0.9)},
    ),
    bad(
        "other-tokens-alone",
        "the same, without a baseline",
        2,
        alone=True,
        was={**PREDICTED, "sequence_losses": moved(REFERENCE, 1.1, 0.9)},
    ),
    bad(
        "other-tokens-coarse",
        "the rise of a coarse case is above its KL by 0.55, where 0.28 may be",
        2,
        was={**PREDICTED, **_COARSE, "sequence_losses": moved(REFERENCE, 0.95, 0.75)},
    ),
    good(
        "k3-coarse",
        "nothing: the rise is above the KL by 0.14, and k3 of a coarse case says nothing",
        was={
            **_predictions(sequence_k3=[0.1, 0.0] * 8),
            **_COARSE,
            "sequence_losses": moved(REFERENCE, 0.54, 0.34),
        },
    ),
    bad(
        "k3-fine",
        "k3 of a case whose KL is 0.1 is above it by 0.055, where 0.028 may be",
        2,
        was={**_predictions(sequence_k3=[0.165, 0.145] * 8), **_FINE},
    ),
    good(
        "k3-text-of-others",
        "nothing: on a text that is not the model's own k3 is not the KL",
        was={**_k3(0.0065, 0.0045), "corpus": {"used": "pile"}},
    ),
    bad(
        "k3-not-a-number",
        "k3 of one sequence is NaN",
        2,
        6,
        was=_k3(0.001, -0.001),
        **_predictions(sequence_k3=one_moved(KL, math.nan)),
    ),
)


def _entropies(values: list[float]) -> dict[str, Any]:
    return _predictions(sequence_entropies=values)


K3_HERE = (
    bad("k3-up", "k3 rose by 2e-9", 6, was=_k3(0.001, -0.001), **_k3(0.001 + 2e-9, -0.001 + 2e-9)),
    bad("k3-down", "k3 fell by 2e-9", 6, was=_k3(0.001, -0.001), **_k3(0.001 - 2e-9, -0.001 - 2e-9)),
    good(
        "k3-none", "nothing: k3 rose by 5e-10", was=_k3(0.001, -0.001), **_k3(0.001 + 5e-10, -0.001 + 5e-10)
    ),
    good(
        "k3-elsewhere",
        "nothing: on another machine k3 is not held",
        **elsewhere(NO_NOISE, was=_k3(0.001, -0.001), **_k3(0.0012, -0.0008)),
    ),
)

# Step 6. The noise is that of the losses. Without noise the median may move by 5e-4 and one sequence by twice
# quantization's largest change, which is 0.04.
ENTROPIES_HERE = (
    good(
        "entropy-none",
        "nothing: they moved by 5e-10",
        was=PREDICTED,
        **_entropies(moved(OUTPUT_ENTROPIES, 5e-10, -5e-10)),
    ),
    bad(
        "entropy-up",
        "all entropies rose by 2e-9",
        6,
        was=PREDICTED,
        **_entropies(moved(OUTPUT_ENTROPIES, 2e-9)),
    ),
    bad("entropy-down", "they fell by 2e-9", 6, was=PREDICTED, **_entropies(moved(OUTPUT_ENTROPIES, -2e-9))),
    bad(
        "entropy-one",
        "one entropy fell by 2e-9",
        6,
        was=PREDICTED,
        **_entropies(one_moved(OUTPUT_ENTROPIES, -2e-9)),
    ),
    bad(
        "entropy-not-a-number",
        "one entropy is NaN",
        6,
        was=PREDICTED,
        **_entropies(one_moved(OUTPUT_ENTROPIES, math.nan)),
    ),
)


def _entropy_elsewhere(noise: Noise | None, values: list[float]) -> dict[str, Any]:
    return elsewhere(noise, was=PREDICTED, **_entropies(values))


ENTROPIES_ELSEWHERE = (
    bad(
        "entropy-up-elsewhere",
        "all entropies rose by 8 times the noise",
        6,
        **_entropy_elsewhere(MEDIAN_DECIDES, moved(OUTPUT_ENTROPIES, 0.08)),
    ),
    bad(
        "entropy-down-elsewhere",
        "they fell by 8 times the noise",
        6,
        **_entropy_elsewhere(MEDIAN_DECIDES, moved(OUTPUT_ENTROPIES, -0.08)),
    ),
    bad(
        "entropy-some-elsewhere",
        "seven of sixteen rose: the rms sees it, the median does not",
        6,
        **_entropy_elsewhere(RMS_DECIDES, some_moved(OUTPUT_ENTROPIES, 0.12)),
    ),
    bad(
        "entropy-one-elsewhere",
        "one fell by 8 times the noise",
        6,
        **_entropy_elsewhere(MAX_DECIDES, one_moved(OUTPUT_ENTROPIES, -0.16)),
    ),
    good(
        "entropy-noise",
        "nothing: twice the noise",
        **_entropy_elsewhere(MEDIAN_DECIDES, moved(OUTPUT_ENTROPIES, 0.02, -0.02)),
    ),
    good(
        "entropy-noise-one",
        "nothing: one moved by twice the noise",
        **_entropy_elsewhere(MAX_DECIDES, one_moved(OUTPUT_ENTROPIES, 0.04)),
    ),
    bad(
        "entropy-share",
        "all moved by 0.1 of quantization's own effect",
        6,
        **_entropy_elsewhere(NO_NOISE, moved(OUTPUT_ENTROPIES, -0.001)),
    ),
    good(
        "entropy-share-noise",
        "nothing: by 0.025 of it",
        **_entropy_elsewhere(None, moved(OUTPUT_ENTROPIES, 2.5e-4, -2.5e-4)),
    ),
    bad(
        "entropy-share-one",
        "one moved by 4 times the largest change by quantization",
        6,
        **_entropy_elsewhere(NO_MAX_NOISE, one_moved(OUTPUT_ENTROPIES, -0.16)),
    ),
    good(
        "entropy-share-one-noise",
        "nothing: one moved by it once",
        **_entropy_elsewhere(NO_NOISE, one_moved(OUTPUT_ENTROPIES, 0.04)),
    ),
    bad(
        "entropy-not-a-number-elsewhere",
        "one is NaN, on another machine",
        6,
        **_entropy_elsewhere(RMS_DECIDES, one_moved(OUTPUT_ENTROPIES, math.nan)),
    ),
    bad(
        "predictions-lost",
        "the predictions have no figures any more",
        3,
        was=PREDICTED,
        predictions=None,
        absent={"predictions": "an example"},
    ),
)

# 80 of 1600 tokens disagree with the reference: elsewhere the agreement may move by 1 + 3 √80 tokens, 0.0174.
_FIVE_IN_A_HUNDRED = {"top1_agreement": 0.95}
TOP1 = (
    bad("top1-up", "the top-1 agreement rose by 2e-9", 6, top1_agreement=0.98 + 2e-9),
    bad("top1-down", "it fell by 2e-9", 6, top1_agreement=0.98 - 2e-9),
    good("top1-none", "nothing: it rose by 5e-10", top1_agreement=0.98 + 5e-10),
    bad(
        "top1-up-elsewhere",
        "it rose by twice what it may",
        6,
        **elsewhere(NO_NOISE, was=_FIVE_IN_A_HUNDRED, top1_agreement=0.9848),
    ),
    bad(
        "top1-down-elsewhere",
        "it fell by twice what it may",
        6,
        **elsewhere(RMS_DECIDES, was=_FIVE_IN_A_HUNDRED, top1_agreement=0.9152),
    ),
    good(
        "top1-noise",
        "nothing: it rose by half of it",
        **elsewhere(NO_NOISE, was=_FIVE_IN_A_HUNDRED, top1_agreement=0.9587),
    ),
    good(
        "top1-noise-down",
        "nothing: it fell by half of it",
        **elsewhere(None, was=_FIVE_IN_A_HUNDRED, top1_agreement=0.9413),
    ),
    bad(
        "top1-of-equal",
        "two tokens of a case that agreed in all disagree",
        6,
        **elsewhere(NO_NOISE, was={"top1_agreement": 1.0}, top1_agreement=1 - 2 / 1600),
    ),
    good(
        "top1-of-equal-noise",
        "nothing: one token does",
        **elsewhere(NO_NOISE, was={"top1_agreement": 1.0}, top1_agreement=1 - 1 / 1600),
    ),
    bad("top1-not-a-number", "it is NaN", 6, top1_agreement=math.nan),
    bad(
        "top1-not-a-number-elsewhere",
        "it is NaN, on another machine",
        6,
        **elsewhere(RMS_DECIDES, top1_agreement=math.nan),
    ),
)

# Where no KL is known, k3 gives quantization's effect on a sequence: the median may move by 5e-4 (`drifts`).
_K3_INSTEAD = {**_k3(0.001, -0.001), **_WITHOUT_KL}
LOSSES_WITHOUT_KL = (
    bad(
        "drift-share-k3",
        "all losses moved by 0.1 of quantization's own effect, which k3 tells",
        6,
        **elsewhere(NO_NOISE, was=_K3_INSTEAD, sequence_losses=moved(HEALTHY.sequence_losses, -0.001)),
    ),
    good(
        "drift-share-k3-noise",
        "nothing: by 0.025 of it",
        **elsewhere(None, was=_K3_INSTEAD, sequence_losses=moved(HEALTHY.sequence_losses, 2.5e-4, -2.5e-4)),
    ),
)

PREDICTION_RECORDS = (*ESTIMATES, *K3_HERE, *ENTROPIES_HERE, *ENTROPIES_ELSEWHERE, *TOP1, *LOSSES_WITHOUT_KL)
