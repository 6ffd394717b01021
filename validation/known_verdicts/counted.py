"""Examples of step 6: counters of the casts. Their numbers are written down as those of `drifts` are.

In `healthy` an operand has 3200 elements in 100 blocks. On another machine 5 % may differ: 160 elements, 5
blocks, and of the 200 rows of two experts 10. For weights none may.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mxcheck.gate.counters import Absent, Counters, OperandCounts
from validation.known_verdicts.healthy import (
    COUNTERS,
    COUNTS,
    HEALTHY,
    RMS_DECIDES,
    KnownRecord,
    Q,
    bad,
    elsewhere,
    good,
)


def _with(operand: str, counts: OperandCounts | Absent) -> Counters:
    return replace(COUNTERS, operands={Q: {**COUNTERS.operands[Q], operand: counts}})


def _activations(**changed: Any) -> Counters:
    return _with("activations", replace(COUNTS, **changed))


def _weights(**changed: Any) -> Counters:
    return _with("weights", replace(COUNTS, **changed))


def _rows(*rows: int) -> Counters:
    return replace(COUNTERS, expert_rows={"layers.0.mlp": rows})


#: For each figure, a change that must fail and one that may occur on another machine.
_SHARES = {"saturated": (640, 240), "flushed": (640, 240), "top": (640, 240), "zero_blocks": (20, 8)}


def _of(figure: str, beyond: int, within: int) -> tuple[KnownRecord, ...]:
    healthy = getattr(COUNTS, figure)
    return (
        bad(f"counts-{figure}-here", f"one more {figure}", 6, counters=_activations(**{figure: healthy + 1})),
        bad(
            f"counts-{figure}",
            f"{figure} of activations, by twice what may be",
            6,
            **elsewhere(RMS_DECIDES, counters=_activations(**{figure: beyond})),
        ),
        good(
            f"counts-{figure}-noise",
            "nothing: by half of it",
            **elsewhere(RMS_DECIDES, counters=_activations(**{figure: within})),
        ),
        bad(
            f"counts-{figure}-weights",
            f"one more {figure} of the weights, on another machine",
            6,
            **elsewhere(RMS_DECIDES, counters=_weights(**{figure: healthy + 1})),
        ),
    )


_SCALES = {120: 40, 121: 60}
_LOST: dict[str, Any] = {"counters": None, "absent": {**HEALTHY.absent, "counters": "an example"}}

COUNT_RECORDS = (
    *(example for figure, (beyond, within) in _SHARES.items() for example in _of(figure, beyond, within)),
    *(
        bad(
            f"counts-{figure}",
            f"one element of the activations is {figure}, on another machine",
            6,
            **elsewhere(RMS_DECIDES, counters=_activations(**{figure: 1})),
        )
        for figure in ("nan", "inf")
    ),
    bad("counts-scales-here", "ten blocks have another scale", 6, counters=_activations(scales=_SCALES)),
    bad(
        "counts-scales-weights",
        "ten blocks of the weights have another scale, on another machine",
        6,
        **elsewhere(RMS_DECIDES, counters=_weights(scales=_SCALES)),
    ),
    good(
        "counts-scales-noise",
        "nothing: ten blocks of the activations have another scale, on another machine",
        **elsewhere(RMS_DECIDES, counters=_activations(scales=_SCALES)),
    ),
    bad(
        "counts-blocks",
        "there are twice as many blocks of activations",
        6,
        **elsewhere(RMS_DECIDES, counters=_activations(scales={120: 100, 121: 100})),
    ),
    bad(
        "counts-elements",
        "half of the activations were cast",
        6,
        **elsewhere(RMS_DECIDES, counters=_activations(elements=1600)),
    ),
    bad(
        "counts-operand-lost",
        "activations are not counted",
        6,
        **elsewhere(RMS_DECIDES, counters=_with("activations", Absent(reason="an example"))),
    ),
    bad("counts-all-lost", "no operand is counted", 6, counters=replace(COUNTERS, operands={})),
    bad("rows-here", "one row enters the other expert", 6, counters=_rows(101, 99)),
    bad(
        "rows",
        "twenty of 200 rows enter the other expert, on another machine",
        6,
        **elsewhere(RMS_DECIDES, counters=_rows(80, 120)),
    ),
    good(
        "rows-noise",
        "nothing: five of them do",
        **elsewhere(RMS_DECIDES, counters=_rows(105, 95)),
    ),
    bad(
        "rows-lost",
        "one row is lost, on another machine",
        6,
        **elsewhere(RMS_DECIDES, counters=_rows(100, 99)),
    ),
    bad("counts-lost", "nothing is counted any more", 3, **_LOST),
)
