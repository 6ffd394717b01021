"""Examples of step 6: drift.

Examples of a tolerance lie at twice and at half of it: of the bound that results from the multiple, the floor
and the shares of `mxcheck.gate.drift` and the noise in `healthy`. The numbers are written down, never
computed from those constants, since a constant that became ten times as large would move its example with it.
A change of a constant there requires a change here.
"""

from __future__ import annotations

import math

from validation.known_verdicts.healthy import (
    HEALTHY,
    KL,
    LOSSES,
    MAX_DECIDES,
    MEDIAN_DECIDES,
    NO_MAX_NOISE,
    NO_NOISE,
    REFERENCE,
    RMS_DECIDES,
    bad,
    elsewhere,
    good,
    moved,
    one_moved,
    some_moved,
)

# Step 6, on a machine with the baseline's arithmetic: 1e-9 nats are allowed.
DRIFT_HERE = (
    bad(
        "drift-up",
        "all losses rose by 2e-9 on a machine with the baseline's arithmetic",
        6,
        sequence_losses=moved(LOSSES, 2e-9),
    ),
    bad(
        "drift-down",
        "all losses fell by 2e-9 on a machine with the baseline's arithmetic",
        6,
        sequence_losses=moved(LOSSES, -2e-9),
    ),
    bad(
        "drift-signs", "they moved by 2e-9, by opposite signs", 6, sequence_losses=moved(LOSSES, 2e-9, -2e-9)
    ),
    bad("drift-one", "one loss rose by 2e-9", 6, sequence_losses=one_moved(LOSSES, 2e-9)),
    bad("drift-one-down", "one loss fell by 2e-9", 6, sequence_losses=one_moved(LOSSES, -2e-9)),
    good("drift-none", "nothing: the losses moved by 5e-10", sequence_losses=moved(LOSSES, 5e-10, -5e-10)),
    bad("kl-drift", "all KL moved by 2e-9, no loss did", 6, sequence_kl=moved(KL, 2e-9)),
    bad("kl-drift-one-down", "one KL fell by 2e-9", 6, sequence_kl=one_moved(KL, -2e-9)),
    bad("kl-drift-not-a-number", "one KL is NaN", 6, sequence_kl=one_moved(KL, math.nan)),
    bad(
        "metric",
        "one sequence's metric fell by 2e-9",
        6,
        metrics={"flipped": one_moved([0.01, 0.02] * 8, -2e-9)},
    ),
    bad(
        "metric-not-accepted",
        "a metric has no accepted values",
        6,
        metrics={**HEALTHY.metrics, "new": [0.0] * 16},
    ),
)

# Step 6, on another machine. The numbers exceed the bounds given with the noise above by at least half, or
# are half of them.
DRIFT_ELSEWHERE = (
    bad(
        "drift-up-elsewhere",
        "all losses rose by 8 times the noise",
        6,
        **elsewhere(MEDIAN_DECIDES, sequence_losses=moved(LOSSES, 0.08)),
    ),
    bad(
        "drift-down-elsewhere",
        "all losses fell by 8 times the noise",
        6,
        **elsewhere(MEDIAN_DECIDES, sequence_losses=moved(LOSSES, -0.08)),
    ),
    bad(
        "drift-signs-elsewhere",
        "they moved by it, by opposite signs",
        6,
        **elsewhere(RMS_DECIDES, sequence_losses=moved(LOSSES, 0.08, -0.08)),
    ),
    bad(
        "drift-rms-elsewhere",
        "seven of sixteen rose: the rms sees it, the median does not",
        6,
        **elsewhere(RMS_DECIDES, sequence_losses=some_moved(LOSSES, 0.12)),
    ),
    bad(
        "drift-one-elsewhere",
        "one loss rose by 8 times the noise",
        6,
        **elsewhere(MAX_DECIDES, sequence_losses=one_moved(LOSSES, 0.16)),
    ),
    bad(
        "drift-one-down-elsewhere",
        "one loss fell by 8 times the noise",
        6,
        **elsewhere(MAX_DECIDES, sequence_losses=one_moved(LOSSES, -0.16)),
    ),
    good(
        "drift-noise",
        "nothing: twice the noise",
        **elsewhere(MEDIAN_DECIDES, sequence_losses=moved(LOSSES, 0.02, -0.02)),
    ),
    good(
        "drift-noise-few",
        "nothing: 4.7 times the noise, of which sixteen sequences may have 5.3",
        **elsewhere(MEDIAN_DECIDES, sequence_losses=moved(LOSSES, 0.047, -0.047)),
    ),
    good(
        "drift-noise-some",
        "nothing: seven of sixteen moved by half of what they may",
        **elsewhere(RMS_DECIDES, sequence_losses=some_moved(LOSSES, -0.03)),
    ),
    good(
        "drift-noise-one",
        "nothing: one loss moved by twice the noise",
        **elsewhere(MAX_DECIDES, sequence_losses=one_moved(LOSSES, -0.04)),
    ),
    good(
        "drift-noise-reference",
        "nothing: twice the noise, where only the reference's losses show another machine",
        was={"noise": RMS_DECIDES},
        reference_losses=moved(REFERENCE, 1e-9),
        sequence_losses=moved(LOSSES, 0.02, -0.02),
    ),
    bad(
        "drift-share",
        "all losses moved by 0.1 of quantization's own effect",
        6,
        **elsewhere(NO_NOISE, sequence_losses=moved(LOSSES, -0.001)),
    ),
    good(
        "drift-share-noise",
        "nothing: by 0.025 of it",
        **elsewhere(None, sequence_losses=moved(LOSSES, 2.5e-4, -2.5e-4)),
    ),
    bad(
        "drift-share-one",
        "one loss moved by 4 times the largest rise",
        6,
        **elsewhere(NO_MAX_NOISE, sequence_losses=one_moved(LOSSES, -0.024)),
    ),
    good(
        "drift-share-one-noise",
        "nothing: one loss moved by it once",
        **elsewhere(NO_NOISE, sequence_losses=one_moved(LOSSES, 0.006)),
    ),
    bad(
        "kl-drift-elsewhere",
        "all KL rose by 8 times the noise",
        6,
        **elsewhere(MEDIAN_DECIDES, sequence_kl=moved(KL, 0.008)),
    ),
    bad(
        "kl-drift-some-elsewhere",
        "seven of sixteen KL rose",
        6,
        **elsewhere(RMS_DECIDES, sequence_kl=some_moved(KL, 0.012)),
    ),
    bad(
        "kl-drift-one-down-elsewhere",
        "one KL fell by 8 times the noise",
        6,
        **elsewhere(MAX_DECIDES, sequence_kl=one_moved(KL, -0.016)),
    ),
    good(
        "kl-drift-noise",
        "nothing: twice the noise",
        **elsewhere(MEDIAN_DECIDES, sequence_kl=moved(KL, 0.002, -0.002)),
    ),
    bad(
        "kl-drift-share",
        "all KL moved by 0.02 of it",
        6,
        **elsewhere(NO_NOISE, sequence_kl=moved(KL, -1e-4)),
    ),
    good("kl-drift-share-noise", "nothing: by 0.005 of it", **elsewhere(None, sequence_kl=moved(KL, 2.5e-5))),
    bad(
        "kl-drift-share-one",
        "one KL moved by 0.8 of the largest",
        6,
        **elsewhere(NO_MAX_NOISE, sequence_kl=one_moved(KL, 4.8e-3)),
    ),
    good(
        "kl-drift-share-one-noise",
        "nothing: one KL moved by 0.2 of it",
        **elsewhere(NO_NOISE, sequence_kl=one_moved(KL, -1.2e-3)),
    ),
    good(
        "metric-elsewhere",
        "nothing: a metric's noise is not known",
        **elsewhere(RMS_DECIDES, metrics={"flipped": [0.02] * 16}),
    ),
)


DRIFT_RECORDS = (*DRIFT_HERE, *DRIFT_ELSEWHERE)
