"""Examples of step 2: the reference. Their numbers are written down as those of step 6 are (`drifts`)."""

from __future__ import annotations

import math

from validation.known_verdicts.healthy import (
    ENTROPIES,
    KL,
    LOSSES,
    MAX_DECIDES,
    MEDIAN_DECIDES,
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

# Step 2. The reference's noise is 1e-4 and the bounds 4e-4; without noise, only the floor of 2e-6. The mean
# of loss minus entropy has a standard error of 0.0026 here and may be 0.0138.
REFERENCE_STANDS = (
    bad(
        "reference-up",
        "the reference's losses rose",
        2,
        **elsewhere(MEDIAN_DECIDES, reference_losses=moved(REFERENCE, 8e-4)),
    ),
    bad(
        "reference-down",
        "the reference's losses fell",
        2,
        **elsewhere(MEDIAN_DECIDES, reference_losses=moved(REFERENCE, -8e-4)),
    ),
    bad(
        "reference-signs",
        "they moved by opposite signs",
        2,
        **elsewhere(RMS_DECIDES, reference_losses=moved(REFERENCE, 8e-4, -8e-4)),
    ),
    bad(
        "reference-some",
        "seven of sixteen rose",
        2,
        **elsewhere(RMS_DECIDES, reference_losses=some_moved(REFERENCE, 1.2e-3)),
    ),
    bad(
        "reference-one-down",
        "one of them fell",
        2,
        **elsewhere(MAX_DECIDES, reference_losses=one_moved(REFERENCE, -8e-4)),
    ),
    good(
        "reference-noise",
        "nothing: the reference moved within its noise",
        **elsewhere(RMS_DECIDES, reference_losses=moved(REFERENCE, 2e-4, -2e-4)),
    ),
    bad(
        "reference-floor",
        "they rose by 4e-6, without noise",
        2,
        **elsewhere(NO_NOISE, reference_losses=moved(REFERENCE, 4e-6)),
    ),
    good(
        "reference-floor-noise",
        "nothing: they rose by 1e-6",
        **elsewhere(None, reference_losses=moved(REFERENCE, 1e-6)),
    ),
    bad(
        "reference-not-a-number",
        "one of its losses is NaN",
        2,
        5,
        reference_losses=one_moved(REFERENCE, math.nan),
    ),
    bad(
        "reference-infinite",
        "one of its losses is infinite",
        2,
        5,
        reference_losses=one_moved(REFERENCE, math.inf),
    ),
    bad(
        "argmax",
        "its losses are below its entropies, as against the argmax",
        2,
        was={"reference_entropies": moved(ENTROPIES, 0.5)},
    ),
    bad(
        "loss-above-entropy",
        "its losses are above its entropies, a little",
        2,
        was={"reference_entropies": moved(ENTROPIES, -0.03)},
    ),
    bad(
        "loss-below-entropy",
        "its losses are below its entropies, a little",
        2,
        was={"reference_entropies": moved(ENTROPIES, 0.03)},
    ),
    bad(
        "argmax-alone",
        "the same, without a baseline",
        2,
        alone=True,
        was={"reference_entropies": moved(ENTROPIES, 0.03)},
    ),
    good(
        "loss-near-entropy",
        "nothing: within the error of the sampling",
        was={"reference_entropies": moved(ENTROPIES, 0.01)},
    ),
    good(
        "text-of-others",
        "nothing: a text that is not the model's own",
        was={"corpus": {"used": "pile"}, "reference_entropies": moved(ENTROPIES, 0.5)},
    ),
    bad(
        "sequence-lost",
        "fifteen sequences for sixteen",
        1,
        2,
        6,
        scored_tokens=1500,
        reference_losses=REFERENCE[:15],
        reference_entropies=ENTROPIES[:15],
        sequence_losses=LOSSES[:15],
        sequence_kl=KL[:15],
        metrics={},
    ),
)
