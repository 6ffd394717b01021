"""Decide whether a case passes, is accepted, or is red. Nothing is written here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mxcheck.gate.baseline import BaselineError, read, states_path
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.check import Check
from mxcheck.gate.drift import Drift, drift
from mxcheck.gate.figures import check_figures
from mxcheck.gate.record import Noise, Record
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.gate.update import Update
from mxcheck.gate.verdict import Verdict, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The accepted record of a case, or why there is none.

    Attributes:
        record: the accepted record; None where it is absent or unreadable.
        trouble: why it could not be read or compared, in one line.
        exists: whether the file exists.
    """

    record: Record | None
    trouble: str = ""
    exists: bool = True


def read_accepted(path: Path) -> Accepted:
    """Read the baseline at `path` once."""
    try:
        record = read(path)
    except FileNotFoundError:
        return Accepted(record=None, trouble=f"no accepted baseline at {path}", exists=False)
    except BaselineError as error:
        return Accepted(record=None, trouble=str(error))
    states = states_path(path.parent, record.fingerprints.get("weights", ""))
    if "states" in record.fingerprints and not states.exists():
        # This machine may reproduce the states; another machine will not.
        trouble = f"{states}, from which {path} was measured, is gone; restore it from version control"
        return Accepted(record=None, trouble=trouble)
    return Accepted(record=record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The outcome of a case, and its reasons.

    `write` selects the noise to store with the record: measured now, or the accepted one. Empty: write
    nothing.
    """

    result: CaseResult
    verdict: Verdict
    write: Literal["", "measured", "accepted"] = ""


def is_first(record: Record, accepted: Accepted, bounds: Bounds | None, update: Update) -> bool:
    """Return whether an update would accept these casts for the first time: there is no readable baseline of
    the same casts, weights and tokens, and no table of bounds has a line for them, nor does the model's own
    file have a line with a reason."""
    unsaid = bounds is None or (bounds.own and not bounds.reason)
    # an unreadable file counts as none, and so does one of another case or of other casts
    return (
        update.covers(exists=accepted.exists)
        and not update.recentre
        and unsaid
        and not _knows(accepted.record, record)
    )


def _knows(accepted: Record | None, record: Record) -> bool:
    return (
        accepted is not None
        and accepted.id == record.id
        and all(accepted.fingerprints[key] == record.fingerprints[key] for key in ("weights", "tokens"))
        and accepted.digests == record.digests
    )


def decide(
    record: Record,
    accepted: Accepted,
    bounds: Bounds | None,
    update: Update,
    *,
    replaces: bool = True,
    absolute: Sequence[Check] = (),
) -> Decision:
    """Decide how a case ends. `replaces` says whether a file exists at the record's path; `absolute` are the
    checks of the process that measured it, and of a first acceptance (`is_first`).

    Checks that need no baseline (the reference on its own samples, the conversion, the bounds) precede every
    update, so that it cannot accept a value outside its bounds. Re-centring does the opposite: it rewrites
    cases that pass against their baselines, and accepts nothing new.

    Raises ValueError, in one line, where the record contradicts itself: no verdict on such a record is valid.
    """
    check_figures(record)
    verdict = judge(record, accepted.record, bounds, absolute)
    holds = accepted.record is not None and verdict.passed
    updating = update.covers(exists=accepted.exists)
    write: Literal["", "measured", "accepted"] = ""
    if update.measure:
        outcome = Outcome.MEASURED
    elif updating and verdict.acceptable and not holds and not update.recentre:
        outcome, write = Outcome.UPDATED if replaces else Outcome.ACCEPTED, "measured"
    elif holds and updating and update.recentre:
        # the measured noise is unaffected
        outcome, write = Outcome.RECENTRED, "accepted"
    elif holds:
        outcome = Outcome.PASSED
    elif verdict.failures:
        outcome = Outcome.FAILED
    else:
        outcome = Outcome.CORRUPT if accepted.exists else Outcome.MISSING
    result = CaseResult(
        case=record.case,
        outcome=outcome,
        failures=verdict.failures if outcome.red else (),
        record=record,
        bounds=bounds,
        drift=None if write == "measured" or accepted.record is None else loss_drift(record, accepted.record),
    )
    return Decision(result=result, verdict=verdict, write=write)


def stored(decision: Decision, accepted: Accepted, measure: Callable[[], Noise]) -> Record:
    """Return the record to write where `decision.write` says so, with its noise: either that of `measure`,
    or the accepted noise."""
    record = decision.result.record
    assert record is not None, "what is written was measured"
    record = replace(record, kernel_cells={})  # a baseline does not record whose code made the bits
    if decision.write == "measured":
        return replace(record, noise=measure())
    return replace(record, noise=None if accepted.record is None else accepted.record.noise)


def loss_drift(record: Record, accepted: Record) -> Drift | None:
    """Return the drift for the table, or None where the sequences cannot be paired."""
    if len(accepted.sequence_losses) != len(record.sequence_losses):
        return None
    return drift(record, accepted, "loss")
