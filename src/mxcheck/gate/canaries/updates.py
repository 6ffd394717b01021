"""Canaries of updates, and of the noise that an acceptance stores."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

from mxcheck.gate.absolute import Absolute, absolute_checks
from mxcheck.gate.baseline import encode
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.canaries.expectation import Expectation, expect
from mxcheck.gate.canaries.healthy import HEALTHY, LAYERS, LOSSES, TIGHT, moved
from mxcheck.gate.decision import Accepted, Update, decide, is_first, read_accepted
from mxcheck.gate.noise import Trial, worst
from mxcheck.gate.orderings import Standing, standing
from mxcheck.gate.record import Record

_ALL, _NEW, _RECENTRE = Update(changed=True), Update(missing=True), Update(changed=True, recentre=True)
_MOVED = replace(HEALTHY, noise=None, sequence_losses=moved(LOSSES, -1e-3))
_NEAR = replace(HEALTHY, noise=None, sequence_losses=moved(LOSSES, 5e-10))
_OVER = replace(_MOVED, kl=0.00505)
_ARGMAX = replace(_MOVED, reference_entropies=moved(HEALTHY.reference_entropies, 0.5))
_IDLE = replace(_MOVED, bit_equal=True)
_OVER_OF_ANOTHER = replace(_OVER, recipe={**HEALTHY.recipe, "kernel": "another"})


def _decided(record: Record, update: Update, accepted: Record | None, exists: bool) -> tuple[str, str]:
    decision = decide(record, Accepted(record=accepted, exists=exists), TIGHT, update, replaces=exists)
    return decision.result.word, decision.write


def _update(
    name: str,
    what: str,
    record: Record,
    update: Update,
    *expected: str,
    accepted: Record | None = HEALTHY,
    exists: bool = True,
) -> Expectation:
    return expect(name, what, partial(_decided, record, update, accepted, exists), expected)


def _first(accepted: Record | None, bounds: Bounds | None, update: Update, exists: bool) -> bool:
    return is_first(HEALTHY, Accepted(record=accepted, exists=exists), bounds, update)


def _other(**changes: Any) -> Record:
    return replace(HEALTHY, **changes)


def _refused(found: Absolute, stands: Standing | None = None, *, kl: float = 0.0005) -> tuple[str, ...]:
    """The checks of a first acceptance that fail."""
    checks = absolute_checks(replace(HEALTHY, kl=kl), found, stands or Standing())
    return tuple(one.key for one in checks if not one.passed)


def _standing(step: str, change: float, options: Sequence[str] = (), **changes: Any) -> tuple[int, int]:
    """With how many accepted steps the healthy record is compared, and how many of them it contradicts, where
    `step` alone was accepted and costs `change` more."""
    record = replace(HEALTHY, options=list(options))
    costs = [one + change * (1 + index % 3) for index, one in enumerate(HEALTHY.sequence_kl or [])]
    kept = replace(record, precision=step, sequence_kl=costs, **changes)
    found = standing(record, lambda case: kept if case.precision == step else None)
    return found.compared, len(found.reversed)


def _signed(share: float) -> tuple[str, ...]:
    return _refused(Absolute(signed=(0.0005 / share,) * 3, compared=32))


_OWN = Bounds(kl=1.0, rise=1.0, own=True)
FIRST = (
    expect("first", "a case without baseline or bounds", lambda: _first(None, None, _ALL, False), True),
    expect("first-new", "the same, only missing ones", lambda: _first(None, None, _NEW, False), True),
    expect("first-own", "a line of the model's own", lambda: _first(None, _OWN, _ALL, False), True),
    expect("first-corrupt", "a file that is no baseline", lambda: _first(None, None, _ALL, True), True),
    expect(
        "first-missing",
        "a file that is no baseline, only missing ones",
        lambda: _first(None, None, _NEW, True),
        False,
    ),
    expect("first-recentre", "what is within tolerance", lambda: _first(None, None, _RECENTRE, False), False),
    expect("first-held", "nothing is accepted", lambda: _first(None, None, Update(), False), False),
    expect("first-said", "a table of bounds has it", lambda: _first(None, TIGHT, _ALL, False), False),
    expect("first-again", "it was accepted before", lambda: _first(HEALTHY, None, _ALL, True), False),
    expect(
        "first-weights",
        "other weights were accepted before",
        lambda: _first(_other(fingerprints={**HEALTHY.fingerprints, "weights": "0"}), None, _ALL, True),
        True,
    ),
    expect(
        "first-casts",
        "other casts were accepted before",
        lambda: _first(_other(digests={}), None, _ALL, True),
        True,
    ),
    expect(
        "first-case",
        "another case lies there",
        lambda: _first(_other(model="another"), None, _ALL, True),
        True,
    ),
    expect(
        "first-reason",
        "a line of the model's own that gives a reason",
        lambda: _first(None, replace(_OWN, reason="on purpose"), _ALL, False),
        False,
    ),
    expect("signs-low", "the KL is 0.59 of its errors with random signs", lambda: _signed(0.59), ("signs",)),
    expect("signs-least", "the KL is 0.61 of it", lambda: _signed(0.61), ()),
    expect("signs-most", "the KL is 2.4 of it", lambda: _signed(2.4), ()),
    expect("signs-high", "the KL is 2.6 of it", lambda: _signed(2.6), ("signs",)),
    expect(
        "signs-median",
        "one seed of three decides nothing",
        lambda: _refused(Absolute(signed=(0.0005, 1.0, 0.0005), compared=32)),
        (),
    ),
    expect(
        "oracle",
        "an operand is not the oracle's",
        lambda: _refused(Absolute(signed=(0.0005,), compared=32, wrong={"weights of q": "1 of 32"})),
        ("oracle",),
    ),
    expect(
        "uniform",
        "the reference's entropy is 0.991 of a uniform distribution's",
        lambda: _refused(Absolute(signed=(0.0005,), compared=32, of_uniform=0.991)),
        ("uniform",),
    ),
    expect(
        "reversed",
        "a step costs more than one above it",
        lambda: _refused(Absolute(signed=(0.0005,), compared=32), Standing(reversed=("A above B",))),
        ("reversed",),
    ),
    expect(
        "worse-than-uniform",
        "the reference predicts worse than a uniform distribution",
        lambda: _refused(Absolute(signed=(0.0005,), compared=32, uniform=1.9)),
        ("uniform",),
    ),
    expect(
        "causal",
        "later tokens move earlier logits",
        lambda: _refused(Absolute(signed=(0.0005,), compared=32, sees_later=0.2)),
        ("causal",),
    ),
    expect(
        "zeros",
        "a matrix is zero throughout",
        lambda: _refused(Absolute(signed=(0.0005,), compared=32, zeros=("q",))),
        ("zeros",),
    ),
    expect("infinite", "the KL is infinite", lambda: _refused(Absolute(), kl=math.inf), ("signs",)),
    expect("unknown", "a library casts", lambda: _refused(Absolute(unknown="it casts", signed=(9.0,))), ()),
    expect("order-kept", "fp6_e3m2 costs more", lambda: _standing("fp6_e3m2", 0.01), (1, 0)),
    expect("order-reversed", "fp6_e3m2 costs less", lambda: _standing("fp6_e3m2", -0.001), (1, 1)),
    expect("order-rceil", "the same under rceil", lambda: _standing("fp6_e3m2", -0.001, ["rceil"]), (1, 1)),
    expect("order-even", "under a rule not tried", lambda: _standing("fp6_e3m2", -0.001, ["even"]), (0, 0)),
    expect(
        "order-higher", "mxint8, which outliers spoil, costs more", lambda: _standing("mxint8", 0.01), (0, 0)
    ),
    expect(
        "order-text",
        "fp6_e3m2 costs less on another text",
        lambda: _standing("fp6_e3m2", -0.001, fingerprints={**HEALTHY.fingerprints, "tokens": "another"}),
        (0, 0),
    ),
)


def _on_file(text: str) -> tuple[str, bool, bool]:
    """What becomes of a record that moved where a file holds this text; whether it was read, and taken."""
    with tempfile.TemporaryDirectory(prefix="mxcheck-canary-") as folder:
        path = Path(folder) / "canary.json"
        path.write_text(text, encoding="utf-8")
        accepted = read_accepted(path)
    decision = decide(_MOVED, accepted, TIGHT, Update())
    return decision.result.word, accepted.record == HEALTHY, not accepted.trouble


UPDATES = (
    _update("held", "a record that is as accepted", _NEAR, Update(), "pass", ""),
    _update("held-moved", "a loss fell by 1e-3", _MOVED, Update(), "FAIL step 6", ""),
    _update("held-missing", "no baseline", _MOVED, Update(), "FAIL missing", "", accepted=None, exists=False),
    _update(
        "held-corrupt", "a file that is no baseline", _MOVED, Update(), "FAIL corrupt", "", accepted=None
    ),
    _update(
        "update", "an update accepts what changed, with noise of its own", _MOVED, _ALL, "updated", "measured"
    ),
    _update(
        "update-missing",
        "and what is missing",
        _MOVED,
        _ALL,
        "accepted",
        "measured",
        accepted=None,
        exists=False,
    ),
    _update("update-same", "and leaves what is as accepted", _NEAR, _ALL, "pass", ""),
    _update("update-bounds", "it never accepts what breaks its bound", _OVER, _ALL, "FAIL step 5,6", ""),
    _update(
        "update-bounds-new",
        "where nothing was accepted, neither",
        _OVER,
        _ALL,
        "FAIL step 5",
        "",
        accepted=None,
        exists=False,
    ),
    _update(
        "update-bounds-recipe",
        "nor under another recipe",
        _OVER_OF_ANOTHER,
        _ALL,
        "FAIL step 1",
        "",
    ),
    _update(
        "update-argmax", "nor a reference that is not its own text's", _ARGMAX, _ALL, "FAIL step 2,6", ""
    ),
    _update("update-idle", "nor a conversion that does nothing", _IDLE, _ALL, "FAIL step 3,6", ""),
    _update(
        "new-only",
        "new-only accepts what is missing",
        _MOVED,
        _NEW,
        "accepted",
        "measured",
        accepted=None,
        exists=False,
    ),
    _update("new-only-there", "and touches no file that is there", _MOVED, _NEW, "FAIL step 6", ""),
    _update("new-only-corrupt", "not a corrupt one either", _MOVED, _NEW, "FAIL corrupt", "", accepted=None),
    _update(
        "new-only-bounds",
        "and accepts nothing that breaks its bound",
        _OVER,
        _NEW,
        "FAIL step 5",
        "",
        accepted=None,
        exists=False,
    ),
    _update(
        "recentre", "re-centring keeps the noise that was accepted", _NEAR, _RECENTRE, "recentred", "accepted"
    ),
    _update("recentre-moved", "and accepts nothing new", _MOVED, _RECENTRE, "FAIL step 6", ""),
    _update(
        "recentre-missing",
        "nor what is missing",
        _NEAR,
        _RECENTRE,
        "FAIL missing",
        "",
        accepted=None,
        exists=False,
    ),
)

ON_FILE = (
    expect(
        "file-held", "a record that moved", lambda: _on_file(encode(HEALTHY)), ("FAIL step 6", True, True)
    ),
    expect("file-corrupt", "a file that is none", lambda: _on_file("{}"), ("FAIL corrupt", False, False)),
)

_PLACE = "layers.0.mlp"
_FOUR = replace(
    HEALTHY,
    reference_losses=[2.0] * 4,
    sequence_losses=[2.0] * 4,
    sequence_kl=[0.0] * 4,
    sublayers={_PLACE: LAYERS[_PLACE]},
)


def _noise(**changed: Any) -> tuple[Any, ...] | str:
    """The worst of two trials, the second with these fields; or why there is none."""
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
        "an environment in which the step cannot run says nothing",
        lambda: _noise(reference_losses=[], sequence_losses=[], sequence_kl=[], unavailable="no library"),
        (["a"], 0.0, 0.25, 0.5, 0.0, 0.5, 1.0, 0.25, 0.25, 0.25, 0.0),
    ),
    expect(
        "noise-failure", "a trial that failed is no trial", lambda: _noise(failure="x"), "cannot be measured"
    ),
)

ACCEPTANCE = (*UPDATES, *FIRST, *ON_FILE, *NOISE)
