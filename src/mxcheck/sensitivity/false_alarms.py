"""What honest environments moved, and how near that came to the gate's bounds: judged from their records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mxcheck.gate.baseline import read
from mxcheck.gate.budget import load_budgets
from mxcheck.gate.case import Case
from mxcheck.gate.drift import drift, same_arithmetic
from mxcheck.gate.record import Record, record_from_dict
from mxcheck.gate.verdict import judge
from mxcheck.reporting.false_alarms import EnvironmentRow

#: What `Drift` is asked for, and the words of tables.
QUANTITIES = ("reference", "loss", "kl")


def summarise(
    path: Path, baselines: Path, breaks: Mapping[str, str] = MappingProxyType({})
) -> EnvironmentRow:
    """Judge the records of one environment's run anew, by the gate and the baselines as they are today.

    `breaks`: steps that are really broken there, and why. Of those an ERROR is a true alarm.
    """
    data = json.loads(path.read_text())
    records = dict(_records(data["rows"]))
    red = {row["id"]: row["verdict"] for row in data["rows"] if row["verdict"] not in ("pass", "skipped")}
    red = {name: word for name, word in red.items() if name not in records}  # the others are judged below
    true = {
        name: reason
        for name, word in red.items()
        for precision, reason in breaks.items()
        if f"-{precision}" in name and word == "ERROR"
    }
    red = {name: word for name, word in red.items() if name not in true}
    shares: dict[str, tuple[float, str]] = {}
    alike, worst = 0, 0.0
    for name, record in records.items():
        accepted = read(baselines / _case(record).baseline)
        verdict = judge(record, accepted, load_budgets().of(record.model, _case(record).budget_key))
        if not verdict.passed:
            red[name] = "; ".join(f"step {check.step}: {check.message}" for check in verdict.failures)
        worst = max(worst, drift(record, accepted, "loss").rms)
        if same_arithmetic(record, accepted):
            alike += 1
            continue
        for quantity in QUANTITIES:
            share = drift(record, accepted, quantity).share
            shares[quantity] = max(shares.get(quantity, (0.0, "")), (share, name))
    return EnvironmentRow(
        environment=data["environment"],
        cases=len(data["rows"]),
        skipped=sum(row["verdict"] == "skipped" for row in data["rows"]),
        red=red,
        true_alarms=true,
        alike=alike,
        arithmetics=dict(_arithmetics(records)),
        shares=shares,
        worst_rms=worst,
        seconds=data["seconds"],
    )


def _records(rows: list[dict[str, Any]]) -> Iterator[tuple[str, Record]]:
    for row in rows:
        if row.get("record"):
            yield row["id"], record_from_dict(row["record"])


def _case(record: Record) -> Case:
    return Case(
        model=record.model, precision=record.precision, tier=record.tier, options=tuple(record.options)
    )


def _arithmetics(records: dict[str, Record]) -> Iterator[tuple[str, str]]:
    """By model and type, a digest of how the machine multiplied (`same_arithmetic`)."""
    for record in records.values():
        losses = repr((record.arithmetic, record.reference_losses)).encode()
        kind = "bf16" if record.precision == "bf16" else "fp32"
        yield f"{record.model} {kind}", hashlib.sha256(losses).hexdigest()
