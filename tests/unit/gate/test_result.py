"""How a case ended: what is sent arrives, what is none is refused, and what is green."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sample_record import build_record

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.case import Case
from mxcheck.gate.case_cost import Cost
from mxcheck.gate.drift import Drift
from mxcheck.gate.result import CaseResult, Outcome, all_green, result_from_dict
from mxcheck.gate.verdict import Check

CASE = Case(model="ref-llama", precision="mxfp8_e4m3", tier="B")
CASTS = Check(step=4, key="cast codes", passed=False, message="bits")
LOSSES = Check(step=6, key="losses", passed=False, message="moved")
FULL = CaseResult(
    case=CASE,
    outcome=Outcome.PASSED,
    record=build_record(),
    bounds=Bounds(kl=0.004, rise=0.01),
    drift=Drift(median=1e-5, rms=0.1 + 0.2, max=1.0, median_bound=1.0, rms_bound=1.0, max_bound=float("inf")),
    reason="why",
    message="in\nseveral lines",
    seconds=1.5,
    load_seconds=0.25,
    worker="gw0",
    cost=Cost(device="cpu", tokens=510, seconds={"forward": 1.25, "metrics": 0.1 + 0.2}, peak_bytes=3 << 30),
)
GREEN = {Outcome.PASSED, Outcome.ACCEPTED, Outcome.UPDATED, Outcome.RECENTRED}


def of(outcome: Outcome) -> CaseResult:
    """A result that may be: green with a record, failed with a failure."""
    return replace(FULL, outcome=outcome, failures=() if outcome.green else (LOSSES, CASTS))


@pytest.mark.parametrize("outcome", Outcome)
def test_what_is_sent_arrives_bit_for_bit(outcome: Outcome) -> None:
    sent = of(outcome)
    assert result_from_dict(json.loads(json.dumps(sent.as_dict()))) == sent


@pytest.mark.parametrize(
    "case",
    [
        Case(model="m", precision="bf16", options=("block16", "samples8")),
        Case(model="m", kind="checkpoint", subject="my-fp8"),
        Case(model="m", kind="engine", subject="vllm-0.32", options=("batch8",)),
        Case(model="m", kind="training", precision="mxfp8_e4m3", tier="B"),
    ],
    ids=lambda case: case.name,
)
def test_a_case_of_any_kind_arrives(case: Case) -> None:
    sent = CaseResult(case=case, outcome=Outcome.CRASHED)
    arrived = result_from_dict(json.loads(json.dumps(sent.as_dict())))
    assert arrived == sent
    assert arrived.case.options == case.options


Data = dict[str, Any]


def _without(name: str) -> Callable[[Data], object]:
    return lambda data: data.pop(name)


def _with(**changes: Any) -> Callable[[Data], object]:
    return lambda data: data.update(changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *(pytest.param(_without(name), name, id=f"no-{name}") for name in FULL.as_dict()),
        pytest.param(_with(outcome="fine"), "'fine' is not a valid Outcome", id="outcome"),
        pytest.param(_with(outcome=None), "outcome must be str, got None", id="outcome-null"),
        pytest.param(_with(reason=3), "reason must be str, got 3", id="reason"),
        pytest.param(_with(message=None), "message must be str, got None", id="message"),
        pytest.param(_with(worker=[]), "worker must be str", id="worker"),
        pytest.param(_with(seconds="1"), "seconds must be a number, got '1'", id="seconds"),
        pytest.param(_with(load_seconds=True), "load_seconds must be a number, got True", id="load-seconds"),
        pytest.param(_with(id="ref-moe-bf16"), "the result of 'ref-moe-bf16' is one of 'ref-llama-", id="id"),
        pytest.param(_with(case={"model": "m"}), "options", id="case-without-options"),
        pytest.param(_with(case=None), "a case must be a table of model, ", id="case-null"),
        pytest.param(
            lambda data: data["case"].update(kind="other"), "unknown kind of case 'other'", id="kind"
        ),
        pytest.param(lambda data: data["case"].update(precision=8), "must be named by texts", id="precision"),
        pytest.param(
            lambda data: data["case"].update(colour=1), "a case must be a table of", id="case-unknown"
        ),
        pytest.param(_with(record=[1]), "a record must be a dict, got [1]", id="record"),
        pytest.param(lambda data: data["record"].pop("kl"), "missing fields: ['kl']", id="record-field"),
        pytest.param(
            lambda data: data["record"].update(tier="A"),
            "the result of ref-llama-mxfp8_e4m3-B has the record of ref-llama-mxfp8_e4m3-A",
            id="record-of-another",
        ),
        pytest.param(_with(record=None), "is pass and has no record", id="green-without-record"),
        pytest.param(_with(outcome="FAIL"), "is FAIL with 0 failures", id="failed-without-failure"),
        pytest.param(_with(failures=3), "iterable", id="failures"),
        pytest.param(lambda data: data["bounds"].pop("kl"), "'kl'", id="bounds-field"),
        pytest.param(
            lambda data: data["bounds"].update(kl="a"), "kl of bounds must be a number, got 'a'", id="bounds"
        ),
        pytest.param(_with(bounds=[1]), "bounds must be a dict, got [1]", id="bounds-list"),
        pytest.param(
            lambda data: data["drift"].update(rms=None), "rms of drift must be a number, got None", id="drift"
        ),
        pytest.param(lambda data: data["drift"].update(mean=1.0), "unexpected keyword", id="drift-unknown"),
        pytest.param(lambda data: data["cost"].update(tokens=0), "tokens of a cost must be", id="cost"),
    ],
)
def test_what_is_none_is_refused(change: Callable[[Data], object], words: str) -> None:
    data = json.loads(json.dumps(FULL.as_dict()))
    change(data)
    with pytest.raises(ValueError, match="no result of a case: ") as caught:
        result_from_dict(data)
    assert words in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "row", 3])
def test_what_is_no_dict_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="a result must be a dict, got "):
        result_from_dict(data)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": 7}, "no failed check"),
        ({"step": "4"}, "no failed check"),
        ({"passed": True}, "no failed check"),
        ({"passed": 0}, "no failed check"),
        ({"message": None}, "no failed check"),
        ({"key": 1}, "no failed check"),
        ({"why": ""}, "unexpected keyword"),
    ],
    ids=["unknown-step", "step", "passed", "passed-number", "message", "key", "unknown"],
)
def test_a_failure_that_is_none_is_refused(changes: dict[str, Any], words: str) -> None:
    data = of(Outcome.FAILED).as_dict()
    data["failures"][1].update(changes)
    with pytest.raises((ValueError, TypeError)) as caught:
        result_from_dict(data)
    assert words in str(caught.value)


def test_a_green_case_with_a_failure_is_refused() -> None:
    with pytest.raises(ValueError, match="is pass with 1 failures"):
        result_from_dict(replace(FULL, failures=(CASTS,)).as_dict())


@pytest.mark.parametrize(
    ("outcome", "word"),
    [
        (Outcome.PASSED, "pass"),
        (Outcome.ACCEPTED, "accepted"),
        (Outcome.UPDATED, "updated"),
        (Outcome.RECENTRED, "recentred"),
        (Outcome.SKIPPED, "skipped"),
        (Outcome.FAILED, "FAIL step 4,6"),
        (Outcome.MISSING, "FAIL missing"),
        (Outcome.CORRUPT, "FAIL corrupt"),
        (Outcome.ERROR, "ERROR"),
        (Outcome.CRASHED, "CRASH"),
        (Outcome.NOT_RUN, "NOT RUN"),
        (Outcome.NO_ROW, "NO ROW"),
    ],
)
def test_the_word_and_the_colour_of_every_outcome(outcome: Outcome, word: str) -> None:
    assert of(outcome).word == word
    assert outcome.green is (outcome in GREEN)
    assert outcome.red is (outcome not in GREEN and outcome is not Outcome.SKIPPED)


def test_each_failed_step_is_named_once_in_order() -> None:
    twice = replace(of(Outcome.FAILED), failures=(LOSSES, CASTS, replace(LOSSES, key="KL")))
    assert twice.failed_steps == (4, 6)


@pytest.mark.parametrize(
    ("outcomes", "green"),
    [
        ((), False),
        ((Outcome.SKIPPED, Outcome.SKIPPED), False),
        ((Outcome.PASSED,), True),
        (tuple(GREEN), True),
        ((Outcome.PASSED, Outcome.SKIPPED), True),
        *(((Outcome.PASSED, outcome), False) for outcome in Outcome if outcome.red),
    ],
    ids=lambda value: (
        None if isinstance(value, bool) else "+".join(sorted(one.name for one in value)) or "none"
    ),
)
def test_a_run_is_green_where_something_was_measured_and_nothing_is_wrong(
    outcomes: tuple[Outcome, ...], green: bool
) -> None:
    assert all_green(map(of, outcomes)) is green
