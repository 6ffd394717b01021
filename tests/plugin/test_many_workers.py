"""The real plugin, models and all, over several workers of this machine's CPU."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from gate_project import Project

from mxcheck.scheduling.devices import cores
from mxcheck.scheduling.ledger import Ledger

#: Few short sequences: how the cases are spread matters here, not what they measure.
FEW = ("--mx-tier", "A", "--mx-max-samples", "2", "--mx-sequence-length", "32")
LABEL = "+length32+samples2"
#: Of every row, what depends on where and when it was measured.
_ASIDE = ("seconds", "load_seconds", "worker")


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
    """All reference models against their committed baselines, bit for bit."""
    words = ("--mx-precision", "mxfp8_e4m3,bnb_int8", "--mx-tier", "B")
    environment = {"OMP_NUM_THREADS": "1", "MXCHECK_LEASES": str(leases)}
    alone = accepted.gate(*words, "-n", "0", **environment)
    assert (alone.code, len(alone.rows)) == (0, 12), alone.output
    spread = accepted.gate(*words, "-n", "4", **environment)
    assert spread.code == alone.code, spread.output
    assert json.dumps(bare(spread.rows), sort_keys=True) == json.dumps(bare(alone.rows), sort_keys=True)
    assert table(spread.output) == table(alone.output)
    models = Counter(
        (row["worker"], *name.split("-")[:2]) for name, row in spread.rows.items() if row["load_seconds"]
    )
    assert set(models.values()) == {1}, "a worker loaded a model twice"
    assert len({worker for worker, *_ in models}) > 1, "all of it ran on one worker"
    assert Ledger(leases).leases() == []


#: One format kills the process that casts with it, as the words say.
_DEADLY = """
import os, signal, time
import torch
from mxcheck.kernels.eager import quantize_eager

def deadly(x, spec):
    if spec.format == "fp8_e5m2" and x.numel() > 1000:
        DEATH
    return quantize_eager(x, spec)
"""
DEATHS = {
    "exit": "os._exit(3)",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out",
    "segmentation-fault": "import ctypes; ctypes.string_at(0)",
    # As pytest's timeout would end it, in a second: no innocent case can be as slow.
    "hang": "import faulthandler; faulthandler.dump_traceback_later(1, exit=True, file=open('hung', 'w')); "
    "time.sleep(600)",
    "cuda-context": "raise RuntimeError('CUDA error: device-side assert triggered')",
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_worker_that_dies_costs_its_case(project: Project, leases: Path, death: str) -> None:
    (project.directory / "my_kernels.py").write_text(_DEADLY.replace("DEATH", DEATHS[death]))
    (project.directory / "pytest.ini").write_text(
        "[pytest]\nmx_tier = A\nfaulthandler_timeout = 900\nfaulthandler_exit_on_timeout = true\n"
    )
    words = (
        *FEW, "--mx-models", "ref-llama,ref-neo", "--mx-kernel", "my_kernels:deadly",
        "--mx-precision", "mxfp8_e4m3,mxfp8_e5m2,mxint8", "--max-worker-restart", "6",
    )  # fmt: skip
    run = project.gate(*words, "-n", "2", MXCHECK_LEASES=str(leases))
    assert run.code == 1, run.output
    assert run.verdicts() == {
        f"{model}-{name}-A{LABEL}": "CRASH" if name == "mxfp8_e5m2" else "FAIL missing"
        for model in ("ref-llama", "ref-neo")
        for name in ("mxfp8_e4m3", "mxfp8_e5m2", "mxint8")
    }, run.output
    assert run.output.count("crashed while running") >= 2
    why = "the CUDA context is broken: CUDA error: device-side assert triggered"
    assert (why in run.output) == (death == "cuda-context"), run.output
    hung = project.directory / "hung"
    assert (hung.is_file() and "Timeout" in hung.read_text()) == (death == "hang")
    assert Ledger(leases).leases() == []


def test_without_workers_a_broken_context_is_told_by_name(project: Project, leases: Path) -> None:
    (project.directory / "my_kernels.py").write_text(_DEADLY.replace("DEATH", DEATHS["cuda-context"]))
    words = (*FEW, "--mx-models", "ref-llama", "--mx-kernel", "my_kernels:deadly")
    run = project.gate(*words, "--mx-precision", "mxfp8_e4m3,mxfp8_e5m2,mxint8", MXCHECK_LEASES=str(leases))
    assert run.code == 1
    assert f"ref-llama-mxfp8_e5m2-A{LABEL}: the CUDA context is broken: CUDA error: device-side" in run.output
    assert f"not run: ref-llama-mxfp8_e5m2-A{LABEL} broke the CUDA context; run with -n 1" in run.output
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
    (project.directory / "my_kernels.py").write_text(_DEADLY.replace("DEATH", DEATHS["exit"]))
    words = (
        *FEW,
        "--mx-models",
        "ref-llama",
        "--mx-kernel",
        "my_kernels:deadly",
        "--max-worker-restart",
        "0",
    )
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
