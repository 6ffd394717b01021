"""The real plugin, models and all, over several workers of this machine's CPU."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gate_project import Project

from mxcheck.formats.aliases import precision_of
from mxcheck.scheduling.devices import cores
from mxcheck.scheduling.ledger import Ledger

#: Few short sequences: how the cases are spread matters here, not what they measure.
FEW = ("--mx-tier", "A", "--mx-max-samples", "2", "--mx-sequence-length", "32")
LABEL = "+length32+samples2"
#: Of every row, what depends on where and when it was measured.
_ASIDE = ("seconds", "load_seconds", "worker", "cost")


def bare(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: value for key, value in row.items() if key not in _ASIDE} for name, row in rows.items()
    }


def table(output: str) -> str:
    start = output.index("mxcheck: accuracy")
    return output[start : output.index("cross-entropy, entropy, KL", start)]


@pytest.fixture
def leases(tmp_path: Path) -> Path:
    return tmp_path / "leases"


def test_records_table_and_exit_code_are_those_of_one_process(accepted: Project, leases: Path) -> None:
    """A dense model and one with experts against their committed baselines, bit for bit."""
    words = ("--mx-models", "ref-neo,ref-moe", "--mx-precision", "mxfp8_e4m3,bnb_int8", "--mx-tier", "B")
    environment = {"OMP_NUM_THREADS": "1", "MXCHECK_LEASES": str(leases)}
    alone = accepted.gate(*words, "-n", "0", **environment)
    assert (alone.code, len(alone.rows)) == (0, 4), alone.output
    spread = accepted.gate(*words, "-n", "2", **environment)
    assert spread.code == alone.code, spread.output
    assert json.dumps(bare(spread.rows), sort_keys=True) == json.dumps(bare(alone.rows), sort_keys=True)
    assert table(spread.output) == table(alone.output)
    models = Counter(
        (row["worker"], *name.split("-")[:2]) for name, row in spread.rows.items() if row["load_seconds"]
    )
    assert set(models.values()) == {1}, "a worker loaded a model twice"
    assert len({worker for worker, *_ in models}) > 1, "all of it ran on one worker"
    assert Ledger(leases).leases() == []


#: Formats kill the process that casts with them, each in a way of its own.
_DEADLY = """
import os, signal, time
import torch
from mxcheck.kernels.eager import quantize_eager

def deadly(x, spec):
    if x.numel() > 1000 and spec.format in DEATHS:
        exec(DEATHS[spec.format])
    return quantize_eager(x, spec)
"""
DEATHS = {
    "fp8_e5m2": "os._exit(3)",
    "fp6_e3m2": "os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out",
    "fp6_e2m3": "import ctypes; ctypes.string_at(0)  # a segmentation fault",
    # As pytest's timeout would end it, in a second: no innocent case can be as slow.
    "mxint8": "import faulthandler; "
    "faulthandler.dump_traceback_later(1, exit=True, file=open('hung', 'w')); time.sleep(600)",
    "fp4_e2m1": "raise RuntimeError('CUDA error: device-side assert triggered')",
}


def deadly(project: Project, *formats: str) -> tuple[str, ...]:
    """Words of a run with a kernel that dies of these formats."""
    deaths = {name: DEATHS[name] for name in formats}
    (project.directory / "my_kernels.py").write_text(f"DEATHS = {deaths!r}\n{_DEADLY}")
    return (*FEW, "--mx-models", "ref-llama", "--mx-kernel", "my_kernels:deadly")


def test_workers_that_die_cost_their_cases(project: Project, leases: Path) -> None:
    """One after the other, of everything that a process can die of; the cases before and after live."""
    (project.directory / "pytest.ini").write_text(
        "[pytest]\nmx_tier = A\nfaulthandler_timeout = 900\nfaulthandler_exit_on_timeout = true\n"
    )
    words = deadly(project, *DEATHS)
    formats = ("fp8_e4m3", *DEATHS, "fp4_e3m0")
    words = (*words, "--mx-precision", ",".join(formats), "--max-worker-restart", "6")
    run = project.gate(*words, "-n", "2", MXCHECK_LEASES=str(leases))
    assert run.code == 1, run.output
    assert run.verdicts() == {
        f"ref-llama-{precision_of(name)}-A{LABEL}": "CRASH" if name in DEATHS else "FAIL missing"
        for name in formats
    }, run.output
    assert run.output.count("crashed while running") >= len(DEATHS)
    assert "the CUDA context is broken: CUDA error: device-side assert triggered" in run.output
    assert "Timeout" in (project.directory / "hung").read_text()
    assert Ledger(leases).leases() == []


def test_without_workers_a_broken_context_is_told_by_name(project: Project, leases: Path) -> None:
    words = deadly(project, "fp4_e2m1")
    run = project.gate(*words, "--mx-precision", "mxfp8_e4m3,mxint8,mxfp4_e2m1", MXCHECK_LEASES=str(leases))
    assert run.code == 1
    assert f"ref-llama-mxfp4_e2m1-A{LABEL}: the CUDA context is broken: CUDA error: device-side" in run.output
    assert f"not run: ref-llama-mxfp4_e2m1-A{LABEL} broke the CUDA context; run with -n 1" in run.output
    assert run.verdicts()[f"ref-llama-mxint8-A{LABEL}"] == "ERROR"


#: The first time that the model casts to this format, memory runs out.
_GREEDY = """
import os
import torch
from mxcheck.kernels.eager import quantize_eager

def greedy(x, spec):
    if spec.format == "mxint8" and x.numel() > 1000 and not os.path.exists("second"):
        name = "second" if os.path.exists("first") else "first"
        with open(os.environ["MXCHECK_LEASES"] + "/leases.json") as ledger, open(name, "w") as copy:
            copy.write(ledger.read())
        if name == "first":
            torch.empty(2**60, dtype=torch.uint8)
    return quantize_eager(x, spec)
"""


def test_out_of_memory_waits_once_for_a_larger_lease(project: Project, leases: Path) -> None:
    (project.directory / "my_kernels.py").write_text(_GREEDY)
    words = (*FEW, "--mx-models", "ref-llama", "--mx-kernel", "my_kernels:greedy")
    run = project.gate(*words, "--mx-precision", "mxfp8_e4m3,mxint8", "-n", "2", MXCHECK_LEASES=str(leases))
    assert set(run.verdicts().values()) == {"FAIL missing"}, run.output
    first, second = (json.loads((project.directory / name).read_text()) for name in ("first", "second"))
    assert {"cpu": 1} in [lease["slots_of"] for lease in first["leases"]]
    assert [lease["slots_of"] for lease in second["leases"]] == [{"cpu": cores()}]
    # The model was loaded anew, in the same case.
    assert run.rows[f"ref-llama-mxint8-A{LABEL}"]["load_seconds"]
    assert Ledger(leases).leases() == []


def test_what_never_ran_has_a_row(project: Project, leases: Path) -> None:
    words = (*deadly(project, "fp8_e5m2"), "--max-worker-restart", "0")
    run = project.gate(
        *words, "--mx-precision", "mxfp8_e5m2,mxfp8_e4m3,mxint8", "-n", "1", MXCHECK_LEASES=str(leases)
    )
    assert run.code == 1
    found = Counter(run.verdicts().values())
    assert found["CRASH"] == 1, run.output
    assert sum(found.values()) == 3
    assert found["NOT RUN"] == 2 - found["FAIL missing"]
    assert found["NOT RUN"], "the case that died was the last one"


def test_durations_are_kept_for_the_next_run(project: Project, leases: Path) -> None:
    words = (*FEW, "--mx-models", "ref-llama", "--mx-precision", "fp32,mxfp8_e4m3", "-p", "cacheprovider")
    project.gate(*words, MXCHECK_LEASES=str(leases))
    stored = project.directory / ".pytest_cache" / "v" / "mxcheck"
    durations = json.loads((stored / "durations").read_text())
    assert set(durations) == {f"ref-llama-fp32{LABEL} on auto", f"ref-llama-mxfp8_e4m3-A{LABEL} on auto"}
    assert all(seconds > 0 for seconds in durations.values())
    assert list(json.loads((stored / "loads").read_text())) == ["ref-llama on auto"]
