"""Holding a record against its baseline, or accepting it as the new one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from syrupy.assertion import SnapshotAssertion

from mxcheck.files.write import WriteError
from mxcheck.gate.absolute import Absolute, absolute_checks
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.case import Case
from mxcheck.gate.cause import cause
from mxcheck.gate.check import Check
from mxcheck.gate.decision import Decision, Update, decide, is_first, read_accepted, stored
from mxcheck.gate.orderings import standing
from mxcheck.gate.record import Noise, Record
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.gate.shipped import adopt
from mxcheck.pytest_plugin.bounds_file import add_bounds
from mxcheck.pytest_plugin.snapshots import extension_for
from mxcheck.reporting.failure import failure_message


def settle(
    record: Record,
    *,
    path: Path,
    target: Path,
    baseline_of: Callable[[Case], Path],
    bounds: Bounds | None,
    snapshot: SnapshotAssertion,
    recentre: bool,
    measure: bool,
    accept_command: str,
    measure_noise: Callable[[], Noise],
    keep_inputs: Callable[[], None],
    measure_absolute: Callable[[], Absolute],
    ask_the_oracle: Callable[[Record], Iterable[Check]] = lambda _: (),
    of_process: Sequence[Check] = (),
) -> CaseResult:
    """Hold `record` against the file at `path`; write what is accepted to `target`, as `decide` has it.

    `baseline_of` says where another case's baseline is read. `keep_inputs` stores what an accepted record was
    measured from, before the record. `bounds` is what the case may cost; None: nobody has said, and its first
    acceptance asserts what `measure_absolute` finds and makes its line in the model's bounds.toml.
    `ask_the_oracle` says who is wrong where a named kernel's casts are others than those of the accepted
    record. `of_process` are checks of the process that measured it.
    """
    update = asked_update(snapshot, recentre=recentre, measure=measure)
    accepted = read_accepted(path)
    found = measure_absolute() if is_first(record, accepted, bounds, update) else None
    absolute = list(of_process)
    if found is not None:
        stands = standing(record, lambda case: read_accepted(baseline_of(case)).record)
        absolute += absolute_checks(record, found, stands)
    if accepted.record is not None and accepted.record.digests != record.digests:
        absolute += ask_the_oracle(accepted.record)
    decision = decide(record, accepted, bounds, update, replaces=target.exists(), absolute=absolute)
    if decision.write:
        new = stored(decision, accepted, path, measure_noise)
        adopt(target.parent.parent, record.case.model)
        keep_inputs()
        if found is not None:
            add_bounds(record, found, target.parent)
        try:
            # Here, and not in syrupy: what it could not write it looks for again when the run ends, and where
            # no folder can be that is an error of the whole run.
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(target, error) from error
        # Through syrupy, which compares texts first: an identical file is left alone.
        written = snapshot.use_extension(extension_for(target, holds=False))
        if not written == new:
            raise _why_not(written, target)
    elif decision.result.outcome is Outcome.PASSED:
        matched = snapshot.use_extension(extension_for(path, holds=True)) == record
        assert matched, "syrupy only counts the case, for its summary"
    return replace(
        decision.result,
        message=_message(decision, accepted.record, accepted.trouble, accept_command),
        cause=cause(decision.verdict, record, accepted.record).link if decision.result.failures else "",
    )


def asked_update(snapshot: SnapshotAssertion, *, recentre: bool, measure: bool) -> Update:
    """What the command line asks to be accepted."""
    return Update(
        changed=snapshot.update_snapshots,
        missing=snapshot.update_new_snapshots_only,
        recentre=recentre,
        measure=measure,
    )


def _why_not(written: SnapshotAssertion, target: Path) -> Exception:
    """What was raised while syrupy compared or wrote, such as a full disk: syrupy keeps it to itself."""
    raised = [done.exception for done in written.executions.values() if done.exception is not None]
    if not raised:
        return AssertionError("syrupy was asked to update")
    return WriteError(target, raised[-1]) if isinstance(raised[-1], OSError) else raised[-1]


def _message(decision: Decision, accepted: Record | None, trouble: str, accept_command: str) -> str:
    """What a red case says; nothing of another."""
    record, verdict = decision.result.record, decision.verdict
    assert record is not None
    if not decision.result.outcome.red:
        return ""
    lines = []
    if trouble:
        accept = f"; accept with: {accept_command}" if verdict.acceptable else ""
        lines.append(f"{record.id}: {trouble}{accept}")
    if verdict.failures:
        lines.append(failure_message(record, accepted, verdict, accept=accept_command))
    return "\n".join(lines)
