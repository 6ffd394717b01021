"""The message of a red case: the failed step, the broken link, what else moved, the layers, differences in
the environment, and the command that accepts it."""

from __future__ import annotations

from mxcheck.gate.cause import cause, environment_changes
from mxcheck.gate.check_table import CHECKS, STEPS
from mxcheck.gate.counter_changes import changes
from mxcheck.gate.drift import same_arithmetic
from mxcheck.gate.held_casts import KERNEL_OPERANDS
from mxcheck.gate.kernel_cells import examples
from mxcheck.gate.record import Record
from mxcheck.gate.sublayer_drift import FIGURES
from mxcheck.gate.verdict import Verdict

WORST_LAYERS, MOST_COUNTS = 5, 3


def failure_message(record: Record, baseline: Record | None, verdict: Verdict, *, accept: str) -> str:
    """Return several lines, the most important first: pytest cuts long messages at the end."""
    failures = verdict.failures
    first = failures[0]
    lines = [f"{record.id}: step {first.step} ({STEPS[first.step]}): {first.message}"]
    lines += [f"  {line}" for line in examples(record.kernel_cells)]
    # who is wrong, also where it is not the kernel
    lines += [f"  {one.message}" for one in verdict.checks if one.key == KERNEL_OPERANDS and one.passed]
    broken = cause(verdict, record, baseline)
    lines.append(f"  cause: {broken.link}: {broken.means}")
    lines.append(f"  look first at: {broken.look}")
    lines += [f"  also step {check.step} ({STEPS[check.step]}): {check.message}" for check in failures[1:]]
    lines += [f"  {text}" for text in worst_layers(record, baseline)]
    lines += [f"  {text}" for text in count_changes(record, baseline)]
    if baseline is not None:
        same_length = len(record.reference_losses) == len(baseline.reference_losses)
        if same_length and 1 not in verdict.failed_steps and not same_arithmetic(record, baseline):
            lines.append("  this machine's arithmetic is not the baseline's: step 6 allows for noise")
        lines += [
            f"  environment: {name}: {text}" for name, text in environment_changes(record, baseline).items()
        ]
    if verdict.acceptable:
        lines.append(f"  if the change is meant, accept it with: {accept}")
    else:
        lines.append("  cannot be accepted: a check fails that needs no baseline")
        rows = [CHECKS[check.key] for check in failures]
        if any("over bounds" in row.groups for row in rows):
            lines.append(
                "  if this cost is meant: raise the bound in the file that step 5 names, or give another by "
                "--mx-bounds=FILE (docs/gate.md)"
            )
        if any(row.excusable for row in rows):
            lines.append("  if the model is meant so, give its line in bounds.toml a reason (docs/gate.md)")
    return "\n".join(lines)


def worst_layers(record: Record, baseline: Record | None) -> list[str]:
    """Return the sublayers with the largest error relative to their update; with a baseline, first those
    whose error changed direction most, and without those that did not change, unless none did."""
    now = record.sublayers or {}
    then = (baseline and baseline.sublayers) or {}

    def turned(place: str) -> float:
        return FIGURES["sketch"].change(now[place], then[place]) if place in then else 0.0

    sublayers = [place for place in now if not place.endswith(".layer")]
    changed = [place for place in sublayers if now[place] != then.get(place)] or sublayers
    worst = sorted(changed, key=lambda place: (-turned(place), -now[place].norm))[:WORST_LAYERS]
    return [
        f"layers: {place}: error {100 * now[place].norm:.4g} % of its update, gain {now[place].gain:+.2e}"
        + (
            f" (accepted {100 * then[place].norm:.4g} %, {then[place].gain:+.2e}; error vector moved by "
            f"{100 * turned(place):.3g} %)"
            if place in then
            else ""
        )
        for place in worst
    ]


def count_changes(record: Record, baseline: Record | None) -> list[str]:
    """Return the counters outside their bounds, the largest share of an operand first."""
    if baseline is None or record.counters is None or baseline.counters is None:
        return []
    same = same_arithmetic(record, baseline)
    found = changes(record.counters, baseline.counters, same_inputs=same)
    wrong = [change for change in found if not change.within]
    return [f"counts: {change.message}" for change in wrong[:MOST_COUNTS]]
