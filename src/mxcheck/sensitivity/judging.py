"""A fault's runs, judged once more by the gate without the fault in it.

A gate with a fault in it may lie: what it said decides whether the fault was caught, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mxcheck.gate.baseline import read
from mxcheck.gate.budget import Budget
from mxcheck.gate.case import Case
from mxcheck.gate.drift import drift
from mxcheck.gate.record import Record, record_from_dict
from mxcheck.gate.verdict import STEPS, judge, rise, sampling_allowance
from mxcheck.reporting.detection import Detection, KernelSight, ModelSight, Sight
from mxcheck.sensitivity.fault import Fault
from mxcheck.sensitivity.suite_run import SuiteRun

_FAILED = "FAIL step "
_ORDER = ("canaries", *map(str, STEPS), "error", "crash", "hang")


def detection(
    fault: Fault,
    *,
    kernels: SuiteRun | None,
    models: SuiteRun,
    full: SuiteRun | None,
    healthy: SuiteRun,
    accepted: Path,
) -> Detection:
    """What saw a fault. `healthy` is the same model suite without it, `accepted` are its baselines."""
    cases = {row["id"]: row for row in healthy.rows if "record" in row}
    pairs = [
        (record_from_dict(row["record"]), *_accepted(cases[row["id"]], accepted))
        for row in models.rows
        if "record" in row and row["id"] in cases
    ]
    return Detection(
        name=fault.name,
        group=fault.group,
        what=fault.what,
        survives=fault.survives,
        kernels=KernelSight(caught=False) if kernels is None else kernel_sight(kernels),
        models=model_sight(models),
        budget=_worst([budget_sight(record, budget) for record, _, budget in pairs]),
        drift=_worst([drift_sight(_here(record, baseline), baseline) for record, baseline, _ in pairs]),
        drift_elsewhere=_worst(
            [drift_sight(replace(record, arithmetic="another"), baseline) for record, baseline, _ in pairs]
        ),
        full=None if full is None else model_sight(full),
    )


def _here(record: Record, baseline: Record) -> Record:
    """The record as of a machine that multiplies as the accepting one: a fault may move the reference."""
    return replace(record, arithmetic=baseline.arithmetic, reference_losses=baseline.reference_losses)


def _accepted(row: Mapping[str, Any], folder: Path) -> tuple[Record, Budget]:
    """The baseline and the budget of a case, as a run without a fault has them."""
    record = row["record"]
    case = Case(
        model=record["model"],
        precision=record["precision"],
        tier=record["tier"],
        options=tuple(record["options"]),
    )
    return read(folder / case.baseline), Budget(**row["budget"])


def kernel_sight(run: SuiteRun) -> KernelSight:
    """What the kernel suite said."""
    red = [cell for cell in run.cells if cell["verdict"] in ("red", "error")]
    shares = [cell["mismatches"] / cell["elements"] for cell in red if cell["elements"]]
    return KernelSight(
        caught=run.red,
        cells=(len(red), len(run.cells)),
        share=max(shares, default=0.0),
        tests=tuple((name, failed, ran) for name, (failed, ran) in run.tests.items() if failed),
        ended=run.ended,
    )


def model_sight(run: SuiteRun) -> ModelSight:
    """What the model suite said."""
    red = [row for row in run.rows if row["verdict"] not in ("pass", "skipped")]
    steps = {step for row in red for step in _steps(row)}
    steps |= {name.removeprefix("test_") for name, (failed, _) in run.tests.items() if failed}
    if run.ended != "finished":
        steps.add(run.ended)
    elif run.red and not steps:
        steps.add("error")
    others = sorted(steps - set(_ORDER))
    return ModelSight(
        caught=run.red,
        cases=(len(red), len(run.rows)),
        steps=(*(step for step in _ORDER if step in steps), *others),
    )


def _steps(row: Mapping[str, Any]) -> Sequence[str]:
    verdict: str = row["verdict"]
    if verdict.startswith(_FAILED):
        return verdict.removeprefix(_FAILED).split(",")
    return ("canaries",) if "canar" in row["message"].lower() else ("error",)


def budget_sight(record: Record, budget: Budget) -> Sight:
    """Step 5 alone: KL and the rise of the cross-entropy."""
    failed = judge(record, None, budget).failed_steps
    mean, error, upper = rise(record)
    held = mean if math.isinf(error) else upper
    allowed = budget.rise + sampling_allowance(budget, record.scored_tokens)
    return Sight(seen=5 in failed, margin=max(_share(record.kl, budget.kl), _share(held, allowed)))


def drift_sight(record: Record, baseline: Record) -> Sight:
    """Step 6 alone: losses and KL by sequence."""
    if len(record.sequence_losses) != len(baseline.sequence_losses):
        return Sight(seen=True, margin=math.inf)
    moved = [drift(record, baseline, quantity) for quantity in ("loss", "kl")]
    return Sight(
        seen=not all(one.within for one in moved),
        margin=max(math.inf if math.isnan(one.median) else one.share for one in moved),
    )


def _share(figure: float, bound: float) -> float:
    """A figure in units of its bound: 0 at best, infinite where it is none."""
    if math.isnan(figure):
        return math.inf
    if figure <= 0:
        return 0.0
    return figure / bound if bound else math.inf


def _worst(sights: Sequence[Sight]) -> Sight:
    margins = [one.margin for one in sights if one.margin is not None]
    return Sight(seen=any(one.seen for one in sights), margin=max(margins, default=None))
