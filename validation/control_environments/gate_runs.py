"""Run the gate in control environments, one subprocess each, and store its verdicts and records in files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from mxcheck.distributed.provenance import folder_digest
from mxcheck.files.plain_data import MALFORMED, read_json
from mxcheck.files.printed import one_line, told
from mxcheck.files.write import write_text
from mxcheck.gate.result import CaseResult, result_from_dict
from validation import ROOT, sources_digest
from validation.control_environments.environments import Environment, intel_shim

#: The models' suite as `make gate` runs it, on the CPU: the environments' settings affect only that.
SUITE = ("--pyargs", "mxcheck.suite.models", "--mx-device", "cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The gate run in every environment.

    Attributes:
        project: pytest's root directory, with baselines and settings.
        state: folder of results: an environment with a result there is not run again.
        arguments: further arguments of pytest, for a shorter run.
        other_python: an interpreter with another release of torch; None omits such environments.
    """

    project: Path
    state: Path
    arguments: tuple[str, ...] = ()
    other_python: str | None = None


def result_path(plan: Plan, environment: Environment) -> Path:
    """Return the path of an environment's result."""
    return plan.state / f"{environment.name.replace('/', '_')}.json"


def is_finished(plan: Plan, environment: Environment) -> bool:
    """Return whether it has a result with the present basis: sources, baselines, arguments, interpreter."""
    path = result_path(plan, environment)
    return path.exists() and read_run(path).identity == _identity(plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRun:
    """The gate's result in one environment: pytest's exit code, and one row for each case. `identity` is its
    basis."""

    environment: str
    identity: Mapping[str, Any]
    exit_code: int
    seconds: float
    rows: tuple[CaseResult, ...]


def read_run(path: Path) -> GateRun:
    """Read the result of an environment. Raises ValueError, in one line that names the file, for anything
    else."""
    try:
        data = read_json(path, most=2**30)
        found = GateRun(**{**data, "rows": tuple(map(result_from_dict, data["rows"]))})
        texts = isinstance(found.environment, str) and isinstance(found.identity, dict)
        if not texts or type(found.exit_code) is not int or type(found.seconds) not in (int, float):
            raise ValueError("it names no environment, identity, exit code and seconds")
    except (FileNotFoundError, *MALFORMED) as error:
        raise ValueError(
            one_line(f"{path} is damaged ({told(error)}); delete it to run this environment again")
        ) from error
    return found


def _identity(plan: Plan) -> dict[str, Any]:
    return {
        "sources": sources_digest(),
        "baselines": folder_digest(plan.project / "baselines"),
        "arguments": list(plan.arguments),
        "other_python": plan.other_python,
    }


@dataclass(slots=True)
class _Gates:
    """The running gates; once stopped, it starts no other."""

    lock: Lock = field(default_factory=Lock)
    running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    stopped: bool = False

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        with self.lock:
            if self.stopped:
                raise ValueError("stopped")
            process = subprocess.Popen(command, start_new_session=True, **options)  # noqa: S603  (pytest)
            self.running.add(process)
            return process

    def stop(self) -> None:
        with self.lock:
            self.stopped = True
            for process in self.running:
                if process.poll() is None:
                    with suppress(ProcessLookupError):  # it has just ended
                        os.killpg(process.pid, signal.SIGKILL)  # its workers too


def run_all(plan: Plan, environments: Sequence[Environment], *, jobs: int) -> Iterator[Environment]:
    """Run the gate in each environment that has no result yet, `jobs` at a time; yield each as it ends.

    Raises ValueError, when all others have ended, where runs end without a result. An interruption stops the
    running gates.
    """
    plan.state.mkdir(parents=True, exist_ok=True)
    missing = [one for one in environments if not is_finished(plan, one)]
    shim = intel_shim(plan.state) if any(one.as_intel for one in missing) else None
    gates = _Gates()
    failures: list[str] = []
    pool = ThreadPoolExecutor(jobs)
    try:
        futures = {pool.submit(_run, plan, one, shim, gates): one for one in missing}
        for future in as_completed(futures):
            try:
                future.result()
            except ValueError as error:
                failures.append(str(error))
            yield futures[future]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        gates.stop()
    if failures:
        raise ValueError("; ".join(failures))


def _run(plan: Plan, environment: Environment, shim: Path | None, gates: _Gates) -> None:
    python = plan.other_python if environment.other_torch else sys.executable
    assert python is not None, "environments with another torch are left out where there is none"
    folder = plan.state / "reports" / environment.name.replace("/", "_")
    rows = folder / "accuracy.json"
    rows.unlink(missing_ok=True)  # of an interrupted run
    command = [
        *(python, "-m", "pytest", f"--rootdir={plan.project}", "-p", "no:cacheprovider", *SUITE),
        *(f"--mx-report={folder.absolute()}", *environment.arguments(folder.absolute()), *plan.arguments),
    ]
    preload = {"LD_PRELOAD": str(shim.absolute())} if environment.as_intel and shim else {}
    log = plan.state / "logs" / f"{environment.name.replace('/', '_')}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    identity = _identity(plan)
    began = time.monotonic()
    with log.open("wb") as output:
        process = gates.start(
            command,
            cwd=plan.project,
            env={
                "OMP_NUM_THREADS": "1",
                **_without_ours(os.environ),
                **environment.variables(folder.absolute()),
                **preload,
                # A ledger of its own: --jobs limits the number of parallel gates, and each needs its workers.
                "MXCHECK_LEASES": str((folder / "leases").absolute()),
                # Some environments load a plugin of this package.
                "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        code = process.wait()
    if code not in (0, 1) or not rows.is_file():
        raise ValueError(f"the gate did not finish in environment {environment.name!r}; see {log}")
    result: dict[str, Any] = {
        "environment": environment.name,
        "identity": identity,
        "exit_code": code,
        "seconds": round(time.monotonic() - began, 1),
        "rows": read_json(rows, most=2**30),
    }
    write_text(result_path(plan, environment), json.dumps(result))
    rows.unlink()


def _without_ours(variables: os._Environ[str]) -> dict[str, str]:
    """Return the user's environment without variables that this run sets, or that would change its tests."""
    ours = ("ATEN_CPU_CAPABILITY", "MKL_", "ONEDNN_", "OMP_", "PYTEST_", "PYTHONHASHSEED", "LD_PRELOAD")
    return {name: value for name, value in variables.items() if not name.startswith(ours)}
