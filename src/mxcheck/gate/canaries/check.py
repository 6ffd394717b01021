"""The gate's own smoke test: before it judges, it judges what is known to be bad.

A fault of the gate itself (a tolerance ten times too wide, a drift that is one-sided, a baseline compared
with itself) turns no case red; it only makes the gate laxer. So every worker first judges canaries, as one
presses a smoke detector's button, and every case of the run is red if one of them is not judged as it must
be: a bad one that passes, or a good one that fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mxcheck.gate.canaries.counted import COUNT_CANARIES
from mxcheck.gate.canaries.drifts import DRIFT_CANARIES
from mxcheck.gate.canaries.expectation import Expectation
from mxcheck.gate.canaries.healthy import Canary
from mxcheck.gate.canaries.layers import LAYER_CANARIES
from mxcheck.gate.canaries.predicted import PREDICTION_CANARIES
from mxcheck.gate.canaries.reference import REFERENCE_STANDS
from mxcheck.gate.canaries.steps import STEP_CANARIES
from mxcheck.gate.canaries.surroundings import SURROUNDINGS
from mxcheck.gate.canaries.updates import ACCEPTANCE
from mxcheck.gate.verdict import judge

#: Records to judge, and calls to make.
RECORDS: tuple[Canary, ...] = (
    *(*STEP_CANARIES, *REFERENCE_STANDS, *DRIFT_CANARIES),
    *(*PREDICTION_CANARIES, *LAYER_CANARIES, *COUNT_CANARIES),
)
CALLS: tuple[Expectation, ...] = (*SURROUNDINGS, *ACCEPTANCE)


def missed(
    records: Sequence[Canary] = RECORDS, calls: Sequence[Expectation] = CALLS
) -> Iterator[tuple[str, str]]:
    """Canaries that the gate does not judge as it must: name, and what happened, in one line."""
    for canary in records:
        failed = judge(canary.record, canary.baseline, canary.bounds).failed_steps
        if failed != canary.fails:
            yield canary.name, f"{canary.wrong}; expected {_words(canary.fails)}, {_did(failed)}"
    for expectation in calls:
        if (found := expectation.found()) != expectation.expected:
            yield expectation.name, f"{expectation.what}; expected {expectation.expected!r}, got {found!r}"


def broken_gate() -> str:
    """Why this gate's verdicts are worth nothing, in one line; empty where it judges all canaries right."""
    found = list(missed())
    if not found:
        return ""
    (name, what), *others = found
    more = f" (and {len(others)} more, {others[0][0]} the next)" if others else ""
    return (
        f"the gate misjudges canary {name}: {what}{more}; mxcheck itself is broken, no verdict of this run "
        f"counts; undo what was changed under mxcheck/gate, or install mxcheck anew"
    )


def _words(steps: Sequence[int]) -> str:
    names = " and ".join(str(step) for step in steps)
    return f"step{'s' * (len(steps) > 1)} {names} to fail" if steps else "nothing to fail"


def _did(steps: Sequence[int]) -> str:
    return f"{' and '.join(f'step {step}' for step in steps)} did" if steps else "nothing did"
