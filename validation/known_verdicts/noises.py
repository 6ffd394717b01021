"""Examples of the noise that an acceptance measures and stores."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

from mxcheck.gate.decision import Accepted, decide, stored
from mxcheck.gate.noise import Trial, worst
from mxcheck.gate.record import Noise, Record
from mxcheck.gate.update import Update
from validation.known_verdicts.expectation import expect
from validation.known_verdicts.healthy import HEALTHY, LAYERS, MAX_DECIDES, RMS_DECIDES, TIGHT
from validation.known_verdicts.updates import CHANGED, LOWER, NEAR, RECENTRE

_PLACE = "layers.0.mlp"
_FOUR = replace(
    HEALTHY,
    reference_losses=[2.0] * 4,
    sequence_losses=[2.0] * 4,
    sequence_kl=[0.0] * 4,
    sublayers={_PLACE: LAYERS[_PLACE]},
)


def _noise(**changed: Any) -> tuple[Any, ...] | str:
    """Return the worst of two trials, the second with these fields; or why there is none."""
    figures = {
        "reference_losses": [2.5, 2.0, 2.0, 2.0],
        "sequence_losses": [1.0, 2.0, 2.0, 2.0],
        "sequence_kl": [0.25] * 4,
    }
    healthy: dict[str, Any] = {"digests": HEALTHY.digests, "sublayers": _FOUR.sublayers, **figures}
    first, second = Trial(environment="a", **healthy), Trial(environment="b", **(healthy | changed))
    try:
        noise = worst(_FOUR, [first, second])
        assert noise.sublayers is not None
        layers = max(noise.sublayers.largest.values())
        return (*astuple(replace(noise, sublayers=None))[:-1], round(layers, 12))
    except ValueError as error:
        return next(
            (word for word in ("other bits", "cannot be measured", "different places") if word in str(error)),
            str(error),
        )


NOISE = (
    expect(
        "noise",
        "the worst of the trials",
        lambda: _noise(
            reference_losses=[2.0] * 4, sequence_losses=[1.5] * 4, sequence_kl=[0.0, 0.0, 0.0, -1.0]
        ),
        (["a", "b"], 0.0, 0.25, 0.5, 0.5, 0.5, 1.0, 0.25, 0.5, 1.0, 0.0),
    ),
    expect(
        "noise-second",
        "whichever it is",
        lambda: _noise(reference_losses=[4.0] * 4),
        (["a", "b"], 2.0, 2.0, 2.0, 0.0, 0.5, 1.0, 0.25, 0.25, 0.25, 0.0),
    ),
    expect(
        "noise-layers",
        "of the layers, too",
        lambda: _noise(sublayers={_PLACE: replace(LAYERS[_PLACE], norm=0.03)}),
        (["a", "b"], 0.0, 0.25, 0.5, 0.0, 0.5, 1.0, 0.25, 0.25, 0.25, 0.5),
    ),
    expect(
        "noise-places",
        "a trial that measures other places is none",
        lambda: _noise(sublayers={"layers.1.mlp": LAYERS[_PLACE]}),
        "different places",
    ),
    expect(
        "noise-digests",
        "a cast that depends on the machine is no noise",
        lambda: _noise(digests={}),
        "other bits",
    ),
    expect(
        "noise-unavailable",
        "an environment in which the precision cannot run says nothing",
        lambda: _noise(reference_losses=[], sequence_losses=[], sequence_kl=[], unavailable="no library"),
        (["a"], 0.0, 0.25, 0.5, 0.0, 0.5, 1.0, 0.25, 0.25, 0.25, 0.0),
    ),
    expect(
        "noise-failure", "a trial that failed is no trial", lambda: _noise(failure="x"), "cannot be measured"
    ),
)


def _stored(record: Record, update: Update, accepted: Noise) -> Noise | None:
    """Return the noise that an update writes, where this one was accepted and `RMS_DECIDES` is measured."""
    before = Accepted(record=replace(HEALTHY, noise=accepted))
    decision = decide(record, before, TIGHT, update)
    return stored(decision, before, lambda: RMS_DECIDES).noise


STORED = (
    expect(
        "noise-stored",
        "the measured noise is stored as it is",
        lambda: _stored(LOWER, CHANGED, MAX_DECIDES) == RMS_DECIDES,
        True,
    ),
    expect(
        "noise-kept",
        "the accepted noise is kept as it is where a record is re-centred",
        lambda: _stored(NEAR, RECENTRE, MAX_DECIDES) == MAX_DECIDES,
        True,
    ),
)

NOISES = (*NOISE, *STORED)
