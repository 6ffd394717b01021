"""Both suites in a project whose conftest sets torch and numpy otherwise: the same figures, or one line."""

from __future__ import annotations

import re
from typing import Any

import pytest
from gate_project import Project, Run

GATE = ("--mx-models=ref-llama", "--mx-tier=A", "--mx-precision=mxfp8_e4m3", "-k", "test_accuracy")
KERNELS = ("--pyargs", "mxcheck.suite.kernels", "--mx-kernel=eager")
SOME = "mxfp4_e2m1-floor or many_calls"

#: Whatever a conftest can set that would make other numbers, and what its own tests see of it afterwards.
OTHERWISE = """
import numpy, pytest, torch
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
torch.set_float32_matmul_precision("medium")
cast, inference = torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode()
cast.__enter__(), inference.__enter__()
torch.autograd.set_detect_anomaly(True)
numpy.seterr(all="raise")

@pytest.fixture(autouse=True)
def threads():
    torch.set_num_threads(2)

def pytest_unconfigure():
    assert torch.get_default_dtype() == torch.float64
    assert torch.get_default_device().type == "meta"
    assert torch.is_inference_mode_enabled()
    assert torch.is_autocast_enabled("cpu")
    assert numpy.geterr()["under"] == "raise"
"""
FLUSHES = "import torch\ntorch.set_flush_denormal(True)\n"
LINE = (
    "subnormal numbers become zero in this process (torch and numpy), which makes scales and figures wrong: "
    "torch.set_flush_denormal(True) does that, and so does a library built with -ffast-math when it is loaded"
)


def conftest(project: Project, text: str) -> None:
    """More of it: what the project has writes the rows."""
    path = project.directory / "conftest.py"
    path.write_text(path.read_text() + text)


FIGURES = (
    *("cross_entropy", "entropy", "kl", "sequence_losses", "sequence_kl", "top1_agreement"),
    *("reference_losses", "reference_entropies", "digests", "arithmetic", "weight_bytes"),
)


def figures(run: Run) -> list[dict[str, Any]]:
    """What was measured."""
    assert run.code == 0, run.output
    records: list[Any] = [row["record"] for row in run.rows.values()]
    return [{name: record[name] for name in FIGURES} for record in records]


def test_the_gate_measures_the_same(accepted: Project) -> None:
    words = (*GATE, "--mx-max-samples", "4", "--mx-measure")
    plain = figures(accepted.gate(*words, OMP_NUM_THREADS="1"))
    conftest(accepted, OTHERWISE)
    otherwise = figures(accepted.gate(*words, OMP_NUM_THREADS="1"))
    assert otherwise == plain
    assert len(plain) == 1


def test_the_kernel_suite_is_green(project: Project) -> None:
    conftest(project, OTHERWISE)
    run = project.pytest(*KERNELS, "-k", SOME)
    assert run.code == 0, run.output
    assert re.search(r"\b\d+ passed", run.output)
    assert " skipped" not in run.output


def test_the_gate_says_that_subnormal_numbers_become_zero(accepted: Project) -> None:
    conftest(accepted, FLUSHES)
    run = accepted.gate(*GATE)
    assert run.code == 1
    assert f"\nref-llama-mxfp8_e4m3-A: {LINE}" in run.output
    assert list(run.verdicts().values()) == ["ERROR"]
    assert "Traceback" not in run.output


def test_so_does_the_kernel_suite_once(project: Project) -> None:
    conftest(project, FLUSHES)
    run = project.pytest(*KERNELS, "-k", SOME, "-rs")
    assert run.code == 1
    assert f"\nmxcheck: {LINE}" in run.output
    assert re.search(r"\b\d+ skipped, .*\b1 error", run.output)
    assert "Traceback" not in run.output


@pytest.mark.parametrize("when", ["it is loaded", "it is called"])
def test_a_kernel_that_makes_them_zero_is_told_and_no_other(project: Project, when: str) -> None:
    flush = "torch.set_flush_denormal(True)"
    (project.directory / "fast.py").write_text(
        "import torch\nfrom mxcheck.kernels.eager import quantize_eager\n"
        + (f"{flush}\n" if when == "it is loaded" else "")
        + "def cast(x, spec):\n"
        + (f"    {flush}\n" if when == "it is called" else "")
        + "    return quantize_eager(x, spec)\n"
    )
    run = project.pytest(*KERNELS[:2], "--mx-kernel=fast:cast,eager", "-k", "mxfp4_e2m1-floor and not floor-")
    assert run.code == 1
    assert "1 failed, 1 passed" in run.output
    told = (
        LINE if when == "it is loaded" else "it changed torch's flushing of subnormal numbers and left it so"
    )
    assert told in run.output
