"""What becomes of a case: held against its baseline, accepted as the new one, or red. Decided, not done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mxcheck.gate.baseline import BaselineError, read, states_path
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.check import Check
from mxcheck.gate.drift import Drift, drift
from mxcheck.gate.earlier import with_earlier_noise
from mxcheck.gate.figures import check_figures
from mxcheck.gate.record import Noise, Record
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.gate.verdict import Verdict, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a run was asked to accept: what changed, only what is missing, or what is within tolerance.
    `measure`: nothing, and nothing is to be judged either."""

    changed: bool = False
    missing: bool = False
    recentre: bool = False
    measure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What lies where a case's baseline is read.

    Attributes:
        record: the accepted one; None where there is none, or none that can be read.
        trouble: why it could not be read, or held against, in one line.
        exists: whether there is a file at all.
    """

    record: Record | None
    trouble: str = ""
    exists: bool = True


def read_accepted(path: Path) -> Accepted:
    """The baseline at `path`, read once."""
    try:
        record = read(path)
    except FileNotFoundError:
        return Accepted(record=None, trouble=f"no accepted baseline at {path}", exists=False)
    except BaselineError as error:
        return Accepted(record=None, trouble=str(error))
    states = states_path(path.parent, record.fingerprints.get("weights", ""))
    if "states" in record.fingerprints and not states.exists():
        # This machine may come to the same states by itself; another will not.
        trouble = f"{states}, from which {path} was measured, is gone; restore it from version control"
        return Accepted(record=None, trouble=trouble)
    return Accepted(record=record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How a case ends, and why.

    `write` says with which noise the record is to be stored: measured now, or the one that was accepted;
    empty, nothing is to be written.
    """

    result: CaseResult
    verdict: Verdict
    write: Literal["", "measured", "accepted"] = ""


def is_first(record: Record, accepted: Accepted, bounds: Bounds | None, update: Update) -> bool:
    """Whether an update would accept casts for the first time: no baseline of these casts, weights and tokens
    that can be read says what is right, and neither does a table of bounds, or a line of the model's own with
    a reason."""
    asked = update.changed or (update.missing and not accepted.exists)
    unsaid = bounds is None or (bounds.own and not bounds.reason)
    # a file that cannot be read says nothing, and neither does one of another case or of other casts
    return asked and not update.recentre and unsaid and not _knows(accepted.record, record)


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
    """What becomes of a case. `replaces` says whether a file lies where the record would go, `absolute` what
    was asserted of the process that measured it, and of a case that is accepted for the first time
    (`is_first`).

    What needs no baseline (the reference on its own samples, the conversion, the bounds) is asserted before
    every update: it can never accept a value that breaks its bounds. Re-centring does the opposite: it
    rewrites what passes against its baseline, and accepts nothing new.

    Raises ValueError, in one line, where the record contradicts itself: no verdict counts of such a one.
    """
    check_figures(record)
    verdict = judge(record, accepted.record, bounds, absolute)
    holds = accepted.record is not None and verdict.passed
    updating = update.changed or (update.missing and not accepted.exists)
    write: Literal["", "measured", "accepted"] = ""
    if update.measure:
        outcome = Outcome.MEASURED
    elif updating and verdict.acceptable and not holds and not update.recentre:
        outcome, write = Outcome.UPDATED if replaces else Outcome.ACCEPTED, "measured"
    elif holds and updating and update.recentre:
        # nothing about the noise that was measured is in question
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
        drift=None if write == "measured" or accepted.record is None else drift_of(record, accepted.record),
    )
    return Decision(result=result, verdict=verdict, write=write)


def stored(decision: Decision, accepted: Accepted, path: Path, measure: Callable[[], Noise]) -> Record:
    """The record as it is written where `decision.write` says so, with its noise: what `measure` finds now,
    with what the file at `path` knows of another machine, or the one that was accepted."""
    record = decision.result.record
    assert record is not None, "what is written was measured"
    record = replace(record, kernel_cells={})  # of whose code made the bits a baseline says nothing
    if decision.write == "measured":
        return replace(record, noise=with_earlier_noise(measure(), record, path))
    return replace(record, noise=None if accepted.record is None else accepted.record.noise)


def drift_of(record: Record, accepted: Record) -> Drift | None:
    """The drift that the table shows; None where the sequences cannot be paired."""
    if len(accepted.sequence_losses) != len(record.sequence_losses):
        return None
    return drift(record, accepted, "loss")
