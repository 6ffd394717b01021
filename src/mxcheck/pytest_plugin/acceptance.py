"""Holding a record against its baseline, or accepting it as the new one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from syrupy.assertion import SnapshotAssertion

from mxcheck.gate.budget import Budget
from mxcheck.gate.case import Case
from mxcheck.gate.decision import Update, weigh
from mxcheck.gate.drift import Drift, drift
from mxcheck.gate.record import Noise, Record
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
    """Hold `record` against the file at `path`; write what is accepted to `target`, as `weigh` decides."""
    update = Update(
        changed=snapshot.update_snapshots, missing=snapshot.update_new_snapshots_only, recentre=recentre
    )
    decision, accepted, trouble = weigh(record, path=path, target=target, budget=budget, update=update)
    if decision.write == "measured":
        _store(snapshot, target, replace(record, noise=measure_noise()))
        return Outcome(verdict=decision.word)
    moved = _drift(record, accepted)
    if decision.write == "accepted":
        assert accepted is not None, "only what holds against its baseline is re-centred"
        _store(snapshot, target, replace(record, noise=accepted.noise))
        return Outcome(verdict=decision.word, drift=moved)
    if decision.word == "pass":
        # Through syrupy, so that its own summary counts the case.
        matched = snapshot.use_extension(extension_for(path, exactly=False)) == record
        assert matched, "syrupy and the gate read the same file and judge by the same function"
        return Outcome(verdict=decision.word, drift=moved)
    lines = []
    if trouble:
        lines.append(
            f"{record.id}: {trouble}" + (f"; accept with: {accept_command}" if decision.acceptable else "")
        )
    if not decision.verdict.passed:
        lines.append(
            failure_message(
                record,
                accepted,
                decision.verdict,
                accept=accept_command,
                acceptable=decision.acceptable,
            )
        )
    return Outcome(verdict=decision.word, message="\n".join(lines), drift=moved)


def _store(snapshot: SnapshotAssertion, path: Path, record: Record) -> None:
    """Write through syrupy, which compares texts first: an identical file is left alone."""
    written = snapshot.use_extension(extension_for(path, exactly=True)) == record
    assert written, "syrupy was asked to update"


def _drift(record: Record, accepted: Record | None) -> Drift | None:
    if accepted is None or len(accepted.sequence_losses) != len(record.sequence_losses):
        return None
    return drift(record, accepted, "loss")
