"""What becomes of a case: the table of ends, and that nothing is read or judged twice."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from sample_record import build_record
from syrupy.assertion import SnapshotAssertion

from mxcheck.gate.baseline import decode, encode
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.decision import Accepted, decide, is_first, loss_drift, read_accepted
from mxcheck.gate.record import Record
from mxcheck.gate.result import Outcome
from mxcheck.gate.update import Update
from mxcheck.gate.verdict import judge
from mxcheck.pytest_plugin.fixtures.acceptance import compare_or_accept

BASELINE = build_record()
SAME = build_record(noise=None)
MOVED = build_record(noise=None, sequence_losses=[loss - 1e-3 for loss in BASELINE.sequence_losses])
OVER = build_record(noise=None, sequence_losses=MOVED.sequence_losses, sequence_kl=[2.0] * 4)
WIDE = Bounds(kl=1.0, rise=1.0)
THERE, NONE, UNREADABLE = (
    Accepted(record=BASELINE),
    Accepted(record=None, trouble="no accepted baseline", exists=False),
    Accepted(record=None, trouble="corrupt"),
)
CHANGED, MISSING, RECENTRE = (
    Update(changed=True),
    Update(missing=True),
    Update(changed=True, recentre=True),
)


@pytest.mark.parametrize(
    ("record", "accepted", "update", "outcome", "write"),
    [
        (SAME, THERE, Update(), Outcome.PASSED, ""),
        (MOVED, THERE, Update(), Outcome.FAILED, ""),
        (MOVED, NONE, Update(), Outcome.MISSING, ""),
        (MOVED, UNREADABLE, Update(), Outcome.CORRUPT, ""),
        (OVER, NONE, Update(), Outcome.FAILED, ""),
        (SAME, THERE, CHANGED, Outcome.PASSED, ""),
        (MOVED, THERE, CHANGED, Outcome.UPDATED, "measured"),
        (MOVED, UNREADABLE, CHANGED, Outcome.UPDATED, "measured"),
        (OVER, THERE, CHANGED, Outcome.FAILED, ""),
        (OVER, UNREADABLE, CHANGED, Outcome.FAILED, ""),
        (MOVED, NONE, MISSING, Outcome.UPDATED, "measured"),
        (MOVED, THERE, MISSING, Outcome.FAILED, ""),
        (MOVED, UNREADABLE, MISSING, Outcome.CORRUPT, ""),
        (SAME, THERE, RECENTRE, Outcome.RECENTRED, "accepted"),
        (MOVED, THERE, RECENTRE, Outcome.FAILED, ""),
        (MOVED, NONE, RECENTRE, Outcome.MISSING, ""),
        (MOVED, THERE, Update(measure=True), Outcome.MEASURED, ""),
        (OVER, NONE, Update(measure=True), Outcome.MEASURED, ""),
    ],
    ids=range(18),
)
def test_the_end_of_a_case(
    record: Record, accepted: Accepted, update: Update, outcome: Outcome, write: str
) -> None:
    decision = decide(record, accepted, WIDE, update)
    assert (decision.result.outcome, decision.write) == (outcome, write)
    assert decision.result.failures == (decision.verdict.failures if outcome.red else ())
    assert (decision.result.case, decision.result.record) == (record.case, record)
    assert decision.result.bounds == WIDE


def test_what_replaces_nothing_is_accepted_and_not_updated() -> None:
    decision = decide(MOVED, THERE, WIDE, CHANGED, replaces=False)  # another device class's own file
    assert (decision.result.outcome, decision.write) == (Outcome.ACCEPTED, "measured")


@pytest.mark.parametrize(
    ("accepted", "bounds", "update", "first"),
    [
        (NONE, None, CHANGED, True),
        (NONE, None, MISSING, True),
        (UNREADABLE, None, CHANGED, True),
        (UNREADABLE, None, MISSING, False),  # it is there, and nothing is written
        (THERE, None, CHANGED, False),
        (NONE, None, Update(), False),
        (NONE, None, RECENTRE, False),
        (NONE, WIDE, CHANGED, False),
        (NONE, replace(WIDE, own=True), CHANGED, True),
        (NONE, replace(WIDE, own=True, reason="why"), CHANGED, False),
    ],
)
def test_a_first_acceptance_is_one_that_nothing_guards(
    accepted: Accepted, bounds: Bounds | None, update: Update, first: bool
) -> None:
    assert is_first(BASELINE, accepted, bounds, update) is first


def test_drift_is_shown_where_there_is_something_to_pair() -> None:
    assert decide(SAME, NONE, WIDE, Update()).result.drift is None
    assert decide(MOVED, THERE, WIDE, CHANGED).result.drift is None  # it is the new baseline itself
    shown = decide(MOVED, THERE, WIDE, Update()).result.drift
    assert shown is not None
    assert shown.rms == pytest.approx(1e-3)
    assert loss_drift(replace(MOVED, sequence_losses=[2.0]), BASELINE) is None


def test_what_lies_there(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    missing = read_accepted(path)
    assert missing == Accepted(record=None, trouble=f"no accepted baseline at {path}", exists=False)
    path.write_text(encode(BASELINE), encoding="utf-8")
    assert read_accepted(path) == Accepted(record=BASELINE)
    path.write_text("{", encoding="utf-8")
    damaged = read_accepted(path)
    assert (damaged.record, damaged.exists) == (None, True)
    assert damaged.trouble.startswith(f"corrupt baseline {path}: not JSON")


def test_states_that_are_gone_are_red_and_an_update_stores_them_anew(tmp_path: Path) -> None:
    """On a machine with the baseline's arithmetic, too, which comes to the same states by itself."""
    path = tmp_path / "case.json"
    record = replace(BASELINE, fingerprints={**BASELINE.fingerprints, "states": "d" * 64})
    path.write_text(encode(record), encoding="utf-8")
    states = tmp_path / "states-aaaaaaaa.safetensors"
    gone = read_accepted(path)
    assert (gone.record, gone.exists) == (None, True)
    assert gone.trouble.startswith(f"{states}, from which {path} was measured, is gone; restore it")
    now = replace(record, noise=None)
    assert decide(now, gone, WIDE, Update()).result.outcome is Outcome.CORRUPT
    assert decide(now, gone, WIDE, CHANGED).write == "measured"
    states.write_bytes(b"")
    assert read_accepted(path) == Accepted(record=record)


@contextmanager
def counted(*functions: Callable[..., Any]) -> Iterator[Counter[str]]:
    """How often each is called, by whatever name its caller knows it."""
    names = {function.__code__: function.__name__ for function in functions}
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in names:
            calls[names[frame.f_code]] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(before)


def test_calls_are_counted_whatever_the_name() -> None:
    by_another_name = judge
    with counted(judge, decode) as calls:
        by_another_name(SAME, None, WIDE)
        decide(SAME, NONE, WIDE, Update())
    assert calls == {"judge": 2}


@pytest.mark.parametrize(
    ("record", "outcome"), [(SAME, Outcome.PASSED), (MOVED, Outcome.FAILED)], ids=["passes", "fails"]
)
def test_a_baseline_is_read_once_and_a_record_judged_once(
    record: Record, outcome: Outcome, snapshot: SnapshotAssertion, tmp_path: Path
) -> None:
    path = tmp_path / "case.json"
    path.write_text(encode(BASELINE), encoding="utf-8")
    with counted(judge, decode) as calls:
        result = compare_or_accept(
            record,
            path=path,
            target=path,
            baseline_of=lambda _: pytest.fail("no other case was to be read"),
            bounds=WIDE,
            snapshot=snapshot,
            update=Update(),
            accept_command="pytest --snapshot-update",
            measure_noise=lambda: pytest.fail("no noise was to be measured"),
            keep_inputs=lambda: pytest.fail("nothing was to be kept"),
            measure_absolute=lambda: pytest.fail("it was accepted before"),
        )
    assert result.outcome is outcome
    assert calls == {"judge": 1, "decode": 1}
