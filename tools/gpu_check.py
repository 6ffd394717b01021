"""Measure on one GPU, in at most six minutes, what no other machine can say, and write it to one JSON.

    python tools/gpu_check.py [--report DIR] [--budget 345] [--parts machine,gate] [--workers 8]
    python tools/gpu_check.py --device cpu --short      # a rehearsal: every part, on the CPU

Each part runs in a process of its own under its own time limit, so that one that fails, hangs or breaks its
CUDA context takes no other along. DIR/gpu.json is written anew after each part: what was measured is kept.
The exit code is 0 where every part is done, 1 where one is not, 2 where nothing could be started.

The machine may have no network. What it lacks is installed from build/gpu-wheels, where tools/gpu_wheels.py
put it, into DIR/site: a folder, and no virtual environment, because one that is made from another does not
see that one's packages. mxcheck itself is not installed but taken from src.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "tools")]

from gpu import seen_lines, suites  # noqa: E402  (they lie beside this file)
from gpu.branches import branches  # noqa: E402
from gpu_wheels import PACKAGES, WHEELS  # noqa: E402

from mxcheck.models.recipes.ladder import LADDER  # noqa: E402  (loads no torch)

#: Seconds for everything, six minutes less what starts and ends beside it.
BUDGET = 345.0
#: A part that is out of time is interrupted, so that it can write what it has, and ended after this.
_GRACE = 12.0
#: Less than this is not worth starting a process that imports torch.
_LEAST = 15.0
#: torch's first import on a machine reads gigabytes; a driver that is ill never answers.
_ANSWER = 90.0
#: The short form is for tests, on machines of any speed: limits are so many times as long.
_PATIENCE = 20
_LAST_LINES = 25
#: Steps of the ladder that the gate tries first: one of each way to cast and to multiply.
_FIRST = ("fp32", "bf16", "mxfp8_e4m3", "mxfp4_e2m1", "scaled_mm_fp8", "scaled_mm_fp8_row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a part's command is made from. `short` is the form for tests, which says nothing of a device."""

    device: str
    short: bool
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part: seconds that it may take at most, its command, and what reads its folder afterwards."""

    limit: float
    command: Callable[[Run, Path], list[str]]
    read: Callable[[Path], dict[str, Any]]


def _measuring(name: str) -> Callable[[Run, Path], list[str]]:
    def command(run: Run, folder: Path) -> list[str]:
        words = ["--device", run.device, "--answer", str(folder / "answer.json")]
        return [sys.executable, "-m", "gpu.part", name, *words, *(["--short"] if run.short else [])]

    return command


def _answer(folder: Path) -> dict[str, Any]:
    path = folder / "answer.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _kernels(tests: str, names: str) -> Callable[[Run, Path], list[str]]:
    def command(run: Run, folder: Path) -> list[str]:
        kernel = names if run.device == "cuda" else "eager"  # Triton compiles for a GPU only
        words = [tests, "--mx-kernel", kernel, "--mx-level", "quick", "-n", str(run.workers)]
        if run.short:
            words = ["tests/kernels/test_casts.py", "--mx-kernel", kernel, "-k", "mxfp8_e4m3-floor"]
        return suites.pytest_command(words, folder, run.device)

    return command


def _gate(precisions: Sequence[str], tiers: str) -> Callable[[Run, Path], list[str]]:
    def command(run: Run, folder: Path) -> list[str]:
        # Workers that share the GPU also try leases beside each other.
        several = ["-n", str(min(4, run.workers)), "--mx-workers-per-device", str(min(4, run.workers))]
        words = ["--mx-precision", ",".join(precisions), "--mx-tier", tiers, *several]
        if run.short:
            words = ["--mx-models", "ref-llama", "--mx-precision", precisions[0], "--mx-tier", "B"]
        return suites.pytest_command(["tests/models/test_accuracy.py", *words], folder, run.device)

    return command


#: In the order in which they run: what says most a second comes first.
PARTS: Mapping[str, Part] = {
    "machine": Part(limit=60, command=_measuring("machine"), read=_answer),
    "products": Part(limit=45, command=_measuring("products"), read=_answer),
    "gate": Part(limit=110, command=_gate(_FIRST, "B"), read=suites.read),
    "kernels": Part(limit=110, command=_kernels("tests/kernels", "eager"), read=suites.read),
    "casts": Part(limit=60, command=_measuring("casts"), read=_answer),
    # Most of it goes into compiling, which is kept: what was out of time goes on where it stopped, with
    # --parts triton.
    "triton": Part(
        limit=110, command=_kernels("tests/kernels/test_casts.py", "triton,triton_values"), read=suites.read
    ),
    "case_times": Part(limit=75, command=_measuring("case_times"), read=_answer),
    "gate_rest": Part(
        limit=150, command=_gate([name for name in LADDER if name not in _FIRST], "all"), read=suites.read
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    parser.add_argument("--report", type=Path, default=REPOSITORY / "build" / "gpu-check", metavar="DIR")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help="for all parts")
    parser.add_argument("--parts", default=",".join(PARTS), help="which, in this order (default: all)")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="of pytest")
    parser.add_argument("--short", action="store_true", help="tiny sizes, for a rehearsal")
    options = parser.parse_args(arguments)
    # A shell's background job is deaf to it, and so would be every part.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    names = [name.strip() for name in options.parts.split(",") if name.strip()]
    return check(
        _chosen(names, parser),
        Run(device=options.device, short=options.short, workers=options.workers),
        folder=options.report.resolve(),
        budget=options.budget,
    )


def _chosen(names: list[str], parser: argparse.ArgumentParser) -> dict[str, Part]:
    unknown = sorted(set(names) - PARTS.keys())
    if unknown or not names:
        parser.error(f"--parts: got {', '.join(unknown) or 'none'}; allowed: {', '.join(PARTS)}")
    return {name: part for name, part in PARTS.items() if name in names}


def check(parts: Mapping[str, Part], run: Run, *, folder: Path, budget: float) -> int:
    """Run the parts, and write `folder`/gpu.json after each."""
    began = time.monotonic()
    environment = _environment(folder)
    try:
        _clear(folder)
        _prepare(folder / "site")
        if run.device == "cuda":
            _require_cuda(environment)
    except ValueError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 2
    report: dict[str, Any] = {
        "version": 1,
        "rehearsal": run.device != "cuda" or run.short,
        "device": run.device,
        "date": datetime.now(UTC).date().isoformat(),
        "budget_seconds": budget,
        "parts": {name: {"state": "not started"} for name in parts},
    }
    for name, part in parts.items():
        left = budget - (time.monotonic() - began)
        report["parts"][name] = _part(name, part, run, folder, environment, left)
        report["seconds"] = round(time.monotonic() - began, 1)
        report["branches"] = seen_lines.run_branches(folder / "lines", branches())
        _write(folder / "gpu.json", report)
    bad = [name for name, found in report["parts"].items() if found["state"] != "done"]
    print(
        f"gpu-check: {folder / 'gpu.json'}, {report['seconds']:.0f} s; not done: {', '.join(bad) or 'none'}"
    )
    return 1 if bad else 0


def _part(
    name: str, part: Part, run: Run, folder: Path, environment: Mapping[str, str], left: float
) -> dict[str, Any]:
    """How a part went: its state, its seconds, what it found, and its last lines where it is not done."""
    limit = min(part.limit * (_PATIENCE if run.short else 1), left - _GRACE)
    if limit < _LEAST:
        print(f"gpu-check: {name}: no time left", flush=True)
        return {"state": "no time left"}
    own = folder / name
    own.mkdir()
    print(f"gpu-check: {name}: at most {limit:.0f} s …", flush=True)
    began = time.monotonic()
    logged = {**environment, suites.LOG_VARIABLE: str(own / suites.LOG)}
    status = run_limited(part.command(run, own), own / "output.txt", logged, limit)
    seconds = round(time.monotonic() - began, 1)
    state = "out of time" if status is None else "done" if status == 0 else "failed"
    found: dict[str, Any] = {"state": state, "seconds": seconds, "limit": round(limit, 1), "exit": status}
    try:
        found |= part.read(own)
    except (KeyError, OSError, TypeError, ValueError) as error:
        # What is there is of another form than this tool knows: the part is not done, and the others are.
        found |= {"state": "failed", "unreadable": f"{type(error).__name__}: {error}"}
    if found["state"] != "done":
        text = (own / "output.txt").read_text(encoding="utf-8", errors="replace")
        found["last_lines"] = text.splitlines()[-_LAST_LINES:]
    print(f"gpu-check: {name}: {found['state']}, {seconds:.0f} s", flush=True)
    return found


def run_limited(
    command: list[str], output: Path, environment: Mapping[str, str], limit: float, *, grace: float = _GRACE
) -> int | None:
    """The command's exit status; None where it took longer than `limit` seconds.

    It is then interrupted, which lets pytest write what it has, and after `grace` seconds killed together
    with every process that it started.
    """
    with output.open("wb") as file:
        child = subprocess.Popen(  # noqa: S603  (our own commands)
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=REPOSITORY,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            return child.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGINT)  # to all, as a terminal does: workers end their tests at once
            with suppress(subprocess.TimeoutExpired):  # killed below
                child.wait(grace)
            return None
        finally:
            _kill_group(child.pid)
            child.wait()


def _kill_group(pid: int) -> None:
    """End what a part left behind; where nothing is left there is no group."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _environment(folder: Path) -> dict[str, str]:
    """Of every part: no network, one thread, no plugin of pytest that we do not name."""
    paths = [folder / "site", REPOSITORY / "src", REPOSITORY / "tools"]
    before = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *([before] if before else [])]),
        "PYTHONUNBUFFERED": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        seen_lines.FOLDER: str(folder / "lines"),
    }


def _clear(folder: Path) -> None:
    """Make way for a report. Raises ValueError, in one line, for a folder of anything else."""
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / "gpu.json").is_file() and not (folder / "site").is_dir():
            raise ValueError(
                f"{folder} holds something else than an earlier report; name another --report DIR"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _prepare(site: Path) -> None:
    """Install what was carried, and give the tree in src the metadata that an installed mxcheck has.

    Raises ValueError, in one line, for what is missing.
    """
    site.mkdir(parents=True)
    wheels = sorted(str(path) for path in WHEELS.glob("*.whl"))
    if wheels:
        words = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
        done = subprocess.run(  # noqa: S603  (fixed words)
            [sys.executable, "-m", "pip", "install", *words, "--target", str(site), *wheels],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise ValueError(f"pip cannot install the wheels of {WHEELS}: {last}")
    sys.path.insert(0, str(site))
    missing = [name for name in PACKAGES if not _is_installed(name)]
    if missing:
        raise ValueError(
            f"not installed: {', '.join(missing)}; run `make gpu-wheels` where there is a network, and bring "
            f"the folder {WHEELS.relative_to(REPOSITORY)}"
        )
    if not _is_installed("mxcheck"):
        _write_metadata(site)


def _is_installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _write_metadata(site: Path) -> None:
    """Records say which mxcheck they were made with, and ask the metadata of the installed one."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = site / f"mxcheck-{project['version']}.dist-info"
    folder.mkdir()
    text = f"Metadata-Version: 2.1\nName: mxcheck\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(text, encoding="utf-8")


def _require_cuda(environment: Mapping[str, str]) -> None:
    """Raises ValueError where torch finds no CUDA device; a child is asked, which takes the context along."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"],
            capture_output=True,
            text=True,
            check=False,
            env=dict(environment),
            timeout=_ANSWER,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"torch does not say within {_ANSWER:.0f} s whether there is a GPU") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ValueError(f"torch cannot be imported: {last}")
    if done.stdout.split()[-1:] != ["True"]:
        raise ValueError("needs a CUDA device; torch finds none (--device cpu rehearses every part)")


def _write(path: Path, report: dict[str, Any]) -> None:
    """All of it or nothing: a run that is cut off leaves the last whole report."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(report, indent=1), encoding="utf-8")
    beside.replace(path)


if __name__ == "__main__":
    sys.exit(main())
