"""Compare a record with its baseline, or accept it as the new one."""

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
from mxcheck.gate.decision import Decision, decide, is_first, read_accepted, stored
from mxcheck.gate.orderings import standing
from mxcheck.gate.record import Noise, Record
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.gate.shipped import adopt
from mxcheck.gate.update import Update
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
    update: Update,
    accept_command: str,
    measure_noise: Callable[[], Noise],
    keep_inputs: Callable[[], None],
    measure_absolute: Callable[[], Absolute],
    ask_the_oracle: Callable[[Record], Iterable[Check]] = lambda _: (),
    of_process: Sequence[Check] = (),
) -> CaseResult:
    """Compare `record` with the file at `path`; write an accepted one to `target`, as `decide` rules.

    `baseline_of` returns the path of another case's baseline. `keep_inputs` stores the inputs of an accepted
    record, before the record. `bounds` is the permitted cost of the case; None: there is none yet, so a first
    acceptance checks the result of `measure_absolute` and adds the case's line to the model's bounds.toml.
    `ask_the_oracle` determines who is wrong where a named kernel's casts differ from those of the accepted
    record. `of_process` are checks of the process that measured it.
    """
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
        new = stored(decision, accepted, measure_noise)
        adopt(target.parent.parent, record.case.model)
        keep_inputs()
        if found is not None:
            add_bounds(record, found, target.parent)
        try:
            # Here, not in syrupy: syrupy looks for an unwritten snapshot again when the run ends, and an
            # impossible folder would be an error of the whole run.
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(target, error) from error
        # Through syrupy, which compares texts first and leaves an identical file unchanged.
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


def _why_not(written: SnapshotAssertion, target: Path) -> Exception:
    """Return the exception, such as a full disk, that syrupy suppressed while it compared or wrote."""
    raised = [done.exception for done in written.executions.values() if done.exception is not None]
    if not raised:
        return AssertionError("syrupy was asked to update")
    return WriteError(target, raised[-1]) if isinstance(raised[-1], OSError) else raised[-1]


def _message(decision: Decision, accepted: Record | None, trouble: str, accept_command: str) -> str:
    """Return the message of a red case, or an empty string."""
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
