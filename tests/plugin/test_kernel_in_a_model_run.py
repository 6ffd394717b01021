"""A named kernel in a model run: it is compared with the oracle first, and the table says so."""

from __future__ import annotations

import shutil

import pytest
from gate_project import ROOT, Project

MODEL = ("--mx-models=ref-llama", "--mx-tier=A", "--mx-max-samples=2")
FP8 = "--mx-precision=mxfp8_e4m3"
CASE = "ref-llama-mxfp8_e4m3-A+samples2"


@pytest.fixture
def kernels(project: Project) -> Project:
    for name, file in (("my_casts", "own_casts"), ("bad_casts", "bad_casts")):
        shutil.copy(ROOT / "tests" / "support" / f"{file}.py", project.directory / f"{name}.py")
    return project


def test_a_rounded_logarithm_is_red_in_a_model(kernels: Project) -> None:
    """Which no figure and no digest of this model sees; and no update accepts it."""
    words = (*MODEL, FP8, "--mx-kernel=my_casts:by_logarithm")
    run = kernels.gate(*words, "--snapshot-update")
    assert (run.code, run.verdicts()) == (1, {CASE: "FAIL step 4"}), run.output
    assert not kernels.files()
    assert (
        f"\n{CASE}: step 4 (casts): the kernel my_casts:by_logarithm differs from the oracle: "
        "mxfp8_e4m3-floor: looks like scale rule `floor_log2` with ties to even; causes: 1 wrong\n"
        "  scale (threshold of the scale), "
    ) in run.output
    assert "\n    reproduce: mxcheck explain fp8_e4m3 --hex 40ffffff " in run.output
    assert (
        "\n  cause: numerics: the kernel my_casts:by_logarithm does not give the oracle's bits " in run.output
    )
    line = (
        "kernel my_casts:by_logarithm, compared with the oracle: red: mxfp8_e4m3-floor (looks like "
        "scale rule `floor_log2`"
    )
    assert line in " ".join(run.output.split())  # the table's width folds it


def test_a_right_kernel_is_green_by_the_baselines_of_ours(kernels: Project) -> None:
    kernel = "bad_casts:values"  # of which only the values are seen
    shutil.copytree(ROOT / "baselines" / "ref-llama", kernels.baselines / "ref-llama")
    words = ("--mx-models=ref-llama", "--mx-tier=A", FP8, f"--mx-kernel={kernel}")
    run = kernels.gate(*words)
    assert (run.code, run.verdicts()) == (0, {"ref-llama-mxfp8_e4m3-A": "pass"}), run.output
    assert f"\nkernel {kernel}, compared with the oracle: exact: mxfp8_e4m3-floor\n" in run.output


def test_a_kernel_that_no_case_casts_by_is_red(kernels: Project) -> None:
    words = ("--mx-models=ref-llama", "--mx-max-samples=2", "--mx-precision=bf16", "--mx-measure")
    run = kernels.gate(*words, "--mx-kernel=my_casts:quantize")
    assert (run.code, run.verdicts()) == (1, {"ref-llama-bf16+samples2": "measured"}), run.output
    why = "no result of my_casts:quantize was compared with the oracle; no case of this run uses it"
    assert f"\nmxcheck: red: {why}\n" in run.output


def test_a_machine_without_a_compiler_is_told_once_why_casts_are_slower(project: Project) -> None:
    run = project.gate(*MODEL, FP8, "--mx-measure", CXX="nonsense")
    assert (run.code, run.verdicts()) == (0, {CASE: "measured"}), run.output
    line = "kernel auto was eager, which is slower: no C++ compiler: CXX=nonsense is not on the path"
    assert run.output.count("CXX=nonsense") == 1
    assert f"\nmxcheck: {line}; MXCHECK_COMPILED=0 silences this\n" in run.output
