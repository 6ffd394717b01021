"""Examples of comparisons that omit something: the first or last sequence, a module, a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mxcheck.gate.row_groups import RowGroups
from validation.known_verdicts.healthy import (
    COUNTERS,
    COUNTS,
    DIGESTS,
    ENTROPIES,
    HEALTHY,
    KL,
    LAYERS,
    LOSSES,
    MAX_DECIDES,
    OUTPUT_ENTROPIES,
    PREDICTED,
    PREDICTIONS,
    REFERENCE,
    RMS_DECIDES,
    KnownRecord,
    Q,
    bad,
    elsewhere,
    good,
    moved,
    without,
)


def _at(values: Sequence[float], index: int, change: float) -> list[float]:
    """Return `values` with one of them moved."""
    return [value + change * (place == index % len(values)) for place, value in enumerate(values)]


def _predictions(**changed: Any) -> dict[str, Any]:
    return {**PREDICTED, "predictions": replace(PREDICTIONS, **changed)}


#: Lists by sequence, and the fields of records in which one of them has moved at one place.
_LISTS: dict[str, Any] = {
    "losses": lambda at: {"sequence_losses": _at(LOSSES, at, 2e-9)},
    "kl": lambda at: {"sequence_kl": _at(KL, at, 2e-9)},
    "metrics": lambda at: {"metrics": {"flipped": _at([0.01, 0.02] * 8, at, 2e-9)}},
    "entropies": lambda at: {
        "was": PREDICTED,
        **_predictions(sequence_entropies=_at(OUTPUT_ENTROPIES, at, 2e-9)),
    },
    "k3": lambda at: {
        "was": _predictions(sequence_k3=moved(KL, 0.001, -0.001)),
        **_predictions(sequence_k3=_at(moved(KL, 0.001, -0.001), at, 2e-9)),
    },
    "top1": lambda at: {"was": PREDICTED, **_predictions(sequence_top1=_at([0.98] * 16, at, 2e-9))},
}
_ENDS = {"first": 0, "last": -1}

SEQUENCES: tuple[KnownRecord, ...] = tuple(
    example
    for end, at in _ENDS.items()
    for example in (
        *(
            bad(f"{end}-of-{name}", f"of the {name} the {end} moved by 2e-9", 6, **fields(at))
            for name, fields in _LISTS.items()
        ),
        bad(
            f"{end}-of-reference",
            f"the {end} of the reference's losses fell",
            2,
            **elsewhere(MAX_DECIDES, reference_losses=_at(REFERENCE, at, -8e-4)),
        ),
        good(
            f"{end}-of-reference-elsewhere",
            f"nothing: by the {end} of the reference's losses alone this is another machine",
            was={"noise": RMS_DECIDES},
            reference_losses=_at(REFERENCE, at, 1e-9),
            sequence_losses=moved(LOSSES, 0.02, -0.02),
        ),
        bad(
            f"{end}-of-reference-entropies",
            f"the {end} of the reference's entropies moved by 2e-9",
            2,
            reference_entropies=_at(ENTROPIES, at, 2e-9),
        ),
    )
)

REFERENCE_ENTROPIES = (
    bad("reference-entropies", "they all fell by 2e-9", 2, reference_entropies=moved(ENTROPIES, -2e-9)),
    good("reference-entropies-none", "nothing: by 5e-10", reference_entropies=moved(ENTROPIES, -5e-10)),
    good(
        "reference-entropies-elsewhere",
        "nothing: they moved on another machine",
        **elsewhere(RMS_DECIDES, reference_entropies=moved(ENTROPIES, 1e-4, -1e-4)),
    ),
)

_FIRST = "layers.0.down"  # the first by name
_OTHER = RowGroups(rows=64, groups=("x", "x"))
#: A digest in only one of two records is red, whichever record has it.
MODULES = (
    bad(
        "digest-of-first",
        "the first module has other codes",
        4,
        digests={**DIGESTS, _FIRST: {**DIGESTS[_FIRST], "codes": _OTHER}},
    ),
    bad("digest-new", "one module had no digests", 4, was={"digests": without(DIGESTS, Q)}, digests=DIGESTS),
    *(
        bad(
            f"{kind}-digest-new",
            f"one module had no digest of its {kind}",
            4,
            was={"digests": {**DIGESTS, Q: without(DIGESTS[Q], kind)}},
            digests=DIGESTS,
        )
        for kind in ("codes", "scales", "operands")
    ),
)

_SHOWN: dict[str, Any] = {
    "kl-percentile": {"kl_percentiles": {**PREDICTIONS.kl_percentiles, "99": 0.04 + 2e-9}},
    "kl-part": {"kl_by_position": _at([0.005] * 4, -1, 2e-9)},
    "probability-change": {"probability_change": 2e-9},
    "probability-change-rms": {"probability_change_rms": 0.01 - 2e-9},
    "probability-change-percentile": {
        "probability_change_percentiles": {**PREDICTIONS.probability_change_percentiles, "100": 0.1 + 2e-9}
    },
}
#: Figures with a column in a table and no bound of their own.
SHOWN = (
    *(
        bad(name, f"{name} moved by 2e-9", 6, was=PREDICTED, **_predictions(**changed))
        for name, changed in _SHOWN.items()
    ),
    good(
        "shown-elsewhere",
        "nothing: on another machine they are shown and not held",
        **elsewhere(
            RMS_DECIDES,
            was=PREDICTED,
            **_predictions(probability_change=1e-4, kl_by_position=_at([0.005] * 4, 0, 1e-4)),
        ),
    ),
    bad("scored-tokens", "one token less was scored", 1, scored_tokens=1599),
)

_LAST_PLACE = max(LAYERS)
PLACES = (
    *(
        bad(
            f"layer-{place}",
            f"{place} alone has another gain",
            6,
            sublayers={**LAYERS, place: replace(LAYERS[place], gain=-0.005)},
        )
        for place in (min(LAYERS), _LAST_PLACE)
    ),
    bad("layer-lost", "one place has no figures", 6, sublayers=without(LAYERS, _LAST_PLACE)),
    bad(
        "layer-new",
        "one place had none",
        6,
        was={"sublayers": without(LAYERS, _LAST_PLACE)},
        sublayers=LAYERS,
    ),
    bad(
        "counts-new",
        "an operand was not counted",
        6,
        was={"counters": replace(COUNTERS, operands={Q: {"weights": COUNTS}})},
        counters=HEALTHY.counters,
    ),
    bad(
        "rows-of-last",
        "rows entered experts of which none were counted",
        6,
        was={"counters": replace(COUNTERS, expert_rows={})},
        counters=HEALTHY.counters,
    ),
)

WHOLE_LISTS = (*SEQUENCES, *REFERENCE_ENTROPIES, *MODULES, *SHOWN, *PLACES)
