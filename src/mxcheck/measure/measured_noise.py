"""Measure how far results move when only this machine's arithmetic changes.

A baseline is accepted on one machine and compared on others, whose matrix products round differently. How
much that moves a loss cannot be predicted: a different rounding before a cast flips a code. So the accepting
machine measures it: the same cases in child processes with other instruction sets, which must be chosen
before torch is loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from mxcheck.gate.noise import Trial, trial_from_dict, worst
from mxcheck.kernels.compiled.library import SWITCH
from mxcheck.measure.passive_threads import PASSIVE

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mxcheck.evaluation.layer_states import LayerStates
    from mxcheck.evaluation.measure import Measurement
    from mxcheck.gate.case import Case
    from mxcheck.gate.record import Noise, Record
    from mxcheck.measure.model_session import ModelSession
    from mxcheck.models.recipes.recipe import Recipe

#: By kind of device, settings by name. On a CPU each stands for a class of machines, with all libraries that
#: multiply switched together; on a GPU (not yet run on one) for other kernels of the matrix products.
ENVIRONMENTS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "cpu": {
        "avx2": {
            "ATEN_CPU_CAPABILITY": "avx2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
        },
        "default": {
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_CBWR": "COMPATIBLE",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
        },
    },
    "cuda": {
        "cublaslt": {"TORCH_BLAS_PREFER_CUBLASLT": "1"},
        "small-workspace": {"CUBLAS_WORKSPACE_CONFIG": ":16:8"},
    },
}

#: For precisions that can run in none of those: torch's int8 product is wrong with oneDNN held below AVX-512.
OTHERWISE: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "cpu": {"onednn-as-it-is": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}},
    "cuda": {},
}


#: Prefix of a child's progress line: the number of cases measured follows.
_MEASURED = "mxcheck-measured "


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Work of a child process: recipes (as plain dicts) of one model on the same tokens.

    `states` is the file of the model's layer states, None if there is none; `threads` is the child's thread
    count, 0 for torch's own choice; `gpus` are the UUIDs of those that it may use, none for all it finds.
    """

    model: str
    recipes: list[dict[str, Any]]
    tokens: str
    max_samples: int
    length: int
    batch_size: int
    threads: int
    device: str = "cpu"
    gpus: list[str] = field(default_factory=list)
    dtype: str | None = None
    trust_remote_code: bool = False
    states: str | None = None
    reference_cache: int = 0
    memory: str = "auto"


def noise_of(
    session: ModelSession, record: Record, cases: Mapping[str, Case], *, gpus: Sequence[str]
) -> Noise:
    """Return how far other instruction sets move the case of `record`. Raises ValueError as `worst` does.

    All `cases` of its model, by id, are measured together by the first process of the run that needs one; the
    others read its result in the session's shared folder.
    """
    store = session.shared / f"mxcheck-noise-{record.model}.json"
    with FileLock(f"{store}.lock"):
        measured = json.loads(store.read_text()) if store.is_file() else {}
        if record.id not in measured:
            try:

                def tell(what: str) -> None:
                    session.tell({"do": "step", "what": f"{record.model}: {what}", "once": record.model})

                tell(f"noise of {len(cases)} cases")
                trials = measure_noise(_job(session, record.model, cases, gpus), tell=tell)
                found = dict(zip(cases, trials, strict=True))
            except ValueError as error:  # for all cases: none need try again
                failed = Trial(environment="another", failure=str(error))
                found = {name: [failed] for name in cases}
            measured |= {name: [trial.as_dict() for trial in trials] for name, trials in found.items()}
            store.write_text(json.dumps(measured))
    return worst(record, [trial_from_dict(trial) for trial in measured[record.id]])


def _job(session: ModelSession, model: str, cases: Mapping[str, Case], gpus: Sequence[str]) -> Job:
    measuring, text = session.measuring, session.resident(model).text
    recipes = [measuring.recipe_of(case) for case in cases.values()]
    return Job(
        model=measuring.name_of(model),
        recipes=[{**recipe.as_dict(), "kernel": recipe.kernel} for recipe in recipes],
        tokens=str(text.path),
        max_samples=len(text.tokens),
        length=text.tokens.shape[1],
        batch_size=measuring.batch_size_of(model),
        threads=session.threads,
        device=session.device,
        gpus=[] if session.device == "cpu" else list(gpus),
        dtype=measuring.dtype,
        trust_remote_code=model in measuring.trusted,
        states=_states_file(session, model),
        reference_cache=measuring.reference_cache * 2**20,
        memory=measuring.memory,
    )


def _states_file(session: ModelSession, model: str) -> str | None:
    """Write the resident model's layer states to a file for a child."""
    from mxcheck.evaluation.layer_states import save_states

    resident = session.resident(model)
    if isinstance(resident.states, str):
        return None
    path = session.shared / f"mxcheck-states-{model}-{os.getpid()}.safetensors"
    save_states(resident.states, path, weights=resident.loaded.weights_fingerprint)
    return str(path)


def measure_noise(
    job: Job,
    environments: Mapping[str, Mapping[str, str]] | None = None,
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> list[list[Trial]]:
    """Return, for each recipe of `job`, its trials, one per environment (default: those of the job's device,
    and `OTHERWISE` for recipes that can run in none of them). `tell` is called with the progress: a real
    model takes minutes.

    Raises ValueError with the child's last lines if a child fails.
    """
    chosen = ENVIRONMENTS[job.device] if environments is None else environments
    by_environment = [_run_child(job, name, settings, tell) for name, settings in chosen.items()]
    found = [list(trials) for trials in zip(*by_environment, strict=True)]
    without = [index for index, trials in enumerate(found) if all(trial.unavailable for trial in trials)]
    if environments is None and without:
        less = replace(job, recipes=[job.recipes[index] for index in without])
        for name, settings in OTHERWISE[job.device].items():
            for index, trial in zip(without, _run_child(less, name, settings, tell), strict=True):
                found[index].append(trial)
    return found


def _settings(job: Job, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a child. The compiled casts are built for this machine's own instructions,
    whatever these are set to, and would prove nothing elsewhere; so where they are set the eager ones, which
    must give the same bits, cast by them, unless a recipe takes no other kernel than the compiled."""
    others = "ATEN_CPU_CAPABILITY" in settings and all(one["kernel"] != "cpp" for one in job.recipes)
    return {**settings, **({SWITCH: "0"} if others else {})}


def _run_child(job: Job, name: str, settings: Mapping[str, str], tell: Callable[[str], None]) -> list[Trial]:
    with tempfile.TemporaryDirectory(prefix="mxcheck-noise-") as folder:
        request, answer, errors = (Path(folder) / part for part in ("job.json", "trials.json", "errors"))
        fields = {slot: getattr(job, slot) for slot in Job.__slots__}
        request.write_text(json.dumps(fields))
        with (
            errors.open("w") as stderr,
            subprocess.Popen(  # noqa: S603  (our own module, by the running interpreter)
                [sys.executable, "-m", "mxcheck.measure.measured_noise", name, str(request), str(answer)],
                # pass on sys.path: pytest may have added the folder of a user's kernel
                env={
                    **PASSIVE,
                    **os.environ,
                    **({"CUDA_VISIBLE_DEVICES": ",".join(job.gpus)} if job.gpus else {}),
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    **_settings(job, settings),
                },
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                errors="replace",  # a library may print undecodable bytes
            ) as child,
        ):
            try:
                assert child.stdout is not None
                for line in child.stdout:  # other lines come from libraries
                    count = line.removeprefix(_MEASURED).strip()
                    if line.startswith(_MEASURED) and count.isdecimal():
                        tell(f"noise under {name}, {count} of {len(job.recipes)} cases")
            except BaseException:
                child.kill()  # else leaving the block would wait for it
                raise
        if child.returncode:
            tail = "\n".join(errors.read_text(errors="replace").splitlines()[-5:])
            raise ValueError(f"measuring the noise of {job.model} in environment {name!r} failed:\n{tail}")
        return [trial_from_dict(trial) for trial in json.loads(answer.read_text())]


def _trials(job: Job, environment: str) -> list[Trial]:
    import torch

    from mxcheck.evaluation.layer_states import load_states
    from mxcheck.evaluation.measure import evaluate
    from mxcheck.evaluation.tokens import load_tokens
    from mxcheck.models.recipes.recipe import recipe_from_dict
    from mxcheck.models.zoo.load import load

    if job.threads:
        torch.set_num_threads(job.threads)
    loaded = load(
        job.model,
        device=job.device,
        devices=_all_gpus() if len(job.gpus) > 1 else None,
        dtype=job.dtype,
        trust_remote_code=job.trust_remote_code,
    )
    tokens = load_tokens(Path(job.tokens))[: job.max_samples, : job.length].contiguous()
    reference = evaluate(
        loaded.model,
        tokens,
        batch_size=job.batch_size,
        keep_log_probabilities=True,
        reference_cache=job.reference_cache,
    )
    recipes = [recipe_from_dict(fields, kernel=fields["kernel"]) for fields in job.recipes]
    states = None
    if job.states is not None:
        states = load_states(Path(job.states), weights=loaded.weights_fingerprint)
    trials: list[Trial] = []
    held = set[Hashable]()
    for recipe in recipes:
        trials.append(_trial(environment, loaded.model, recipe, tokens, reference, states, job, held))
        print(f"{_MEASURED}{len(trials)}", flush=True)  # noqa: T201  (the parent reads it)
    return trials


def _all_gpus() -> dict[int, int]:
    """Return the GPUs that the parent's model is spread over: this process sees no others."""
    import torch

    count = torch.cuda.device_count()
    return {index: torch.cuda.get_device_properties(index).total_memory for index in range(count)}


def _trial(
    environment: str,
    model: nn.Module,
    recipe: Recipe,
    tokens: Tensor,
    reference: Measurement,
    states: LayerStates | None,
    job: Job,
    held: set[Hashable],
) -> Trial:
    from mxcheck.measure.emulation import repeat
    from mxcheck.models.conversion.convert import UnavailableError

    together = recipe.sequences_a_pass or job.batch_size
    try:
        found = repeat(
            model, recipe, tokens, reference, states, batch_size=together, held=held, memory=job.memory
        )
    except UnavailableError as error:
        return Trial(environment=environment, unavailable=str(error))
    except (MemoryError, RuntimeError, ValueError) as error:  # this case's own: the others go on
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return Trial(environment=environment, failure=words)
    result = found.result
    assert result.sequence_kl is not None
    if found.unsteady:
        name, words = next(iter(found.unsteady.items()))
        return Trial(environment=environment, failure=f"its casts are wrong there: {name}: {words}")
    return Trial(
        environment=environment,
        digests=found.digests,
        reference_losses=reference.sequence_losses,
        sequence_losses=result.sequence_losses,
        sequence_kl=result.sequence_kl,
        sublayers={} if found.sublayers is None else found.sublayers.errors,
    )


def _main(arguments: Sequence[str]) -> None:
    environment, request, answer = arguments
    job = Job(**json.loads(Path(request).read_text()))
    Path(answer).write_text(json.dumps([trial.as_dict() for trial in _trials(job, environment)]))


if __name__ == "__main__":
    _main(sys.argv[1:])
