"""One worker's session of the gate, from cases to results."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from mxcheck.files.printed import told
from mxcheck.gate.baseline import baseline_paths
from mxcheck.gate.bounds_tables import load_bounds
from mxcheck.gate.case import Case
from mxcheck.gate.record import Noise, Record
from mxcheck.gate.result import CaseResult
from mxcheck.gate.smoke import broken_gate
from mxcheck.measure.absolute import absolute
from mxcheck.measure.changed_casts import changed_casts
from mxcheck.measure.hold import error_of, hold_case
from mxcheck.measure.memory import is_out_of_memory
from mxcheck.measure.noise import noise_of
from mxcheck.measure.session import Session
from mxcheck.pytest_plugin.acceptance import settle
from mxcheck.pytest_plugin.leasing import Leasing
from mxcheck.pytest_plugin.live import teller
from mxcheck.pytest_plugin.neighbours import asked_update
from mxcheck.pytest_plugin.options import own_options
from mxcheck.pytest_plugin.settings import Settings

#: Exit status of a worker whose CUDA context is broken.
_BROKEN_CONTEXT = 70


class GateSession:
    """The gate of one worker. `shared` is a folder that all workers of the run share."""

    def __init__(
        self, config: pytest.Config, settings: Settings, items: Sequence[pytest.Item], shared: Path
    ) -> None:
        self._settings = settings
        self._update = asked_update(config, recentre=settings.recentre, measure=settings.measure)
        self._items = items
        workerinput = getattr(config, "workerinput", {})
        self._arguments = workerinput.get("mainargv", [str(word) for word in config.invocation_params.args])
        self._worker = workerinput.get("workerid", "main")
        self._tell = teller(config)
        self._leasing = Leasing(
            config,
            settings,
            tell=lambda model, why: self._tell({"do": "wait", "model": model, "why": why}),
            twice=self._update.is_update,
        )
        self.session = Session(settings, shared=shared, host=self._leasing, tell=self._tell)
        self._broken = broken_gate()
        self._noise_seconds = 0.0  # of the current case

    def timed(self, case: Case, snapshot: SnapshotAssertion) -> CaseResult:
        """Run `hold`, and add the worker and the seconds without waiting for a device; `load_seconds` of them
        for loading the model."""
        began, waited, loading = time.monotonic(), self._leasing.waited, self.session.loading
        self._noise_seconds = 0.0
        result = self.hold(case, snapshot)
        loaded = self.session.loading - loading
        spent = time.monotonic() - began - (self._leasing.waited - waited)
        if shared := loaded + self._noise_seconds:
            self._tell({"do": "shared", "case": case.id, "model": case.model, "seconds": shared})
        return replace(result, seconds=round(spent, 3), load_seconds=round(loaded, 3), worker=self._worker)

    def move_on(self, model: str | None) -> None:
        """Release the resident model unless the next case, if any, is of this model."""
        self.session.keep_only(model)

    def close(self) -> None:
        """Release everything after the last case."""
        self.session.free()
        self._leasing.close()

    def hold(self, case: Case, snapshot: SnapshotAssertion) -> CaseResult:
        """Measure a case and compare it with its baseline, or accept it."""
        if self._broken:
            return error_of(case, self._broken)
        # The first case of a process imports torch, which takes seconds: show that.
        self._tell({"do": "step", "what": f"{case.id} starting"})
        baselines = self._settings.baselines
        try:
            return hold_case(
                self.session, case, lambda record: self._settled(record, snapshot), baselines=baselines
            )
        except RuntimeError as error:
            if not _poisons(error):
                raise
            return self._give_up(case, error)

    def _settled(self, record: Record, snapshot: SnapshotAssertion) -> CaseResult:
        settings, case = self._settings, record.case
        path, target = baseline_paths(settings.baselines, case, self.session.device_class)
        return settle(
            record,
            path=path,
            target=target,
            baseline_of=lambda other: baseline_paths(settings.baselines, other, self.session.device_class)[0],
            bounds=load_bounds(settings.bounds, settings.own, baselines=settings.baselines).find(case),
            snapshot=snapshot,
            update=self._update,
            accept_command=self._accept_command(case),
            measure_noise=lambda: self._noise(record),
            keep_inputs=lambda: self.session.keep_states(case.model),
            measure_absolute=lambda: absolute(self.session, case),
            ask_the_oracle=lambda accepted: changed_casts(self.session, record, accepted),
            of_process=self.session.checks(),
        )

    def _give_up(self, case: Case, error: BaseException) -> CaseResult:
        """Handle a broken CUDA context, which fails every later measurement of this process. An xdist worker
        exits, which fails this case, and is replaced; without xdist, the remaining cases are red by name."""
        words = f"the CUDA context is broken: {told(error)}"
        if self._worker != "main":
            self._tell({"do": "died", "case": case.id, "why": words})
            os._exit(_BROKEN_CONTEXT)
        self._broken = f"not run: {case.id} broke the CUDA context; run with -n 1, which replaces the process"
        return error_of(case, words)

    def _accept_command(self, case: Case) -> str:
        """Return the command that accepts this case: the run's own suite and options, narrowed to the case.
        Brackets end the test's name after the id, or `-A` would match `-A+attention` too."""
        suite = ["--pyargs", "mxcheck.suite.models"] if "--pyargs" in self._arguments else []
        words = ["pytest", *suite, *own_options(self._arguments), "-k", f"[{case.id}]", "--snapshot-update"]
        return shlex.join(words)

    def _noise(self, record: Record) -> Noise:
        """Return how far other instruction sets move a case; all selected cases of its model that can run
        here are measured at the same time."""
        recipes = self._settings.recipes
        cases = {
            other.id: other
            for other in self._selected()
            if other.model == record.model and self.session.unavailable(recipes[other]) is None
        }
        began = time.monotonic()
        try:
            return noise_of(self.session, record, cases, gpus=self._leasing.names)
        finally:
            self._noise_seconds = time.monotonic() - began

    def _selected(self) -> list[Case]:
        parameters = [
            item.callspec.params.get("mx_case")
            for item in self._items
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        ]
        return [case for case in parameters if isinstance(case, Case)]


def _poisons(error: BaseException) -> bool:
    """Return whether CUDA refuses all work in this process after this error: an assertion on the device, an
    illegal access. Not every CUDA error is one, so the context itself is tested, if any."""
    import torch

    if "CUDA error:" not in str(error) or is_out_of_memory(error):
        return False
    if torch.cuda.is_available():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return True
        return False
    return True
