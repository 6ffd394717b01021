"""What must not turn the gate red: everything that is not a change of the casts or of the models."""

from __future__ import annotations

import pytest
from gate_project import Project

#: bf16 and the two formats that differ most, on all four models.
SOME = ("--mx-precision", "fp32,bf16,fp8_e4m3,fp4_e2m1")


def assert_green(project: Project, *arguments: str, **environment: str) -> None:
    run = project.gate(*arguments, **environment)
    red = {name: verdict for name, verdict in run.verdicts().items() if verdict != "pass"}
    assert (run.code, red) == (0, {}), run.output
    assert run.rows


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_another_instruction_set(accepted: Project, capability: str) -> None:
    """Every step, as a machine without the accepting one's instructions would run it, on the two models that
    such things move most. (All four take five minutes.)"""
    models = ("--mx-models", "ref-moe,outlier-llama", "--mx-tier", "B,C,D")
    run = accepted.gate(*models, ATEN_CPU_CAPABILITY=capability)
    red = {name: verdict for name, verdict in run.verdicts().items() if verdict != "pass"}
    assert (run.code, red) == (0, {}), run.output
    assert len(run.rows) == 2 * 18


def test_another_batch_size(accepted: Project) -> None:
    assert_green(accepted, *SOME, "--mx-batch-size", "3")


def test_another_thread_count(accepted: Project) -> None:
    # Passive: two threads that spin for each other on two busy cores take minutes.
    assert_green(accepted, *SOME, OMP_NUM_THREADS="2", OMP_WAIT_POLICY="passive")


def test_another_order_of_cases(accepted: Project) -> None:
    conftest = accepted.directory / "conftest.py"
    conftest.write_text(
        conftest.read_text() + "\ndef pytest_collection_modifyitems(items):\n    items.reverse()\n"
    )
    assert_green(accepted, *SOME)


def test_a_narrowed_parallel_run(accepted: Project) -> None:
    """`pytest -k fp8_e4m3 -n 2` means what it says, and prints header and table from the controller."""
    before = accepted.files()
    run = accepted.gate("-k", "fp8_e4m3", "-n", "2")
    assert (run.code, set(run.verdicts().values())) == (0, {"pass"}), run.output
    assert sorted(run.rows) == [
        f"{model}-fp8_e4m3-{tier}"
        for model in ("outlier-llama", "ref-llama", "ref-moe", "ref-neo")
        for tier in "AB"
    ]
    assert "mxcheck: 8 cases of ref-llama, ref-neo, ref-moe, outlier-llama" in run.output
    assert "scale rule floor, rounding even, blocks of 32, kernel eager" in run.output
    assert "perplexity" in run.output
    assert accepted.files() == before
