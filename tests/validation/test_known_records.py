"""Records and calls of known verdict: all are right on this gate, and every fault of the gate is seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from validation.faults.catalogued import catalogue
from validation.faults.fault import Fault, Rewrite, applied
from validation.known_verdicts.all_verdicts import all_missed
from validation.known_verdicts.misjudged import CALLS, RECORDS, missed
from validation.sensitivity.detection import OF_THE_GATE

VERDICT = "mxcheck.gate.verdict"


def seen(change: Rewrite) -> set[str]:
    fault = Fault(
        name="made_up", group="gate", what="a fault of the gate", source="this test", changes=(change,)
    )
    with applied(fault):
        return {name for name, _ in missed()}


def test_this_gate_is_sound() -> None:
    assert list(missed()) == []


def test_names_are_unique() -> None:
    names = [known.name for known in (*RECORDS, *CALLS)]
    assert len(names) == len(set(names))


def test_each_step_has_bad_records_and_good_ones_are_there() -> None:
    alone = [known.fails[0] for known in RECORDS if len(known.fails) == 1]
    assert {step: alone.count(step) >= 4 for step in range(1, 7)} == dict.fromkeys(range(1, 7), True)
    assert sum(known.fails == () for known in RECORDS) >= 20


#: Faults that no known record, report, ordering or merge shows, and what does.
SEEN_ELSEWHERE = {
    "fingerprint_of_the_first_tensor": "step 1 of the model suite",
    "digests_of_the_first_module": "step 4 of the model suite",
    "results_of_another_model": "steps 1 to 6 of the model suite",
    "result_of_the_tier_before": "the model suite: a case without a verdict",
    "red_cases_leave_no_record": "the model suite: a case without a verdict",
    "accept_command_takes_more": "tests/unit/pytest_plugin/fixtures/test_gate_session.py",
    "last_tier_left_out": "tests/unit/pytest_plugin/test_laid_out_cases.py",
    "report_without_red_rows": "tests/plugin/test_report_of_a_run.py",
    "kernel_that_raises_is_skipped": "tests/plugin/test_kernel_suite.py",
    "first_kernel_serves_all": "tests/plugin/test_kernel_suite.py",
    "shard_written_too_early": "tests/plugin/test_shards.py",
    "cases_of_a_dead_worker_lost": "tests/unit/pytest_plugin/xdist/test_xdist_scheduling.py",
    "broken_library_skipped": "tests/plugin/test_cases_fail_alone.py",
}


@pytest.mark.parametrize(
    "fault", [one for one in catalogue().values() if one.group in OF_THE_GATE], ids=lambda one: one.name
)
def test_every_fault_of_the_gate_is_seen(fault: Fault) -> None:
    """By what is asked here; of those that something else shows, it is written down what."""
    with applied(fault):
        seen_here = any(True for _ in all_missed())  # the first is enough
        assert seen_here == (fault.name not in SEEN_ELSEWHERE)


def test_a_record_that_raises_is_told() -> None:
    raises = Rewrite(target=f"{VERDICT}:_bounds", at=(), to="raise RuntimeError('two  lines')")
    fault = Fault(name="made_up", group="gate", what="Raises.", source="this test", changes=(raises,))
    with applied(fault):
        ((_, what),) = missed(RECORDS[:1], ())
    assert what.endswith("expected nothing to fail, RuntimeError: two lines")


# Each of them can fail.


def test_a_gate_that_sees_nothing_misses_every_bad_record() -> None:
    blind = Rewrite(target=f"{VERDICT}:Verdict.failed_steps", at=(), to="return ()")
    bad = {known.name for known in RECORDS if known.fails}
    assert seen(blind) >= bad
    assert seen(blind).isdisjoint(known.name for known in RECORDS if not known.fails)


def test_a_gate_that_cries_wolf_misjudges_every_record() -> None:
    wolf = Rewrite(target=f"{VERDICT}:Verdict.failed_steps", at=(), to="return (1, 2, 3, 4, 5, 6)")
    assert seen(wolf) >= {known.name for known in RECORDS}


@pytest.mark.parametrize("call", [pytest.param(call, id=call.name) for call in CALLS])
def test_a_call_that_gives_anything_else_is_seen(call: Any) -> None:
    ((name, what),) = missed((), [replace(call, expected="another")])
    assert name == call.name
    assert what.startswith(f"{call.what}; expected 'another', got ")
