"""Judge a fault's runs again by the gate without the fault.

A gate with a fault may report wrong figures: its verdict only decides whether the fault was detected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mxcheck.gate.baseline import read
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.check_table import STEPS
from mxcheck.gate.drift import drift
from mxcheck.gate.held_casts import DIGESTED
from mxcheck.gate.record import Record
from mxcheck.gate.result import CaseResult
from mxcheck.gate.verdict import judge, rise, sampling_allowance
from validation.faults.fault import Fault
from validation.sensitivity.detection import CheckResult, Detection, KernelResult, ModelResult
from validation.sensitivity.suite_run import SuiteRun

_ORDER = (*map(str, STEPS), "error", "crash", "hang")


def detection(
    fault: Fault,
    *,
    kernels: SuiteRun | None,
    models: SuiteRun,
    full: SuiteRun | None,
    healthy: SuiteRun,
    accepted: Path,
) -> Detection:
    """Return the checks that detected a fault. `healthy` is the same model suite without it, `accepted` are
    its baselines."""
    bounds = {one.case: one.bounds for one in healthy.results if one.bounds is not None}
    pairs = [
        (one.record, read(accepted / one.case.baseline), bounds[one.case])
        for one in models.results
        if one.record is not None and one.case in bounds
    ]
    return Detection(
        name=fault.name,
        group=fault.group,
        what=fault.what,
        survives=fault.survives,
        unseen=fault.unseen,
        kernels=KernelResult(caught=False) if kernels is None else kernel_result(kernels),
        models=model_result(models),
        own_tests=len(models.own_tests),
        bounds=_worst([bounds_result(record, bounds) for record, _, bounds in pairs]),
        drift=_worst([drift_result(_here(record, baseline), baseline) for record, baseline, _ in pairs]),
        drift_elsewhere=_worst(
            [drift_result(replace(record, arithmetic="another"), baseline) for record, baseline, _ in pairs]
        ),
        full=None if full is None else model_result(full),
    )


def _here(record: Record, baseline: Record) -> Record:
    """Return the record as of a machine with the baseline's arithmetic: a fault may move the
    reference."""
    return replace(record, arithmetic=baseline.arithmetic, reference_losses=baseline.reference_losses)


def kernel_result(run: SuiteRun) -> KernelResult:
    """Summarize the kernel suite's results."""
    red = [cell for cell in run.cells if cell["verdict"] in ("red", "error")]
    shares = [cell["mismatches"] / cell["elements"] for cell in red if cell["elements"]]
    return KernelResult(
        caught=run.red,
        cells=(len(red), len(run.cells)),
        share=max(shares, default=0.0),
        tests=tuple((name, failed, ran) for name, (failed, ran) in run.tests.items() if failed),
        ended=run.ended,
    )


def model_result(run: SuiteRun) -> ModelResult:
    """Summarize the model suite's results."""
    red = [result for result in run.results if result.outcome.red]
    steps = {step for result in red for step in _steps(result)}
    steps |= {name.removeprefix("test_") for name, (failed, _) in run.tests.items() if failed}
    if run.ended != "finished":
        steps.add(run.ended)
    elif run.red and not steps:
        steps.add("error")
    others = sorted(steps - set(_ORDER))
    elsewhere = not red or bool(others) or run.ended != "finished"
    return ModelResult(
        caught=run.red,
        without_digests=run.red and (elsewhere or any(map(_more, red))),
        cases=(len(red), len(run.results)),
        steps=(*(step for step in _ORDER if step in steps), *others),
    )


def _more(result: CaseResult) -> bool:
    """Return whether a red case would be red if no digest had been accepted."""
    return not result.failures or any(one.key not in DIGESTED for one in result.failures)


def _steps(result: CaseResult) -> Sequence[str]:
    if result.failures:
        return [str(step) for step in result.failed_steps]
    return ("error",)


def bounds_result(record: Record, bounds: Bounds) -> CheckResult:
    """Apply step 5 alone: KL and the rise of the cross-entropy."""
    failed = judge(record, None, bounds).failed_steps
    mean, error, upper = rise(record)
    held = mean if math.isinf(error) else upper
    allowed = bounds.rise + sampling_allowance(bounds, record.scored_tokens)
    return CheckResult(
        seen=5 in failed, margin=max(_share(record.exact_kl[0], bounds.kl), _share(held, allowed))
    )


def drift_result(record: Record, baseline: Record) -> CheckResult:
    """Apply step 6 alone: losses and KL by sequence."""
    if len(record.sequence_losses) != len(baseline.sequence_losses):
        return CheckResult(seen=True, margin=math.inf)
    moved = [drift(record, baseline, quantity) for quantity in ("loss", "kl")]
    return CheckResult(
        seen=not all(one.within for one in moved),
        margin=max(math.inf if math.isnan(one.median) else one.share for one in moved),
    )


def _share(figure: float, bound: float) -> float:
    """Return a figure in units of its bound, at least 0; infinite where it is not finite."""
    if math.isnan(figure):
        return math.inf
    if figure <= 0:
        return 0.0
    return figure / bound if bound else math.inf


def _worst(results: Sequence[CheckResult]) -> CheckResult:
    margins = [one.margin for one in results if one.margin is not None]
    return CheckResult(seen=any(one.seen for one in results), margin=max(margins, default=None))
