"""The gate's own smoke test: before it judges, it judges what is known to be bad.

A fault of the gate itself (a tolerance ten times too wide, a drift that is one-sided, a baseline compared
with itself) turns no case red; it only makes the gate laxer. So every worker first judges canaries, as one
presses a smoke detector's button, and every case of the run is red if one of them is not judged as it must
be: a bad one that passes, or a good one that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from mxcheck.gate.canaries.contradictions import CONTRADICTIONS
from mxcheck.gate.canaries.counted import COUNT_CANARIES
from mxcheck.gate.canaries.drifts import DRIFT_CANARIES
from mxcheck.gate.canaries.expectation import Expectation
from mxcheck.gate.canaries.healthy import Canary
from mxcheck.gate.canaries.hindrance import NO_MEMORY, no_room
from mxcheck.gate.canaries.layers import LAYER_CANARIES
from mxcheck.gate.canaries.noises import NOISES
from mxcheck.gate.canaries.outcomes import OUTCOMES
from mxcheck.gate.canaries.predicted import PREDICTION_CANARIES
from mxcheck.gate.canaries.reference import REFERENCE_STANDS
from mxcheck.gate.canaries.steps import STEP_CANARIES
from mxcheck.gate.canaries.surroundings import SURROUNDINGS
from mxcheck.gate.canaries.told import TOLD
from mxcheck.gate.canaries.updates import ACCEPTANCE
from mxcheck.gate.canaries.whole_lists import WHOLE_LISTS
from mxcheck.gate.verdict import judge

_Found = TypeVar("_Found")

#: Records to judge, and calls to make.
RECORDS: tuple[Canary, ...] = (
    *(*STEP_CANARIES, *REFERENCE_STANDS, *DRIFT_CANARIES),
    *(*PREDICTION_CANARIES, *LAYER_CANARIES, *COUNT_CANARIES, *WHOLE_LISTS),
)
CALLS: tuple[Expectation, ...] = (*SURROUNDINGS, *ACCEPTANCE, *NOISES, *CONTRADICTIONS, *OUTCOMES, *TOLD)


def missed(
    records: Sequence[Canary] = RECORDS, calls: Sequence[Expectation] = CALLS
) -> Iterator[tuple[str, str]]:
    """Canaries that the gate does not judge as it must: name, and what happened, in one line."""
    for canary in records:
        failed = _tried(partial(_failed_steps, canary))
        if failed != canary.fails:
            did = failed if isinstance(failed, str) else _did(failed)
            yield canary.name, f"{canary.wrong}; expected {_words(canary.fails)}, {did}"
    for expectation in calls:
        if (found := _tried(expectation.found)) != expectation.expected:
            yield expectation.name, f"{expectation.what}; expected {expectation.expected!r}, got {found!r}"


def _failed_steps(canary: Canary) -> tuple[int, ...]:
    return judge(canary.record, canary.baseline, canary.bounds).failed_steps


def _tried(call: Callable[[], _Found]) -> _Found | str:
    """What a call gives, or in one line what it raised: no canary raises where nothing is wrong. Raises
    MemoryError alone."""
    try:
        return call()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told as a canary that is misjudged)
        return " ".join(f"{type(error).__name__}: {error}".split())


def broken_gate() -> str:
    """Why this gate's verdicts are worth nothing, in one line; empty where it judges all canaries right."""
    try:
        found = list(missed())
    except MemoryError:
        return f"the gate cannot be tried: {NO_MEMORY}; no verdict of this run counts"
    if not found:
        return ""
    if why := no_room():
        return f"the gate cannot be tried: {why}; no verdict of this run counts"
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
