"""Judge the records of control environments: how far figures moved, and how near to the gate's bounds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from mxcheck.gate.baseline import BaselineError, read
from mxcheck.gate.drift import drift, same_arithmetic
from mxcheck.gate.record import Record
from mxcheck.gate.result import Outcome
from mxcheck.gate.verdict import judge
from validation.control_environments.false_alarm_tables import EnvironmentRow
from validation.control_environments.gate_runs import read_run

#: Quantities of `Drift`, and their names in tables.
QUANTITIES = ("reference", "loss", "kl")


def summarise(
    path: Path,
    baselines: Path,
    breaks: Mapping[str, tuple[str, str]] = MappingProxyType({}),
    *,
    anew: bool = False,
) -> EnvironmentRow:
    """Summarize one environment's run: red are cases that its gate, or the present gate, calls red.

    Args:
        baselines: the accepted records.
        breaks: precisions that are really broken there, the gate's message and the reason: a true alarm.
        anew: judge the records only by the present gate and baselines, and ignore the verdicts of the run's
            own gate.
    """
    run = read_run(path)
    results = run.rows
    records = {one.case.id: one.record for one in results if one.record is not None}
    red = {one.case.id: one.word for one in results if one.outcome.red}
    true = {
        one.case.id: why
        for one in results
        for precision, (words, why) in breaks.items()
        if one.case.id in red and one.case.precision == precision and words in one.reason
    }
    red = {
        name: word
        for name, word in red.items()
        if name not in (true.keys() | (records.keys() if anew else ()))
    }
    if run.exit_code and not (red or true or anew):
        red["the run"] = f"pytest ended with exit code {run.exit_code}, and no case is red"
    bounds = {one.case.id: one.bounds for one in results if one.bounds is not None}
    shares: dict[str, tuple[float, str]] = {}
    same, worst = 0, 0.0
    for name, record in records.items():
        try:
            accepted = read(baselines / record.case.baseline)
        except (FileNotFoundError, BaselineError) as error:
            red[name] = str(error)
            continue
        verdict = judge(record, accepted, bounds[name])
        if not verdict.passed:
            red[name] = "; ".join(f"step {check.step}: {check.message}" for check in verdict.failures)
        worst = max(worst, drift(record, accepted, "loss").rms)
        if same_arithmetic(record, accepted):
            same += 1
            continue
        for quantity in QUANTITIES:
            share = drift(record, accepted, quantity).share
            shares[quantity] = max(shares.get(quantity, (0.0, "")), (share, name))
    return EnvironmentRow(
        environment=run.environment,
        cases=len(results),
        skipped=sum(one.outcome is Outcome.SKIPPED for one in results),
        red=red,
        true_alarms=true,
        same_arithmetic=same,
        arithmetics=dict(_arithmetics(records)),
        shares=shares,
        worst_rms=worst,
        seconds=run.seconds,
    )


def _arithmetics(records: dict[str, Record]) -> Iterator[tuple[str, str]]:
    """Yield by model and dtype a digest of fixed products (`same_arithmetic`)."""
    for record in records.values():
        losses = repr((record.arithmetic, record.reference_losses)).encode()
        kind = "bf16" if record.precision == "bf16" else "fp32"
        yield f"{record.model} {kind}", hashlib.sha256(losses).hexdigest()
