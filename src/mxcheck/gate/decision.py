"""What becomes of a case: held against its baseline, accepted as the new one, or red. Decided, not done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mxcheck.gate.baseline import BaselineError, read
from mxcheck.gate.budget import Budget
from mxcheck.gate.record import Record
from mxcheck.gate.verdict import Verdict, judge


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a run was asked to accept: what changed, only what is missing, or what is within tolerance."""

    changed: bool = False
    missing: bool = False
    recentre: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How a case ends, and why.

    `word` is the table's. `write` says with which noise the record is to be stored: measured now, or the one
    that was accepted; empty, nothing is to be written. `acceptable` says whether an update could store it.
    """

    word: str
    write: Literal["", "measured", "accepted"] = ""
    verdict: Verdict
    acceptable: bool


def decide(
    record: Record, accepted: Record | None, budget: Budget, *, exists: bool, replaces: bool, update: Update
) -> Decision:
    """What becomes of a case. `accepted` is None where there is no baseline, or (`exists`) none that can be
    read; `replaces` says whether a file lies where the record would go.

    What needs no baseline (the reference on its own samples, the conversion, the budget) is asserted before
    every update: it can never accept a value that breaks its budget. Re-centring does the opposite: it
    rewrites what passes against its baseline, and accepts nothing new.
    """
    alone = judge(record, None, budget)
    verdict = alone if accepted is None else judge(record, accepted, budget)
    holds = accepted is not None and verdict.passed
    updating = update.changed or (update.missing and not exists)
    write: Literal["", "measured", "accepted"] = ""
    if updating and alone.passed and not holds and not update.recentre:
        word, write = "updated" if replaces else "accepted", "measured"
    elif holds and updating and update.recentre:
        word, write = "recentred", "accepted"  # nothing about the noise that was measured is in question
    elif holds:
        word = "pass"
    elif verdict.failed_steps:
        word = f"FAIL step {','.join(str(step) for step in verdict.failed_steps)}"
    else:
        word = "FAIL corrupt" if exists else "FAIL missing"
    return Decision(word=word, write=write, verdict=verdict, acceptable=alone.passed)


def weigh(
    record: Record, *, path: Path, target: Path, budget: Budget, update: Update
) -> tuple[Decision, Record | None, str]:
    """`decide` with the baseline at `path`, where what is accepted would go to `target`.

    Returns the decision, what was accepted, and why that could not be read (empty where it could).
    """
    accepted, trouble = None, ""
    try:
        accepted = read(path)
    except FileNotFoundError:
        trouble = f"no accepted baseline at {path}"
    except BaselineError as error:
        trouble = str(error)
    decision = decide(record, accepted, budget, exists=path.exists(), replaces=target.exists(), update=update)
    return decision, accepted, trouble
