"""The gate's smoke check: judge eight records with known verdicts before the first case.

A patched or partly installed gate turns no case red; it only detects less. One record that must fail for each
step, one that must pass, and one for drift on other arithmetic reveal the coarse faults in a millisecond.
Tests reveal the fine ones (`validation/known_verdicts`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.record import Noise, Record
from mxcheck.gate.row_groups import RowGroups
from mxcheck.gate.verdict import judge

_CASTS = {"format": "fp8_e4m3", "block_size": 32, "scale_rule": "floor"}
_DIGESTS = {
    name: {
        kind: RowGroups(rows=64, groups=(f"{kind} of {name}",)) for kind in ("codes", "scales", "operands")
    }
    for name in ("up", "down")
}
_REFERENCE = [2.0, 2.1, 1.9, 2.0]
_LOSSES = [2.004, 2.106, 1.904, 2.006]
_KL = [0.004, 0.006, 0.004, 0.006]
_NOISE = Noise(
    environments=["another"],
    reference_median=1e-4,
    reference_rms=1e-4,
    reference_max=3e-4,
    loss_median=0.01,
    loss_rms=0.01,
    loss_max=0.03,
    kl_median=1e-3,
    kl_rms=1e-3,
    kl_max=3e-3,
)
#: Four sequences of a hundred tokens, with a rise and a KL of 0.005.
_SOUND = Record(
    kind="recipe",
    subject="",
    model="smoke",
    precision="mxfp8_e4m3",
    tier="B",
    options=[],
    recipe={"precision": "mxfp8_e4m3", "roles": {"mlp": {"weights": _CASTS, "activations": _CASTS}}},
    changes_bits=True,
    fingerprints={"weights": "a" * 64, "tokenizer": "b" * 64, "tokens": "c" * 64},
    arithmetic="f" * 64,
    environment={"torch": "2.9.0"},
    replaced={"up": "mlp", "down": "mlp"},
    unconverted={},
    weight_bytes=1000,
    original_bytes=4000,
    digests=_DIGESTS,
    corpus={"used": "self", "block_length": 256},
    scored_tokens=400,
    reference_cross_entropy=2.0,
    reference_entropy=2.0,
    reference_losses=_REFERENCE,
    reference_entropies=_REFERENCE,
    bit_equal=False,
    cross_entropy=2.005,
    perplexity=math.exp(2.005),
    entropy=2.005,
    kl=0.005,
    top1_agreement=0.98,
    sequence_losses=_LOSSES,
    sequence_kl=_KL,
    predictions=None,
    sublayers=None,
    counters=None,
    absent=dict.fromkeys(("predictions", "sublayers", "counters"), "not part of the smoke check"),
    metrics={},
    noise=_NOISE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """A record and its verdict: `what` is its difference from the accepted record, `fails` the steps that
    must fail."""

    what: str
    fails: tuple[int, ...]
    changes: dict[str, Any]
    bounds: Bounds = field(default=Bounds(kl=1.0, rise=1.0))


def _plus(values: list[float], change: float) -> list[float]:
    return [value + change for value in values]


_KNOWN = (
    _Known(what="nothing", fails=(), changes={}),
    _Known(
        what="the weights", fails=(1,), changes={"fingerprints": {**_SOUND.fingerprints, "weights": "0" * 64}}
    ),
    _Known(
        what="the reference's losses",
        fails=(2,),
        changes={"reference_losses": _plus(_REFERENCE, 0.01), "reference_cross_entropy": 2.01},
    ),
    _Known(
        what="a module that is left out",
        fails=(3,),
        changes={"replaced": {"up": "mlp"}, "digests": {"up": _DIGESTS["up"]}},
    ),
    _Known(
        what="codes of a weight",
        fails=(4,),
        changes={
            "digests": {**_DIGESTS, "up": {**_DIGESTS["up"], "codes": RowGroups(rows=64, groups=("other",))}}
        },
    ),
    _Known(what="nothing, over its bounds", fails=(5,), changes={}, bounds=Bounds(kl=0.004, rise=1.0)),
    _Known(what="losses by 1e-8", fails=(6,), changes={"sequence_losses": _plus(_LOSSES, 1e-8)}),
    _Known(
        what="losses by 0.1 on other arithmetic",
        fails=(6,),
        changes={"arithmetic": "e" * 64, "sequence_losses": _plus(_LOSSES, -0.1)},
    ),
)


def broken_gate() -> str:
    """Return why no verdict of this gate is valid, in one line; empty where it judges the known records
    correctly."""
    for known in _KNOWN:
        record = replace(_SOUND, **{"noise": None, **known.changes})
        try:
            failed: object = judge(record, _SOUND, known.bounds).failed_steps
        except MemoryError:
            return (
                "the gate's smoke check ran out of memory; run fewer workers (-n), or give this machine "
                "more; no verdict of this run counts"
            )
        except Exception as error:  # noqa: BLE001  (reported, whatever it is: none of these raises)
            failed = " ".join(f"{type(error).__name__}: {error}".split())
        if failed != known.fails:
            return (
                f"the gate misjudges a known record (changed: {known.what}): steps that must fail: "
                f"{_words(known.fails)}, got: {_words(failed)}; mxcheck itself is broken, no verdict of "
                f"this run counts; undo local changes of the package, or reinstall it"
            )
    return ""


def _words(steps: object) -> str:
    return ", ".join(map(str, steps)) or "none" if isinstance(steps, tuple) else str(steps)
