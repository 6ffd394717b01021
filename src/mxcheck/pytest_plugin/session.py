"""One worker's session of the gate: cases in, rows and messages out."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from syrupy.assertion import SnapshotAssertion

from mxcheck.gate.budget import load_budgets
from mxcheck.gate.canaries.check import broken_gate
from mxcheck.gate.case import Case
from mxcheck.gate.figures import check_figures
from mxcheck.gate.noise import worst
from mxcheck.gate.record import Noise, Record
from mxcheck.models.ladder import LADDER, installed
from mxcheck.pytest_plugin.acceptance import baseline_paths, settle
from mxcheck.pytest_plugin.kernel_bench import check_model_kernel
from mxcheck.pytest_plugin.leasing import Leasing
from mxcheck.pytest_plugin.live import teller
from mxcheck.pytest_plugin.options import own_options
from mxcheck.pytest_plugin.placing import accepts
from mxcheck.pytest_plugin.settings import Settings
from mxcheck.pytest_plugin.workbench import Workbench

#: The exit status of a worker whose CUDA context is broken.
_BROKEN_CONTEXT = 70


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
        self._worker = workerinput.get("workerid", "main")
        self._tell = teller(config)
        self._leasing = Leasing(
            config,
            settings,
            tell=lambda model, why: self._tell({"do": "wait", "model": model, "why": why}),
            twice=accepts(config),
        )
        self.bench = Workbench(settings, shared, leasing=self._leasing, tell=self._tell)
        self._broken = broken_gate()

    def timed(self, case: Case, snapshot: SnapshotAssertion) -> tuple[dict[str, Any], str]:
        """`hold`, and in the row where and how long: seconds without those spent waiting for a device, of
        them those of loading the model."""
        began, waited, loading = time.monotonic(), self._leasing.waited, self.bench.loading
        row, message = self.hold(case, snapshot)
        loaded = self.bench.loading - loading
        spent = time.monotonic() - began - (self._leasing.waited - waited)
        times = {"seconds": round(spent, 3), "load_seconds": round(loaded, 3), "worker": self._worker}
        return row | times, message

    def move_on(self, model: str | None) -> None:
        """The next case is of this model, if it is a case: another one's need not stay."""
        self.bench.keep_only(model)

    def close(self) -> None:
        """The last case is over."""
        self.bench.free()
        self._leasing.close()

    def hold(self, case: Case, snapshot: SnapshotAssertion) -> tuple[dict[str, Any], str]:
        """The case's row for the table, as plain JSON types, and the message if it is red or skipped."""
        from mxcheck.models.convert import UnavailableError

        if self._broken:
            return _error(case, self._broken)
        # The first case of a process imports torch, which takes seconds: nobody need wonder.
        self._tell({"do": "step", "what": f"{case.id} starting"})
        try:
            record = self._measured(case)
            check_figures(record)
            path, target = baseline_paths(self._settings.baselines, case, self.bench.device_class)
            budget = load_budgets(self._settings.budgets, self._settings.own).of(case.model, case.budget_key)
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
        except UnavailableError as error:
            if (accepted := self._accepted_here(case)) is not None:
                # A skip would let a library that broke pass for one that was never there.
                return _error(
                    case, f"it was accepted on such a device ({accepted}) and cannot run now: {error}"
                )
            return {"id": case.id, "verdict": "skipped", "reason": str(error)}, f"{case.id}: {error}"
        except ValueError as error:
            return _error(case, str(error))
        except (MemoryError, RuntimeError) as error:
            if _poisons(error):
                return self._give_up(case, error)
            if not _out_of_memory(error):
                raise
            words = " ".join(str(error).split()) or type(error).__name__
            return _error(
                case,
                f"out of memory on {self.bench.device}: {words}; lower --mx-batch-size or "
                f"--mx-sequence-length, or give this model a larger device",
            )
        row = {
            "id": case.id,
            "verdict": outcome.verdict,
            "record": record.as_dict(),
            "budget": asdict(budget),
            "drift": None if outcome.drift is None else asdict(outcome.drift),
        }
        return row, outcome.message

    def _measured(self, case: Case) -> Record:
        from mxcheck.models.convert import UnavailableError

        recipe = self._settings.recipes[case]
        if (reason := self.bench.unavailable(recipe)) is not None:
            raise UnavailableError(reason)
        try:
            return self._on_the_bench(case)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            failure = error.with_traceback(None)  # which holds what did not fit
        # Once: then it has its devices whole, and there is nothing more to wait for.
        if not self.bench.enlarge(case.model):
            raise failure
        return self._on_the_bench(case)

    def _on_the_bench(self, case: Case) -> Record:
        recipe = self._settings.recipes[case]
        if recipe.operands:
            model = self.bench.resident(case.model).loaded.model
            check_model_kernel(recipe, like=next(model.parameters()))
        return self.bench.record(case)

    def _give_up(self, case: Case, error: BaseException) -> tuple[dict[str, Any], str]:
        """A CUDA context that is broken stays so: whatever this process would measure next fails too. A
        worker of xdist dies, which costs this case, and is replaced; without one, the rest is red by name."""
        words = f"the CUDA context is broken: {' '.join(str(error).split())}"
        if self._worker != "main":
            self._tell({"do": "died", "case": case.id, "why": words})
            os._exit(_BROKEN_CONTEXT)
        self._broken = f"not run: {case.id} broke the CUDA context; run with -n 1, which replaces the process"
        return _error(case, words)

    def _accepted_here(self, case: Case) -> Path | None:
        """The baseline that says that a case ran on such a device, if its library is still installed."""
        path = baseline_paths(self._settings.baselines, case, self.bench.device_class)[1]
        step = LADDER[self._settings.recipes[case].precision]
        return path if path.is_file() and installed(step) else None

    def _accept_command(self, case: Case) -> str:
        """What to type: this run's own suite and options, narrowed to this case: in brackets, as its id ends
        the test's name, or `-A` would match `-A+attention` too."""
        suite = ["--pyargs", "mxcheck.suite.models"] if "--pyargs" in self._arguments else []
        words = ["pytest", *suite, *own_options(self._arguments), "-k", f"[{case.id}]", "--snapshot-update"]
        return shlex.join(words)

    def _noise(self, case: Case, record: Record) -> Noise:
        """How far other instruction sets move this case. All selected cases of a model are measured at once,
        by the first worker that needs one of them."""
        store = self._shared / f"mxcheck-noise-{case.model}.json"
        with FileLock(f"{store}.lock"):
            measured = json.loads(store.read_text()) if store.is_file() else {}
            if case.id not in measured:
                cases = self._cases_of(case.model)
                try:
                    self._tell({"do": "step", "what": f"{case.model}: noise of {len(cases)} cases"})
                    measured |= self._measure_noise(case.model, cases)
                except ValueError as error:  # of all: none of them need try again
                    failed = [{"environment": "another", "failure": str(error), "unavailable": ""}]
                    measured |= dict.fromkeys(cases, failed)
                store.write_text(json.dumps(measured))
        return worst(record, measured[case.id])

    def _selected(self) -> list[Case]:
        parameters = [
            item.callspec.params.get("mx_case")
            for item in self._items
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        ]
        return [case for case in parameters if isinstance(case, Case)]

    def _cases_of(self, model: str) -> dict[str, Case]:
        """The selected cases of a model that can run here, by id."""
        return {
            other.id: other
            for other in self._selected()
            if other.model == model and self.bench.unavailable(self._settings.recipes[other]) is None
        }

    def _measure_noise(self, model: str, cases: dict[str, Case]) -> dict[str, list[dict[str, Any]]]:
        from mxcheck.evaluation.noise import Job, measure_noise

        recipes = [self._settings.recipes[other] for other in cases.values()]
        text = self.bench.resident(model).text
        job = Job(
            model=self._settings.models[model],
            recipes=[{**recipe.as_dict(), "kernel": recipe.kernel} for recipe in recipes],
            tokens=str(text.path),
            max_samples=len(text.tokens),
            length=text.tokens.shape[1],
            batch_size=self.bench.batch_size(model),
            threads=self.bench.threads,
            device=self.bench.device,
            gpus=[] if self.bench.device == "cpu" else self._leasing.names,
            dtype=self._settings.dtype,
            trust_remote_code=model in self._settings.trusted,
        )
        trials = measure_noise(job)
        return {
            name: [asdict(trial) for trial in by_case] for name, by_case in zip(cases, trials, strict=True)
        }


def _error(case: Case, reason: str) -> tuple[dict[str, Any], str]:
    """Row and message of a case that has no figures."""
    return {"id": case.id, "verdict": "ERROR", "reason": reason}, f"{case.id}: {reason}"


def _poisons(error: BaseException) -> bool:
    """An error after which CUDA refuses everything in this process: an assertion on the device, an illegal
    access. Not every error of CUDA's is one, so that the context itself is asked, where there is one."""
    import torch

    if "CUDA error:" not in str(error) or _out_of_memory(error):
        return False
    if torch.cuda.is_available():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return True
        return False
    return True


def _out_of_memory(error: BaseException) -> bool:
    """On a CPU torch raises a plain RuntimeError for it, and some of CUDA's libraries do, by these words."""
    import torch

    words = ("can't allocate memory", "not enough memory", "CUDA error: out of memory", "ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(w in str(error) for w in words)
