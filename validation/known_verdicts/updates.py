"""Examples of updates."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from mxcheck.gate.absolute_checks import Absolute, absolute_checks
from mxcheck.gate.baseline import encode
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.decision import Accepted, decide, is_first, read_accepted
from mxcheck.gate.orderings import Standing, standing
from mxcheck.gate.record import Record
from mxcheck.gate.update import Update
from validation.known_verdicts.expectation import Expectation, expect
from validation.known_verdicts.healthy import HEALTHY, KL, LOSSES, TIGHT, moved

CHANGED, _NEW, RECENTRE = Update(changed=True), Update(missing=True), Update(changed=True, recentre=True)


def _measured(**changes: Any) -> Record:
    """Return the healthy record as a run measures it, with these fields and consistent means."""
    record = replace(HEALTHY, **{"noise": None, **changes})
    loss = fmean(record.sequence_losses)
    return replace(
        record,
        cross_entropy=loss,
        perplexity=math.exp(loss),
        kl=fmean(record.sequence_kl or []),
        reference_entropy=fmean(record.reference_entropies),
    )


_LOWER = moved(LOSSES, -1e-3)
LOWER = _measured(sequence_losses=_LOWER)
NEAR = _measured(sequence_losses=moved(LOSSES, 5e-10))
_OVER = _measured(sequence_losses=_LOWER, sequence_kl=moved(KL, 5e-5))
_ARGMAX = _measured(sequence_losses=_LOWER, reference_entropies=moved(HEALTHY.reference_entropies, 0.5))
_IDLE = _measured(sequence_losses=_LOWER, sequence_kl=[0.0] * len(KL), bit_equal=True, top1_agreement=1.0)
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
    """Return the failed checks of a first acceptance."""
    checks = absolute_checks(replace(HEALTHY, kl=kl), found, stands or Standing())
    return tuple(one.key for one in checks if not one.passed)


def _standing(precision: str, change: float, options: Sequence[str] = (), **changes: Any) -> tuple[int, int]:
    """Return the number of accepted precisions with which the healthy record is compared, and the number of
    those that it contradicts, where only `precision` was accepted and costs `change` more."""
    record = replace(HEALTHY, options=list(options))
    costs = [one + change * (1 + index % 3) for index, one in enumerate(HEALTHY.sequence_kl or [])]
    kept = replace(record, precision=precision, sequence_kl=costs, **changes)
    found = standing(record, lambda case: kept if case.precision == precision else None)
    return found.compared, len(found.reversed)


def _signed(share: float) -> tuple[str, ...]:
    return _refused(Absolute(signed=(0.0005 / share,) * 3, compared=32))


_OWN = Bounds(kl=1.0, rise=1.0, own=True)
FIRST = (
    expect("first", "a case without baseline or bounds", lambda: _first(None, None, CHANGED, False), True),
    expect("first-new", "the same, only missing ones", lambda: _first(None, None, _NEW, False), True),
    expect("first-own", "a line of the model's own", lambda: _first(None, _OWN, CHANGED, False), True),
    expect("first-corrupt", "a file that is no baseline", lambda: _first(None, None, CHANGED, True), True),
    expect(
        "first-missing",
        "a file that is no baseline, only missing ones",
        lambda: _first(None, None, _NEW, True),
        False,
    ),
    expect("first-recentre", "what is within tolerance", lambda: _first(None, None, RECENTRE, False), False),
    expect("first-held", "nothing is accepted", lambda: _first(None, None, Update(), False), False),
    expect("first-said", "a table of bounds has it", lambda: _first(None, TIGHT, CHANGED, False), False),
    expect("first-again", "it was accepted before", lambda: _first(HEALTHY, None, CHANGED, True), False),
    expect(
        "first-weights",
        "other weights were accepted before",
        lambda: _first(_other(fingerprints={**HEALTHY.fingerprints, "weights": "0"}), None, CHANGED, True),
        True,
    ),
    expect(
        "first-casts",
        "other casts were accepted before",
        lambda: _first(_other(digests={}), None, CHANGED, True),
        True,
    ),
    expect(
        "first-case",
        "another case lies there",
        lambda: _first(_other(model="another"), None, CHANGED, True),
        True,
    ),
    expect(
        "first-reason",
        "a line of the model's own that gives a reason",
        lambda: _first(None, replace(_OWN, reason="on purpose"), CHANGED, False),
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
        "a precision costs more than one that should cost more",
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
        "a matrix contains only zeros",
        lambda: _refused(Absolute(signed=(0.0005,), compared=32, zeros=("q",))),
        ("zeros",),
    ),
    expect("infinite", "the KL is infinite", lambda: _refused(Absolute(), kl=math.inf), ("signs",)),
    expect("unknown", "a library casts", lambda: _refused(Absolute(unknown="it casts", signed=(9.0,))), ()),
    expect("order-kept", "fp6_e3m2 costs more", lambda: _standing("mxfp6_e3m2", 0.01), (1, 0)),
    expect("order-reversed", "fp6_e3m2 costs less", lambda: _standing("mxfp6_e3m2", -0.001), (1, 1)),
    expect("order-rceil", "the same under rceil", lambda: _standing("mxfp6_e3m2", -0.001, ["rceil"]), (1, 1)),
    expect("order-even", "under a rule not tried", lambda: _standing("mxfp6_e3m2", -0.001, ["even"]), (0, 0)),
    expect(
        "order-higher", "mxint8, which outliers spoil, costs more", lambda: _standing("mxint8", 0.01), (0, 0)
    ),
    expect(
        "order-text",
        "fp6_e3m2 costs less on another text",
        lambda: _standing("mxfp6_e3m2", -0.001, fingerprints={**HEALTHY.fingerprints, "tokens": "another"}),
        (0, 0),
    ),
)


def _on_file(text: str) -> tuple[str, bool, bool]:
    """Return the decision on a record that moved where a file holds this text; whether it was read, and
    accepted."""
    with tempfile.TemporaryDirectory(prefix="mxcheck-example-") as folder:
        path = Path(folder) / "example.json"
        path.write_text(text, encoding="utf-8")
        accepted = read_accepted(path)
    decision = decide(LOWER, accepted, TIGHT, Update())
    return decision.result.word, accepted.record == HEALTHY, not accepted.trouble


UPDATES = (
    _update("held", "a record that is as accepted", NEAR, Update(), "pass", ""),
    _update("held-moved", "a loss fell by 1e-3", LOWER, Update(), "FAIL step 6", ""),
    _update("held-missing", "no baseline", LOWER, Update(), "FAIL missing", "", accepted=None, exists=False),
    _update("held-corrupt", "a file that is no baseline", LOWER, Update(), "FAIL corrupt", "", accepted=None),
    _update(
        "update",
        "an update accepts what changed, with noise of its own",
        LOWER,
        CHANGED,
        "updated",
        "measured",
    ),
    _update(
        "update-missing",
        "and what is missing",
        LOWER,
        CHANGED,
        "accepted",
        "measured",
        accepted=None,
        exists=False,
    ),
    _update("update-same", "and leaves what is as accepted", NEAR, CHANGED, "pass", ""),
    _update("update-bounds", "it never accepts what breaks its bound", _OVER, CHANGED, "FAIL step 5,6", ""),
    _update(
        "update-bounds-new",
        "where nothing was accepted, neither",
        _OVER,
        CHANGED,
        "FAIL step 5",
        "",
        accepted=None,
        exists=False,
    ),
    _update(
        "update-bounds-recipe",
        "nor under another recipe",
        _OVER_OF_ANOTHER,
        CHANGED,
        "FAIL step 1",
        "",
    ),
    _update(
        "update-argmax", "nor a reference that is not its own text's", _ARGMAX, CHANGED, "FAIL step 2,6", ""
    ),
    _update("update-idle", "nor a conversion that does nothing", _IDLE, CHANGED, "FAIL step 3,6", ""),
    _update(
        "new-only",
        "new-only accepts what is missing",
        LOWER,
        _NEW,
        "accepted",
        "measured",
        accepted=None,
        exists=False,
    ),
    _update("new-only-there", "and touches no file that is there", LOWER, _NEW, "FAIL step 6", ""),
    _update("new-only-corrupt", "not a corrupt one either", LOWER, _NEW, "FAIL corrupt", "", accepted=None),
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
        "recentre", "re-centring keeps the noise that was accepted", NEAR, RECENTRE, "recentred", "accepted"
    ),
    _update("recentre-moved", "and accepts nothing new", LOWER, RECENTRE, "FAIL step 6", ""),
    _update(
        "recentre-missing",
        "nor what is missing",
        NEAR,
        RECENTRE,
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

ACCEPTANCE = (*UPDATES, *FIRST, *ON_FILE)
