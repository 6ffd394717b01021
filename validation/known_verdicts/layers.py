"""Examples of step 6: the figures of the layers. Their numbers are written down as those of `drifts` are.

In `healthy` the error's norm is 0.02 (99th percentile 0.05), the gain -0.004 (0.02), the size 0.3 and the
sketch's length 1000. Elsewhere the median place may move by 1e-3 of its unit and one place by 2e-2; the 99th
percentiles by 1e-3 and 0.1, the size by 1e-4 and 2e-3, the sketch by 1e-2 and 0.25. The unit of a gain is the
norm of the error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mxcheck.gate.record import Noise
from mxcheck.gate.sublayer_drift import SublayerError, SublayerNoise
from validation.known_verdicts.healthy import (
    HEALTHY,
    LAYERS,
    NO_NOISE,
    RMS_DECIDES,
    KnownRecord,
    bad,
    elsewhere,
    good,
    without,
)

_ONE, _OTHER = "layers.1.mlp", "layers.0.attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """For one figure, changes that must fail and that may occur: twice and half of its bound in all places
    and in one, and of its bound on this machine (for a sketch zero: one unit is the least change; for a size
    as elsewhere, since only other arithmetic moves it)."""

    everywhere: tuple[float, float]
    once: tuple[float, float]
    here: tuple[float, float]


BOUNDS: Mapping[str, Bounds] = {
    "gain": Bounds(everywhere=(4e-5, 1e-5), once=(8e-4, 2e-4), here=(4e-11, 1e-11)),
    "gain_99": Bounds(everywhere=(1e-4, 2.5e-5), once=(1e-2, 2.5e-3), here=(1e-10, 2.5e-11)),
    "norm": Bounds(everywhere=(4e-5, 1e-5), once=(8e-4, 2e-4), here=(4e-11, 1e-11)),
    "norm_99": Bounds(everywhere=(1e-4, 2.5e-5), once=(1e-2, 2.5e-3), here=(1e-10, 2.5e-11)),
    "size": Bounds(everywhere=(6e-5, 1.5e-5), once=(1.2e-3, 3e-4), here=(1.2e-3, 3e-4)),
    "sketch": Bounds(everywhere=(20, 5), once=(500, 125), here=(1, 0)),
}


def _moved(figure: str, change: float) -> SublayerError:
    """Return the healthy error with one figure moved; in a sketch, a component that was 0, so that its length
    hardly changes."""
    error = LAYERS[_ONE]
    if figure == "sketch":
        first, second, third, last = error.sketch
        return replace(error, sketch=(first, second, third + round(change), last))
    return replace(error, **{figure: getattr(error, figure) + change})


def _everywhere(figure: str, change: float) -> dict[str, SublayerError]:
    return dict.fromkeys(LAYERS, _moved(figure, change))


def _once(figure: str, change: float) -> dict[str, SublayerError]:
    return {**LAYERS, _ONE: _moved(figure, change)}


def _of(figure: str, bounds: Bounds) -> tuple[KnownRecord, ...]:
    """Return examples of one figure: falling in all places, rising in one."""
    (wide, all_within), (far, one_within), (here, within) = bounds.everywhere, bounds.once, bounds.here
    return (
        bad(f"layers-{figure}-here", f"{figure} of one place", 6, sublayers=_once(figure, here)),
        bad(f"layers-{figure}-down-here", f"{figure} fell at one place", 6, sublayers=_once(figure, -here)),
        good(f"layers-{figure}-none", "nothing: half of the tolerance", sublayers=_once(figure, within)),
        bad(
            f"layers-{figure}",
            f"{figure} of all places, by twice what the median place may",
            6,
            **elsewhere(NO_NOISE, sublayers=_everywhere(figure, -wide)),
        ),
        good(
            f"layers-{figure}-noise",
            "nothing: by half of it",
            **elsewhere(NO_NOISE, sublayers=_everywhere(figure, -all_within)),
        ),
        bad(
            f"layers-{figure}-one",
            f"{figure} of one place, by twice what it may",
            6,
            **elsewhere(NO_NOISE, sublayers=_once(figure, far)),
        ),
        good(
            f"layers-{figure}-one-noise",
            "nothing: by half of it",
            **elsewhere(None, sublayers=_once(figure, one_within)),
        ),
    )


# Measured noise of every figure: 0.02 at the median place and 0.1 at the worst, so that 0.08 and 0.4 may
# occur.
_MEASURED = SublayerNoise(typical=dict.fromkeys(BOUNDS, 0.02), largest=dict.fromkeys(BOUNDS, 0.1))
#: The layers' bounds decide here, not those of losses.
_LOUD: Noise = replace(RMS_DECIDES, sublayers=_MEASURED)

LAYER_NOISE = (
    bad(
        "layers-measured",
        "the norm of all places rose by 8 times the noise",
        6,
        **elsewhere(_LOUD, sublayers=_everywhere("norm", 3.2e-3)),
    ),
    good(
        "layers-measured-noise",
        "nothing: by twice the noise",
        **elsewhere(_LOUD, sublayers=_everywhere("norm", 8e-4)),
    ),
    bad(
        "layers-measured-one",
        "the norm of one place rose by 8 times the noise",
        6,
        **elsewhere(_LOUD, sublayers=_once("norm", 1.6e-2)),
    ),
    good(
        "layers-measured-one-noise",
        "nothing: by twice the noise",
        **elsewhere(_LOUD, sublayers=_once("norm", 4e-3)),
    ),
    bad(
        "layers-measured-here",
        "the norm of one place by 2e-9, on a machine with the baseline's arithmetic, whatever the noise",
        6,
        was={"noise": _LOUD},
        sublayers=_once("norm", 4e-11),
    ),
    bad(
        "layers-measured-other",
        "the gain, where noise of the norm alone was measured",
        6,
        **elsewhere(
            replace(
                RMS_DECIDES,
                sublayers=SublayerNoise(
                    typical={**dict.fromkeys(BOUNDS, 0.0), "norm": 9.0},
                    largest={**dict.fromkeys(BOUNDS, 0.0), "norm": 9.0},
                ),
            ),
            sublayers=_everywhere("gain", 4e-5),
        ),
    ),
)


def _nan(figure: str) -> dict[str, SublayerError]:
    spoilt: dict[str, Any] = {figure: math.nan}
    return {**LAYERS, _ONE: replace(LAYERS[_ONE], **spoilt)}


_LOST: dict[str, Any] = {"sublayers": None, "absent": {**HEALTHY.absent, "sublayers": "an example"}}
PLACES = (
    bad(
        "layers-three",
        "the norm of three places of four, by twice what the median place may",
        6,
        **elsewhere(NO_NOISE, sublayers={**_everywhere("norm", 4e-5), _OTHER: LAYERS[_OTHER]}),
    ),
    *(
        bad(f"layers-{figure}-not-a-number", f"{figure} of one place is NaN", 6, sublayers=_nan(figure))
        for figure in BOUNDS
        if figure != "sketch"
    ),
    bad(
        "layers-not-a-number-elsewhere",
        "the norm of one place is NaN, on another machine",
        6,
        **elsewhere(_LOUD, sublayers=_nan("norm")),
    ),
    bad(
        "layers-no-error",
        "one place has no error any more",
        6,
        **elsewhere(_LOUD, sublayers={**LAYERS, _ONE: replace(LAYERS[_ONE], sketch=())}),
    ),
    bad("place-lost", "one place is no longer measured", 6, sublayers=without(LAYERS, _ONE)),
    bad(
        "place-added",
        "one place is newly measured",
        6,
        was={"sublayers": without(LAYERS, _ONE)},
        sublayers=LAYERS,
    ),
    bad("places-lost", "no place is measured", 6, sublayers={}),
    bad("places-never", "no place is measured, nor was one", 6, was={"sublayers": {}}),
    bad(
        "places-swapped",
        "the figures of two places are swapped",
        6,
        **elsewhere(
            NO_NOISE,
            was={"sublayers": {**LAYERS, _OTHER: replace(LAYERS[_OTHER], norm=0.1)}},
            sublayers={**LAYERS, _ONE: replace(LAYERS[_ONE], norm=0.1)},
        ),
    ),
    bad("layers-lost", "the layers have no figures any more", 3, **_LOST),
    bad("layers-new", "the layers had no figures", 3, was=_LOST, sublayers=LAYERS, absent=HEALTHY.absent),
)

LAYER_RECORDS = (
    *(example for figure, bounds in BOUNDS.items() for example in _of(figure, bounds)),
    *LAYER_NOISE,
    *PLACES,
)
