"""Examples of steps 1, 3, 4 and 5: inputs, conversion, casts, bounds."""

from __future__ import annotations

import math

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.row_groups import Digests, RowGroups
from validation.known_verdicts.healthy import (
    CASTS,
    DIGESTS,
    HEALTHY,
    LOSSES,
    PRINTS,
    REFERENCE,
    RMS_DECIDES,
    ROLES,
    SELF,
    TIGHT,
    Q,
    bad,
    elsewhere,
    good,
    moved,
    one_moved,
    without,
)

INPUTS = (
    good("healthy", "nothing: the accepted record itself", bounds=TIGHT),
    good("healthy-alone", "nothing, without a baseline", alone=True, bounds=TIGHT),
    good("healthy-environment", "nothing that counts: another torch", environment={"torch": "3"}),
    *(
        bad(f"{name}-changed", f"fingerprint of the {name}", 1, fingerprints={**PRINTS, name: "0" * 64})
        for name in PRINTS
    ),
    *(
        bad(f"{name}-missing", f"no such fingerprint: {name}", 1, fingerprints=without(PRINTS, name))
        for name in PRINTS
    ),
    bad(
        "recipe-field",
        "another block size in the recipe, and all figures ruined",
        1,
        recipe={
            "precision": "mxfp8_e4m3",
            "roles": {"mlp": {"weights": {**CASTS, "block_size": 16}, "activations": CASTS}},
        },
        digests={},
        sequence_losses=moved(LOSSES, 9.0),
    ),
    bad("another-model", "the baseline is another model's", 1, model="example2"),
    bad("another-precision", "the baseline is another precision's", 1, precision="mxfp8_e5m2"),
    bad("another-tier", "the baseline is another tier's", 1, tier="A"),
    bad("another-options", "the baseline has other options", 1, options=["attention"]),
    bad("another-kind", "the baseline is that of a checkpoint", 1, kind="checkpoint"),
    bad("another-subject", "the baseline is that of another checkpoint", 1, subject="theirs"),
    bad("corpus", "another length of the corpus's blocks", 1, corpus={**SELF, "block_length": 128}),
    good(
        "corpus-revision",
        "nothing that counts: another revision, same text",
        corpus={**SELF, "revision": "1"},
    ),
)

CONVERSION = (
    bad("module-lost", "a module is left out", 3, replaced=without(ROLES, Q), digests=without(DIGESTS, Q)),
    bad("module-added", "the head is quantized too", 3, replaced={**ROLES, "head": "head"}),
    bad("role", "a module has another role", 3, replaced={**ROLES, Q: "mlp"}),
    bad(
        "reason",
        "a module is left as it is for another reason",
        3,
        unconverted={"layers.0.bias": "too small"},
    ),
    bad(
        "reason-new",
        "another module is left as it is",
        3,
        unconverted={**HEALTHY.unconverted, "head": "too small"},
    ),
    bad("reason-lost", "a module is no longer left as it is", 3, unconverted={}),
    bad("nothing-quantized", "the result is the reference", 3, bit_equal=True),
    bad("nothing-quantized-alone", "the same, without a baseline", 3, alone=True, bit_equal=True),
    bad("bits-changed", "the recipe changes no bit, and the result did", 3, was={"changes_bits": False}),
    good(
        "no-bits-changed",
        "nothing: the recipe changes no bit",
        was={"changes_bits": False, "bit_equal": True},
    ),
    bad("bytes-more", "the weights take one byte more", 3, weight_bytes=1001),
    bad("bytes-fewer", "they take one byte less", 3, weight_bytes=999),
    bad("bytes-loaded", "as loaded they take one byte less", 3, original_bytes=3999),
    bad(
        "figure-lost",
        "a figure that was accepted is not measured",
        3,
        top1_agreement=None,
        absent={**HEALTHY.absent, "top1_agreement": "an example"},
    ),
    bad("figure-lost-silently", "the same, and no reason is given", 3, top1_agreement=None),
    bad(
        "figure-new",
        "a figure is measured that was not accepted",
        3,
        was={"top1_agreement": None, "absent": {**HEALTHY.absent, "top1_agreement": "an example"}},
        top1_agreement=0.98,
        absent=HEALTHY.absent,
    ),
    bad(
        "figure-part-lost",
        "a part of a figure is not measured",
        3,
        absent={**HEALTHY.absent, "sublayers: layers.9.mlp": "an example"},
    ),
    bad(
        "figure-part-new",
        "a part of a figure is measured that was not accepted",
        3,
        was={"absent": {**HEALTHY.absent, "sublayers: layers.9.mlp": "an example"}},
        absent=HEALTHY.absent,
    ),
    good(
        "figure-reason",
        "nothing that counts: a figure that was not accepted is absent for another reason",
        absent={"predictions": "another"},
    ),
    good("bits-perhaps", "nothing: the recipe may change bits", was={"changes_bits": None}, bit_equal=True),
)

_OTHER = RowGroups(rows=64, groups=("x", "x"))


def _of_q(**digests: RowGroups) -> Digests:
    """Return the healthy digests with these for one module."""
    return {**DIGESTS, Q: {**DIGESTS[Q], **digests}}


CASTS_STAND = (
    bad("codes-digest", "one weight of twelve has other codes", 4, digests=_of_q(codes=_OTHER)),
    bad("scales-digest", "one weight of twelve has other scales", 4, digests=_of_q(scales=_OTHER)),
    bad(
        "operands-digest",
        "one module of twelve gets other operands",
        4,
        digests=_of_q(operands=RowGroups(rows=2, groups=("x", "w-layers.3.q"))),
    ),
    bad(
        "rows-digest",
        "the last rows of one weight have other codes",
        4,
        digests=_of_q(codes=RowGroups(rows=64, groups=("c-layers.3.q", "x"))),
    ),
    bad(
        "rows-digest-swapped",
        "the halves of one weight are swapped",
        4,
        digests=_of_q(codes=RowGroups(rows=64, groups=("d-layers.3.q", "c-layers.3.q"))),
    ),
    bad(
        "rows-fewer",
        "one weight has fewer rows, of the same digests",
        4,
        digests=_of_q(codes=RowGroups(rows=63, groups=("c-layers.3.q", "d-layers.3.q"))),
    ),
    bad(
        "digests-swapped",
        "two modules' digests are swapped",
        4,
        digests={**DIGESTS, Q: DIGESTS["layers.0.q"], "layers.0.q": DIGESTS[Q]},
    ),
    bad("digest-missing", "one module has no digests", 4, digests=without(DIGESTS, Q)),
    *(
        bad(
            f"{kind}-digest-missing",
            f"one module has no digest of its {kind}",
            4,
            digests={**DIGESTS, Q: without(DIGESTS[Q], kind)},
        )
        for kind in ("codes", "scales", "operands")
    ),
    bad("digests-missing", "no module has digests", 4, digests={}),
    bad(
        "digest-elsewhere",
        "one weight has other codes, on another machine",
        4,
        **elsewhere(RMS_DECIDES, digests=_of_q(codes=_OTHER)),
    ),
)

ONE = {
    "scored_tokens": 100,
    "reference_losses": [2.0],
    "reference_entropies": [2.0],
    "sequence_kl": [0.005],
    "metrics": {},
}
BOUNDS = (
    bad("kl-over", "the KL is a hundredth over its bound", 5, bounds=TIGHT, kl=0.00505),
    bad("kl-over-alone", "the same, without a baseline", 5, bounds=TIGHT, alone=True, kl=0.00505),
    good("kl-under", "nothing: the KL is a hundredth within its bound", bounds=TIGHT, kl=0.00495),
    bad("kl-not-a-number", "the KL is NaN", 5, kl=math.nan),
    bad(
        "rise-over",
        "the loss rises by 0.03, where 0.015 is allowed",
        5,
        bounds=TIGHT,
        was={"sequence_losses": moved(REFERENCE, 0.03)},
    ),
    good(
        "rise-under",
        "nothing: it rises by half of what is allowed",
        bounds=TIGHT,
        was={"sequence_losses": moved(REFERENCE, 0.0075)},
    ),
    bad(
        "rise-uncertain",
        "it rises by 0.01, and its upper bound by 0.05",
        5,
        bounds=TIGHT,
        was={"sequence_losses": moved(REFERENCE, 0.11, -0.09)},
    ),
    good(
        "rise-within",
        "nothing: the upper bound is within",
        bounds=Bounds(kl=0.005, rise=0.1),
        was={"sequence_losses": moved(REFERENCE, 0.11, -0.09)},
    ),
    good("fall", "nothing: the loss falls", bounds=TIGHT, was={"sequence_losses": moved(REFERENCE, -0.1)}),
    bad(
        "rise-of-one",
        "the rise of a single sequence is twice what is allowed",
        5,
        bounds=TIGHT,
        was={**ONE, "sequence_losses": [2.09]},
    ),
    good(
        "rise-of-one-within",
        "nothing: it is half of it",
        bounds=TIGHT,
        was={**ONE, "sequence_losses": [2.0225]},
    ),
    bad("loss-not-a-number", "one loss is NaN", 5, 6, sequence_losses=one_moved(LOSSES, math.nan)),
    bad("loss-infinite", "one loss is infinite", 5, 6, sequence_losses=one_moved(LOSSES, math.inf)),
    bad(
        "loss-not-a-number-elsewhere",
        "one loss is NaN, on another machine",
        5,
        6,
        **elsewhere(RMS_DECIDES, sequence_losses=one_moved(LOSSES, math.nan)),
    ),
)


STEP_RECORDS = (*INPUTS, *CONVERSION, *CASTS_STAND, *BOUNDS)
