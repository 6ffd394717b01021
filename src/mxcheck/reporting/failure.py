"""What a red case says: the step that failed, what moved, which link of the chain broke, where, what differs
around it, and what to type."""

from __future__ import annotations

from mxcheck.gate.cause import cause
from mxcheck.gate.drift import same_arithmetic
from mxcheck.gate.record import Record
from mxcheck.gate.verdict import STEPS, Verdict

WORST_MODULES = 5


def failure_message(record: Record, baseline: Record | None, verdict: Verdict, *, accept: str) -> str:
    """Several lines, the most telling first: pytest cuts long messages from the end."""
    failures = verdict.failures
    first = failures[0]
    lines = [f"{record.id}: step {first.step} ({STEPS[first.step]}): {first.message}"]
    lines += [f"  also step {check.step} ({STEPS[check.step]}): {check.message}" for check in failures[1:]]
    broken = cause(verdict, record, baseline)
    lines.append(f"  cause: {broken.link}: {broken.means}")
    lines.append(f"  look first at: {broken.look}")
    lines += [f"  lowest SQNR: {text}" for text in worst_modules(record, baseline)]
    if baseline is not None:
        same_length = len(record.reference_losses) == len(baseline.reference_losses)
        if same_length and 1 not in verdict.failed_steps and not same_arithmetic(record, baseline):
            lines.append(
                "  this machine multiplies otherwise than the accepting one: step 6 allows for noise"
            )
        lines += [f"  environment: {text}" for text in environment_differences(record, baseline)]
    if verdict.acceptable:
        lines.append(f"  if the change is meant, accept it with: {accept}")
    else:
        lines.append("  no update accepts this: it fails without any baseline")
        if 5 in verdict.failed_steps:
            lines.append("  a budget of your own is given with --mx-budgets FILE (docs/gate.md)")
    return "\n".join(lines)


def worst_modules(record: Record, baseline: Record | None) -> list[str]:
    """The modules with the lowest local SQNR; where a baseline has them, those that lost most come first."""
    before = {} if baseline is None else baseline.sqnr

    def loss_then_level(name: str) -> tuple[float, float]:
        return round(record.sqnr[name] - before.get(name, record.sqnr[name]), 2), record.sqnr[name]

    return [
        f"{name} {record.sqnr[name]:.1f} dB"
        + (f" (accepted {before[name]:.1f} dB)" if name in before else "")
        for name in sorted(record.sqnr, key=loss_then_level)[:WORST_MODULES]
    ]


def environment_differences(record: Record, baseline: Record) -> list[str]:
    """One line for each thing that differs, `what: now, accepted then`."""
    now, then = record.environment, baseline.environment
    return [
        f"{key}: {now.get(key, 'unset')}, accepted with {then.get(key, 'unset')}"
        for key in sorted(now.keys() | then.keys())
        if now.get(key) != then.get(key)
    ]
