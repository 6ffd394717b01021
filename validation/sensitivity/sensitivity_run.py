"""The sensitivity run: each fault under the reduced gate, survivors under the full one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

from validation.faults.fault import Fault, applied
from validation.known_verdicts.all_verdicts import all_missed
from validation.sensitivity.children import Job, check_fork, in_children, read_result
from validation.sensitivity.detection import Detection
from validation.sensitivity.judging import detection
from validation.sensitivity.merge_run import run_merge
from validation.sensitivity.model_run import run_models
from validation.sensitivity.reduced_gate import (
    FULL_GATE,
    MODELS,
    SEQUENCES,
    ReducedGate,
    accepting_gates,
    gate_of,
    kernel_arguments,
)
from validation.sensitivity.sensitivity_state import Identity, check_unchanged, identity, locked_state
from validation.sensitivity.suite_run import SuiteRun, run_suite

#: Seconds until a child counts as hanging: a suite under a fault (alone on a core it takes 10 to 20), an
#: acceptance, a full gate. On a busy machine a slow child must not count as hanging.
LIMIT, ACCEPTANCE_LIMIT, FULL_LIMIT = 900.0, 3600.0, 5400.0
#: (what ended, number of ended jobs, number of known jobs)
Progress = Callable[[str, int, int], None]

#: Imports of both suites, so that no child repeats them. None of them computes anything at import.
_HEAVY = (
    *("numpy", "torch", "safetensors.torch", "transformers", "syrupy", "_pytest.logging"),
    *("transformers.models.llama.modeling_llama", "transformers.models.mixtral.modeling_mixtral"),
    *("transformers.models.gpt_neo.modeling_gpt_neo", "transformers.tokenization_utils_tokenizers"),
    *(
        f"mxcheck.conformance.{name}"
        for name in ("cell_run", "failure_text", "implementation.accelerator", "verify.matmul_check")
    ),
    *(
        f"mxcheck.evaluation.{name}"
        for name in ("arithmetic", "measure", "metrics", "sublayer_errors", "tokens")
    ),
    *("mxcheck.kernels.api", "mxcheck.kernels.eager", "mxcheck.kernels.block_matmul"),
    *(f"mxcheck.measure.{name}" for name in ("emulation", "case_run", "kernel_check", "measured_noise")),
    *(f"mxcheck.models.{name}" for name in ("conversion.convert", "zoo.load", "conversion.probe")),
    *("mxcheck.pytest_plugin.plugin", "mxcheck.pytest_plugin.cases.kernel_cases"),
    *(f"mxcheck.pytest_plugin.fixtures.{name}" for name in ("gate_session", "kernel_runner")),
    "mxcheck.pytest_plugin.progress.run_report",
    *("mxcheck.reporting.table", "mxcheck.reporting.matrix"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One run: its folder, number of children, progress callback, and the identity that must not change."""

    folder: Path
    jobs: int
    progress: Progress
    baselines: Path
    identity: Identity

    def job(self, kind: str, name: str, limit: float, work: Callable[[], SuiteRun]) -> Job:
        return Job(
            name=f"{kind} {name}",
            result=self.folder / "results" / kind / f"{name}.json",
            log=self.folder / "logs" / kind / f"{name}.txt",
            limit=limit,
            work=work,
        )

    def suite(
        self,
        kind: str,
        name: str,
        arguments: Sequence[str],
        *,
        fault: Fault | None = None,
        limit: float = LIMIT,
    ) -> Job:
        """Return a job that runs pytest in a child, with a fault or healthy."""
        scratch = self.folder / "scratch" / f"{kind}-{name}"
        words = [*arguments, "--basetemp", str(scratch)]
        return self.job(kind, name, limit, partial(_under, fault, words, self.folder / "project"))

    def models(
        self,
        kind: str,
        name: str,
        gate: ReducedGate,
        accepted: Path,
        *,
        fault: Fault | None = None,
        update: bool = False,
        limit: float = LIMIT,
    ) -> Job:
        """Return a job that runs the reduced model suite in a child; by pytest where the fault or an option
        is in its plugin. Where the fault is in the merge, the job is a merge instead."""
        if fault is not None and concerns_merge(fault):
            return self.job(kind, name, limit, partial(_merge_under, fault))
        if gate.measuring(accepted) is None or (fault is not None and concerns_pytest(fault)):
            return self.suite(kind, name, gate.arguments(accepted, update=update), fault=fault, limit=limit)
        return self.job(kind, name, limit, partial(_models_under, fault, gate, accepted, update))

    def accepted(self, gate: ReducedGate) -> Path:
        return self.folder / "accepted" / gate.key

    def all(self, jobs: Iterable[Job]) -> dict[str, SuiteRun]:
        """Run the jobs without a result; return the results by the name of the job."""
        jobs = list(jobs)
        results = {job.name: read_result(job.result) for job in jobs if job.result.is_file()}
        done, total = len(results), len(jobs)
        self.progress("finished before" if done else "starting", done, total)
        for job, result in in_children([job for job in jobs if job.name not in results], self.jobs):
            try:
                check_unchanged(self.identity, identity(self.baselines))
            except ValueError:
                job.result.unlink()  # the edit may be reverted, and then it would count
                raise
            results[job.name] = result
            done += 1
            self.progress(job.name, done, total)
        return results


def run(
    faults: Sequence[Fault],
    *,
    state: Path,
    jobs: int = 1,
    baselines: Path = Path("baselines"),
    full_gate: Sequence[str] = FULL_GATE,
    progress: Progress = lambda *_: None,
) -> list[Detection]:
    """Run each fault under the reduced gate and survivors under the full one, and judge the results.

    Args:
        faults: in the order of the result.
        state: a folder of finished results, from which the same call resumes. With other sources, baselines
            or torch it starts again, with a warning in the log.
        jobs: number of parallel children, one thread each.
        baselines: the committed ones, for the full gate.
        full_gate: its arguments of pytest, except the baselines.
        progress: called before the first job of a phase and after each.

    Raises:
        ValueError: no processes can be forked here; the state is another run's, or damaged; there are no
            baselines; a fault does not fit the code any more; a run without any fault is red; sources or
            baselines were edited meanwhile.
    """
    check_fork()
    if not baselines.is_dir():
        raise ValueError(
            f"there is no directory of baselines {baselines}; run it in the repository, or name them"
        )
    import_all()
    now = identity(baselines)
    with locked_state(state.resolve(), now) as folder:
        for name in ("project", "scratch"):
            (folder / name).mkdir(exist_ok=True)
        (folder / "project" / "pytest.ini").write_text("[pytest]\n", "utf-8")
        this = _Run(folder=folder, jobs=jobs, progress=progress, baselines=baselines, identity=now)
        _check_fit(this, faults)
        gates = accepting_gates(faults)
        healthy = _healthy(this, gates, faults)
        reduced = this.all(job for fault in faults for job in _reduced(this, fault, gates[fault.options]))
        survivors = [
            fault
            for fault in faults
            if not any(
                reduced[name].red or reduced[name].own_tests
                for name in (f"models {fault.name}", f"kernels {fault.name}")
                if name in reduced
            )
        ]
        full = _full(this, survivors, [*full_gate, f"--mx-baselines={baselines.resolve()}"])
        # Only now, after the last fork: the gate's caches must be empty in each child.
        return [
            detection(
                fault,
                kernels=reduced.get(f"kernels {fault.name}"),
                models=reduced[f"models {fault.name}"],
                full=full.get(f"full {fault.name}"),
                healthy=healthy[fault.options],
                accepted=this.accepted(gates[fault.options]),
            )
            for fault in faults
        ]


def facts() -> dict[str, str]:
    """Return by name the facts, besides the faults, on which a run's results depend."""
    import torch

    return {
        "torch": str(torch.__version__),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "models": ", ".join(MODELS),
        "sequences": str(SEQUENCES),
    }


def import_all() -> None:
    """Import the modules that the children need, on one thread: a process with more than one must not
    fork."""
    for name in _HEAVY:
        import_module(name)
    import torch

    torch.set_num_threads(1)


def _under(fault: Fault | None, arguments: Sequence[str], project: Path) -> SuiteRun:
    """Run in a child: a suite with a fault in it, in a project folder of its own."""
    os.chdir(project)
    words = ["--rootdir", str(project), "-c", str(project / "pytest.ini"), *arguments]
    with nullcontext() if fault is None else applied(fault):
        return _tested(run_suite(words))


def _models_under(fault: Fault | None, gate: ReducedGate, accepted: Path, update: bool) -> SuiteRun:
    """Run in a child: the reduced model suite with a fault, which also applies while its recipes are
    built."""
    with nullcontext() if fault is None else applied(fault):
        measuring = gate.measuring(accepted)
        assert measuring is not None, "the suite goes by pytest"
        return _tested(run_models(measuring, update=update))


def _merge_under(fault: Fault) -> SuiteRun:
    """Run in a child: a merge with a fault in it."""
    with applied(fault):
        return _tested(run_merge())


def _tested(run: SuiteRun) -> SuiteRun:
    """Return the run with the results of mxcheck's own tests of judging, reporting and merging: they may
    detect a fault under which the gate is green."""
    return replace(run, own_tests=list(all_missed()))


#: Rooms and modules that the reduced model suite without pytest does not reach.
_OF_PYTEST = (
    "mxcheck.pytest_plugin",
    "mxcheck.reporting",
    "mxcheck.distributed",
    "mxcheck.scheduling",
    "mxcheck.gate.orderings:",
)


def concerns_merge(fault: Fault) -> bool:
    """Return whether a fault lies in code that only `mxcheck merge` calls."""
    return all(change.target.startswith("mxcheck.distributed.merge:") for change in fault.changes)


def concerns_pytest(fault: Fault) -> bool:
    """Return whether a fault lies in code that only pytest calls: its plugin, and the displays, shards and
    orderings."""
    return any(change.target.startswith(_OF_PYTEST) for change in fault.changes)


def _check_fit(this: _Run, faults: Sequence[Fault]) -> None:
    """Raise ValueError for faults that do not fit the code any more, before hours are spent."""
    job = this.job("fit", "all", LIMIT, partial(_fit, faults))
    job.result.unlink(missing_ok=True)
    ((_, result),) = in_children([job], 1)
    if result.red:
        raise ValueError("; ".join(result.messages))


def _fit(faults: Sequence[Fault]) -> SuiteRun:
    misfits = []
    for fault in faults:
        try:
            with applied(fault):
                pass
        except ValueError as error:
            misfits.append(str(error))
    return SuiteRun(exit_code=len(misfits), messages=misfits)


def _healthy(
    this: _Run, gates: dict[tuple[str, ...], ReducedGate], faults: Sequence[Fault]
) -> dict[tuple[str, ...], SuiteRun]:
    """Accept baselines, by options, then run the suites without a fault against them, and the kernel suite.

    Raises ValueError where that is red: results under a fault would be meaningless.
    """
    for gate in gates.values():
        gate.let_in(this.accepted(gate))
    accepting = [
        this.models("accept", gate.key, gate, this.accepted(gate), update=True, limit=ACCEPTANCE_LIMIT)
        for gate in gates.values()
    ]
    accepted = this.all(accepting)
    for job in accepting:
        _check_green(job, accepted[job.name])
    formats = sorted({name for fault in faults for name in fault.formats})
    kernels = this.suite("healthy", "+".join(formats), kernel_arguments(formats), limit=ACCEPTANCE_LIMIT)
    models = {
        options: this.models("healthy", gate.key, gate, this.accepted(gate), limit=ACCEPTANCE_LIMIT)
        for options, gate in gates.items()
    }
    # Some faults use pytest, whose run must be green by itself, too.
    by_pytest = {fault.options: gates[fault.options] for fault in faults if concerns_pytest(fault)}
    through_pytest = [
        this.suite(
            "healthy", f"pytest-{gate.key}", gate.arguments(this.accepted(gate)), limit=ACCEPTANCE_LIMIT
        )
        for gate in by_pytest.values()
    ]
    jobs = [*models.values(), *through_pytest, *([kernels] if formats else [])]
    results = this.all(jobs)
    for job in jobs:
        _check_green(job, results[job.name])
    return {options: results[job.name] for options, job in models.items()}


def _check_green(job: Job, result: SuiteRun) -> None:
    if result.red or result.own_tests:
        first = " ".join((result.messages or result.own_tests)[:1]).strip().splitlines()[-1:]
        job.result.unlink()  # to be repeated after a correction
        raise ValueError(
            f"{job.name}: without any fault it is red ({', '.join(first) or result.ended}); see {job.log}, "
            f"mend it, then run this again"
        )


def _reduced(this: _Run, fault: Fault, accepting: ReducedGate) -> list[Job]:
    """Return the suites for a fault: the kernel suite where it concerns a format."""
    models = this.models("models", fault.name, gate_of(fault), this.accepted(accepting), fault=fault)
    if not fault.formats:
        return [models]
    return [models, this.suite("kernels", fault.name, kernel_arguments(fault.formats), fault=fault)]


def _full(this: _Run, survivors: Sequence[Fault], arguments: Sequence[str]) -> dict[str, SuiteRun]:
    """Run survivors under the full gate, and the gate without a fault, which must be green."""
    if not survivors:
        return {}
    plain = this.suite("full", "without-a-fault", arguments, limit=FULL_LIMIT)
    jobs = [this.suite("full", fault.name, arguments, fault=fault, limit=FULL_LIMIT) for fault in survivors]
    results = this.all([plain, *jobs])
    _check_green(plain, results[plain.name])
    return results
