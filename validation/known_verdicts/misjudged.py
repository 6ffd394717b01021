"""Find wrong verdicts of a gate on known records and calls.

A fault of the gate itself (a tolerance ten times too wide, a one-sided drift, a baseline compared with
itself) turns no case red; it only makes the gate laxer. So the gate judges known examples: records that must
fail at stated steps, records that must pass, and calls with the result that each must return. A run of the
gate includes a short form (`mxcheck.gate.smoke`); this is the full form, as tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from mxcheck.gate.verdict import judge
from validation.known_verdicts.contradictions import CONTRADICTIONS
from validation.known_verdicts.counted import COUNT_RECORDS
from validation.known_verdicts.drifts import DRIFT_RECORDS
from validation.known_verdicts.expectation import Expectation
from validation.known_verdicts.healthy import KnownRecord
from validation.known_verdicts.layers import LAYER_RECORDS
from validation.known_verdicts.noises import NOISES
from validation.known_verdicts.outcomes import OUTCOMES
from validation.known_verdicts.predicted import PREDICTION_RECORDS
from validation.known_verdicts.reference import REFERENCE_STANDS
from validation.known_verdicts.steps import STEP_RECORDS
from validation.known_verdicts.surroundings import SURROUNDINGS
from validation.known_verdicts.told import TOLD
from validation.known_verdicts.updates import ACCEPTANCE
from validation.known_verdicts.whole_lists import WHOLE_LISTS

_Found = TypeVar("_Found")

#: Records to judge, and calls to execute.
RECORDS: tuple[KnownRecord, ...] = (
    *(*STEP_RECORDS, *REFERENCE_STANDS, *DRIFT_RECORDS),
    *(*PREDICTION_RECORDS, *LAYER_RECORDS, *COUNT_RECORDS, *WHOLE_LISTS),
)
CALLS: tuple[Expectation, ...] = (*SURROUNDINGS, *ACCEPTANCE, *NOISES, *CONTRADICTIONS, *OUTCOMES, *TOLD)


def missed(
    records: Sequence[KnownRecord] = RECORDS, calls: Sequence[Expectation] = CALLS
) -> Iterator[tuple[str, str]]:
    """Yield the name of each known record or call that the gate misjudges, and the actual result, in one
    line."""
    for known in records:
        failed = _tried(partial(_failed_steps, known))
        if failed != known.fails:
            did = failed if isinstance(failed, str) else _did(failed)
            yield known.name, f"{known.wrong}; expected {_words(known.fails)}, {did}"
    for expectation in calls:
        if (found := _tried(expectation.found)) != expectation.expected:
            yield expectation.name, f"{expectation.what}; expected {expectation.expected!r}, got {found!r}"


def _failed_steps(known: KnownRecord) -> tuple[int, ...]:
    return judge(known.record, known.baseline, known.bounds).failed_steps


def _tried(call: Callable[[], _Found]) -> _Found | str:
    """Return a call's result, or its error in one line, since no call raises where nothing is wrong. Only
    MemoryError is raised."""
    try:
        return call()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  (reported as misjudged, whatever it is)
        return " ".join(f"{type(error).__name__}: {error}".split())


def _words(steps: Sequence[int]) -> str:
    names = " and ".join(str(step) for step in steps)
    return f"step{'s' * (len(steps) > 1)} {names} to fail" if steps else "nothing to fail"


def _did(steps: Sequence[int]) -> str:
    return f"{' and '.join(f'step {step}' for step in steps)} did" if steps else "nothing did"
