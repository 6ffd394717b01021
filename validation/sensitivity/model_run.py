"""Run the reduced model suite in this process, without pytest: measure the cases and decide them by the
gate."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mxcheck.files.write import write_text
from mxcheck.gate.baseline import baseline_paths, encode
from mxcheck.gate.bounds_tables import load_bounds
from mxcheck.gate.case import Case
from mxcheck.gate.decision import decide, read_accepted, stored
from mxcheck.gate.record import Record
from mxcheck.gate.result import CaseResult, all_green
from mxcheck.gate.shipped import adopt
from mxcheck.gate.update import Update
from mxcheck.measure.case_run import error_of, run_case
from mxcheck.measure.measured_noise import noise_of
from mxcheck.measure.model_session import ModelSession
from mxcheck.reporting.failure import failure_message
from mxcheck.run.measurement_settings import Measuring
from validation.sensitivity.suite_run import SuiteRun


def run_models(measuring: Measuring, *, update: bool = False) -> SuiteRun:
    """Compare every case of `measuring`'s recipes with its baseline, or accept it (`update`)."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mxcheck-models-") as folder:
        results = _results(measuring, Path(folder), update=update)
    return SuiteRun(
        exit_code=0 if all_green(results) else 1,
        results=results,
        messages=[result.message for result in results if result.outcome.red],
        seconds=time.monotonic() - began,
    )


def _results(measuring: Measuring, shared: Path, *, update: bool) -> list[CaseResult]:
    cases = list(measuring.recipes)
    results: list[CaseResult] = []
    with ModelSession(measuring, shared=shared) as session:
        for case in cases:
            try:
                result = run_case(
                    session,
                    case,
                    lambda record: _compared(record, session, update=update),
                    baselines=measuring.baselines,
                )
            except Exception:  # noqa: BLE001  (a fault may raise anything: the case is red, the others go on)
                result = error_of(case, traceback.format_exc())
            results.append(result)
    return results


def _compared(record: Record, session: ModelSession, *, update: bool) -> CaseResult:
    case, measuring = record.case, session.measuring
    path, target = baseline_paths(measuring.baselines, case, session.device_class)
    accepted = read_accepted(path)
    bounds = load_bounds(baselines=measuring.baselines).find(case)
    decision = decide(
        record,
        accepted,
        bounds,
        Update(changed=update),
        replaces=target.exists(),
        absolute=session.checks(),
    )
    if decision.write:
        cases = {one.id: one for one in _of_model(measuring, case.model, session)}
        new = stored(decision, accepted, lambda: noise_of(session, record, cases, gpus=()))
        adopt(measuring.baselines, case.model)  # else the first baseline would hide our bounds from the rest
        session.keep_states(case.model)
        write_text(target, encode(new))
    message = accepted.trouble
    if decision.result.failures:
        message = failure_message(record, accepted.record, decision.verdict, accept="an update")
    return replace(decision.result, message=message if decision.result.outcome.red else "")


def _of_model(measuring: Measuring, model: str, session: ModelSession) -> Sequence[Case]:
    """Return the cases of a model that can run here: their noise is measured together."""
    recipes = measuring.recipes
    return [case for case in recipes if case.model == model and session.unavailable(recipes[case]) is None]
