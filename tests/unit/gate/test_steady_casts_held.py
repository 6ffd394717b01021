"""Step 4 without a baseline: casts that do not stay the same make a case red, and are never accepted."""

from __future__ import annotations

from sample_record import UP, build_record

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.cause import cause
from mxcheck.gate.decision import Accepted, decide
from mxcheck.gate.record import Record, record_from_dict
from mxcheck.gate.result import Outcome
from mxcheck.gate.update import Update
from mxcheck.gate.verdict import judge

BOUNDS = Bounds(kl=1.0, rise=1.0)
WORDS = "a slice with a storage offset: other bits in row 0 and 3 others of 64 of its activations"
UNSTEADY = build_record(unsteady={UP: WORDS})


def test_an_unsteady_cast_is_red_by_step_4_with_module_and_kind() -> None:
    verdict = judge(UNSTEADY, build_record(), BOUNDS)
    (failed,) = verdict.failures
    assert (failed.step, failed.key) == (4, "steady casts")
    assert failed.message.endswith(f"in 1 modules: {UP} ({WORDS})")
    assert cause(verdict, UNSTEADY, build_record()).link == "numerics"


def test_it_cannot_be_accepted_for_the_first_time_or_again() -> None:
    nothing = Accepted(record=None, trouble="none", exists=False)
    for accepted in (nothing, Accepted(record=build_record())):
        decision = decide(UNSTEADY, accepted, BOUNDS, Update(changed=True))
        assert decision.result.outcome is Outcome.FAILED
        assert not decision.write
    steady = decide(build_record(), nothing, BOUNDS, Update(changed=True), replaces=False)
    assert steady.result.outcome is Outcome.ACCEPTED


def test_it_travels_and_takes_no_place_in_a_baseline() -> None:
    assert record_from_dict(UNSTEADY.as_dict()) == UNSTEADY
    steady: Record = build_record()
    assert "unsteady" not in steady.as_dict()
    assert record_from_dict(steady.as_dict()) == steady
