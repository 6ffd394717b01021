"""The gate's own smoke test: silent on this gate, loud on one with a fault, whichever it is."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from mxcheck.gate.canaries.broken_gate import CALLS, RECORDS, broken_gate, missed
from mxcheck.pytest_plugin.ordering_canaries import broken_orderings
from validation.faults.catalogued import catalogue
from validation.faults.fault import Fault, Rewrite, applied

VERDICT = "mxcheck.gate.verdict"


def seen(change: Rewrite) -> set[str]:
    fault = Fault(
        name="canary", group="gate", what="a fault of the gate", source="this test", changes=(change,)
    )
    with applied(fault):
        return {name for name, _ in missed()}


def test_this_gate_is_sound() -> None:
    assert list(missed()) == []
    assert broken_gate() == ""


def test_names_are_unique() -> None:
    names = [canary.name for canary in (*RECORDS, *CALLS)]
    assert len(names) == len(set(names))


def test_each_step_has_bad_canaries_and_good_ones_are_there() -> None:
    alone = [canary.fails[0] for canary in RECORDS if len(canary.fails) == 1]
    assert {step: alone.count(step) >= 4 for step in range(1, 7)} == dict.fromkeys(range(1, 7), True)
    assert sum(canary.fails == () for canary in RECORDS) >= 20


def test_it_needs_the_standard_library_only() -> None:
    code = (
        "import sys; from mxcheck.gate.canaries.broken_gate import broken_gate; assert not broken_gate(); "
        "print({'torch', 'numpy', 'pytest', 'transformers'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=fault.name)
        for fault in catalogue().values()
        if fault.group == "record keeping"
        and all(change.target.startswith(("mxcheck.gate.", "mxcheck.measure.")) for change in fault.changes)
    ],
)
def test_a_fault_of_record_keeping_is_seen(fault: Fault) -> None:
    """By the gate's canaries, or by those that the tests of orderings ask first."""
    with applied(fault):
        assert list(missed()) or broken_orderings()


def test_a_canary_that_raises_is_told() -> None:
    raises = Rewrite(target=f"{VERDICT}:_bounds", at=(), to="raise RuntimeError('two  lines')")
    fault = Fault(name="canary", group="gate", what="Raises.", source="this test", changes=(raises,))
    with applied(fault):
        ((_, what),) = missed(RECORDS[:1], ())
    assert what.endswith("expected nothing to fail, RuntimeError: two lines")


# Each canary can fail.


def test_a_gate_that_sees_nothing_misses_every_bad_record() -> None:
    blind = Rewrite(target=f"{VERDICT}:Verdict.failed_steps", at=(), to="return ()")
    bad = {canary.name for canary in RECORDS if canary.fails}
    assert seen(blind) >= bad
    assert seen(blind).isdisjoint(canary.name for canary in RECORDS if not canary.fails)


def test_a_gate_that_cries_wolf_misjudges_every_record() -> None:
    wolf = Rewrite(target=f"{VERDICT}:Verdict.failed_steps", at=(), to="return (1, 2, 3, 4, 5, 6)")
    assert seen(wolf) >= {canary.name for canary in RECORDS}


@pytest.mark.parametrize("call", [pytest.param(call, id=call.name) for call in CALLS])
def test_a_call_that_gives_anything_else_is_seen(call: Any) -> None:
    ((name, what),) = missed((), [replace(call, expected="another")])
    assert name == call.name
    assert what.startswith(f"{call.what}; expected 'another', got ")
