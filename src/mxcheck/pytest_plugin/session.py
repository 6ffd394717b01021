"""One worker's session of the gate: cases in, rows and messages out."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from syrupy.assertion import SnapshotAssertion

from mxcheck.gate.budget import load_budgets
from mxcheck.gate.case import Case
from mxcheck.gate.record import Noise, Record
from mxcheck.gate.statistics import differences, largest, rms
from mxcheck.models.recipe import WHOLE_MODEL
from mxcheck.pytest_plugin.acceptance import baseline_paths, settle
from mxcheck.pytest_plugin.kernel_bench import check_model_kernel
from mxcheck.pytest_plugin.options import Settings, own_options
from mxcheck.pytest_plugin.workbench import Workbench


class GateSession:
    """Holds the cases of one worker. `shared` is a folder that all workers of the run see."""

    def __init__(
        self, config: pytest.Config, settings: Settings, items: Sequence[pytest.Item], shared: Path
    ) -> None:
        self._settings = settings
        self._items = items
        self._shared = shared
        workerinput = getattr(config, "workerinput", {})
        self._arguments = workerinput.get("mainargv", [str(word) for word in config.invocation_params.args])
        self.bench = Workbench(settings)

    def hold(self, case: Case, snapshot: SnapshotAssertion) -> tuple[dict[str, Any], str]:
        """The case's row for the table, as plain JSON types, and the message if it is red."""
        try:
            self._check_kernel(case)
            record = self.bench.record(case)
            path, target = baseline_paths(self._settings.baselines, case, self.bench.device_class)
            budget = load_budgets(self._settings.budgets).of(case.model, case.budget_key)
            outcome = settle(
                record,
                path=path,
                target=target,
                budget=budget,
                snapshot=snapshot,
                recentre=self._settings.recentre,
                accept_command=self._accept_command(case),
                measure_noise=lambda: self._noise(case, record),
            )
        except ValueError as error:
            return {"id": case.id, "verdict": "ERROR"}, f"{case.id}: {error}"
        row = {
            "id": case.id,
            "verdict": outcome.verdict,
            "record": record.as_dict(),
            "budget": asdict(budget),
            "drift": None if outcome.drift is None else asdict(outcome.drift),
        }
        return row, outcome.message

    def _check_kernel(self, case: Case) -> None:
        if case.precision not in WHOLE_MODEL:
            model = self.bench.resident(case.model).loaded.model
            check_model_kernel(self._settings.recipe(case), like=next(model.parameters()))

    def _accept_command(self, case: Case) -> str:
        """What to type: this run's own suite and options, narrowed to the case."""
        suite = ["--pyargs", "mxcheck.suite.models"] if "--pyargs" in self._arguments else []
        words = ["pytest", *suite, *own_options(self._arguments), "-k", case.id, "--snapshot-update"]
        return shlex.join(words)

    def _noise(self, case: Case, record: Record) -> Noise:
        """How far other instruction sets move this case. All selected cases of a model are measured at once,
        by the first worker that needs one of them."""
        store = self._shared / f"mxcheck-noise-{case.model}.json"
        with FileLock(f"{store}.lock"):
            measured = json.loads(store.read_text()) if store.is_file() else {}
            if case.id not in measured:
                measured |= self._measure_noise(case)
                store.write_text(json.dumps(measured))
        return _worst(record, measured[case.id])

    def _selected(self) -> list[Case]:
        parameters = [
            item.callspec.params.get("mx_case")
            for item in self._items
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        ]
        return [case for case in parameters if isinstance(case, Case)]

    def _measure_noise(self, case: Case) -> dict[str, list[dict[str, Any]]]:
        from mxcheck.evaluation.noise import Job, measure_noise

        cases = {other.id: other for other in self._selected() if other.model == case.model}
        recipes = [self._settings.recipe(other) for other in cases.values()]
        job = Job(
            model=self._settings.models[case.model],
            recipes=[{**recipe.as_dict(), "kernel": recipe.kernel} for recipe in recipes],
            tokens=str(self.bench.tokens_path(case.model)),
            max_samples=self._settings.max_samples,
            batch_size=self._settings.batch_size,
            threads=self.bench.threads,
            device=self.bench.device,
        )
        trials = measure_noise(job)
        return {
            name: [asdict(trial) for trial in by_case] for name, by_case in zip(cases, trials, strict=True)
        }


def _worst(record: Record, trials: list[dict[str, Any]]) -> Noise:
    """The worst of the trials. Raises ValueError where a cast gave other bits: that is no noise."""
    for trial in trials:
        if trial["digests"] != record.digests:
            raise ValueError(
                f"the casts gave other bits in environment {trial['environment']!r}, which no machine may "
                f"do; mend the cast, nothing was accepted"
            )
    figures: dict[str, float] = {}
    for short, field, own in (
        ("reference", "reference_losses", record.reference_losses),
        ("loss", "sequence_losses", record.sequence_losses),
        ("kl", "sequence_kl", record.sequence_kl),
    ):
        changes = [differences(trial[field], own) for trial in trials]
        figures[f"{short}_rms"] = max(rms(change) for change in changes)
        figures[f"{short}_max"] = max(largest(change) for change in changes)
    return Noise(environments=[str(trial["environment"]) for trial in trials], **figures)
