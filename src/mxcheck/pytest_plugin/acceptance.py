"""Holding a record against its baseline, or accepting it as the new one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from syrupy.assertion import SnapshotAssertion

from mxcheck.gate.baseline import BaselineError, read
from mxcheck.gate.budget import Budget
from mxcheck.gate.case import Case
from mxcheck.gate.drift import Drift, drift
from mxcheck.gate.record import Noise, Record
from mxcheck.gate.verdict import judge
from mxcheck.pytest_plugin.snapshots import extension_for
from mxcheck.reporting.failure import failure_message


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a case ended. `verdict` is the table's word; `message` is empty unless the case is red."""

    verdict: str
    message: str = ""
    drift: Drift | None = None


def baseline_paths(root: Path, case: Case, device_class: str) -> tuple[Path, Path]:
    """Where a case's baseline is read, and where a new one is written.

    Read: this device class's override where there is one, else the common file. Written: the common file is
    the CPU's, any other device class writes its own override.
    """
    common = root / case.baseline
    override = common.with_name(f"{common.stem}@{device_class}.json")
    return (
        override if override.is_file() else common,
        common if device_class == "cpu" and not override.is_file() else override,
    )


def settle(
    record: Record,
    *,
    path: Path,
    target: Path,
    budget: Budget,
    snapshot: SnapshotAssertion,
    recentre: bool,
    accept_command: str,
    measure_noise: Callable[[], Noise],
) -> Outcome:
    """Judge `record` against `path`; under `--snapshot-update`, what passes only on its own goes to `target`.
    Re-centring does the opposite: it rewrites what passes against `path`, and accepts nothing new.

    What needs no baseline (the reference on its own samples, the conversion, the budget) is asserted before
    the snapshot: an update can never accept a value that breaks its budget.
    """
    try:
        accepted = read(path)
    except FileNotFoundError:
        accepted, trouble = None, f"no accepted baseline at {path}"
    except BaselineError as error:
        accepted, trouble = None, str(error)
    else:
        trouble = ""
    alone = judge(record, None, budget)
    verdict = alone if accepted is None else judge(record, accepted, budget)
    moved = _drift(record, accepted)
    holds = accepted is not None and verdict.passed
    updating = snapshot.update_snapshots or (snapshot.update_new_snapshots_only and not path.exists())
    if updating and alone.passed and not holds and not recentre:
        word = "updated" if target.exists() else "accepted"
        _store(snapshot, target, replace(record, noise=measure_noise()))
        return Outcome(verdict=word)
    if accepted is not None and holds:
        if updating and recentre:
            # The noise that was measured stays: nothing about it is in question.
            _store(snapshot, target, replace(record, noise=accepted.noise))
            return Outcome(verdict="recentred", drift=moved)
        # Through syrupy, so that its own summary counts the case.
        matched = snapshot.use_extension(extension_for(path, exactly=False)) == record
        assert matched, "syrupy and the gate read the same file and judge by the same function"
        return Outcome(verdict="pass", drift=moved)
    lines = []
    if trouble:
        lines.append(f"{record.id}: {trouble}" + (f"; accept with: {accept_command}" if alone.passed else ""))
    if not verdict.passed:
        lines.append(
            failure_message(record, accepted, verdict, accept=accept_command, acceptable=alone.passed)
        )
    steps = ",".join(str(step) for step in verdict.failed_steps)
    word = f"FAIL step {steps}" if steps else ("FAIL corrupt" if path.exists() else "FAIL missing")
    return Outcome(verdict=word, message="\n".join(lines), drift=moved)


def _store(snapshot: SnapshotAssertion, path: Path, record: Record) -> None:
    """Write through syrupy, which compares texts first: an identical file is left alone."""
    written = snapshot.use_extension(extension_for(path, exactly=True)) == record
    assert written, "syrupy was asked to update"


def _drift(record: Record, accepted: Record | None) -> Drift | None:
    if accepted is None or len(accepted.sequence_losses) != len(record.sequence_losses):
        return None
    return drift(record, accepted, "loss")
