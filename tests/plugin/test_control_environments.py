"""What must not turn the gate red: everything that is not a change of the casts or of the models.

The short form of `make false-alarms`: five of its environments, the two models that such things move most.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gate_project import ROOT, Project

from validation.control_environments.environments import Environment, environment_named
from validation.control_environments.false_alarms import summarise
from validation.control_environments.gate_runs import Plan, result_path, run_all

CASES = (
    *("--mx-models", "ref-moe,outlier-llama", "--mx-tier", "B,C,D"),
    *("--mx-precision", "bf16,mxfp8_e4m3,nvfp4,mixed"),
)
SHORT = (
    "ATEN_CPU_CAPABILITY=default -n 0",
    "as-intel ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 -n 0",
    "OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive -n 0",
    "as-intel MKL_ENABLE_INSTRUCTIONS=AVX ONEDNN_MAX_CPU_ISA=AVX512_CORE batch-3 -n 0",
    "MALLOC_PERTURB_=165 reversed_order -n 1",
)


def false_alarms(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m validation false-alarms` in this repository."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "validation", "false-alarms", "--project", ROOT, "--state", state, *words],
        cwd=ROOT,
        env=inherited,
        capture_output=True,
        text=True,
        check=False,
    )


def test_control_environments_are_green_and_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    named = [word for name in SHORT for word in ("--environment", name)]
    summary = tmp_path / "summary.md"
    done = false_alarms(tmp_path, *named, *CASES, "--summary", str(summary))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {
        row["environment"]: row
        for row in json.loads(summary.with_suffix(".json").read_text())["environments"]
    }
    assert list(rows) == list(SHORT)
    assert {row["cases"] for row in rows.values()} == {10}
    assert {row["skipped"] for row in rows.values()} == {0}
    # Threads and order change no bit of a dense model. (In a mixture of experts, products of few rows are
    # split among threads: its last bits move.)
    threads, order = (
        {name: digest for name, digest in rows[environment]["arithmetics"].items() if "outlier" in name}
        for environment in (
            "OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive -n 0",
            "MALLOC_PERTURB_=165 reversed_order -n 1",
        )
    )
    assert threads == order != {}
    assert len({json.dumps(row["arithmetics"]) for row in rows.values()}) >= 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    again = false_alarms(tmp_path, *named, *CASES)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")} == before
    assert "0 red for nothing of 50 cases in 5 control environments" in again.stdout


def test_an_environment_of_other_numbers_is_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of fp32 matrices in bfloat16, as some accelerators compute them, move what no noise does."""
    (tmp_path / "coarse.py").write_text(
        "def pytest_sessionstart():\n"
        "    import torch\n"
        "    def forward(self, x):\n"
        "        bias = None if self.bias is None else self.bias.bfloat16()\n"
        "        weight = self.weight.bfloat16()\n"
        "        return torch.nn.functional.linear(x.bfloat16(), weight, bias).float()\n"
        "    torch.nn.Linear.forward = forward\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cases = ("--mx-models", "ref-llama", "--mx-precision", "mxfp8_e4m3", "--mx-tier", "B")
    plan = Plan(project=ROOT, state=tmp_path / "state", arguments=cases)
    (one,) = run_all(plan, [Environment(plugin="coarse")], jobs=1)
    found = summarise(result_path(plan, one), ROOT / "baselines")
    assert list(found.red) == ["ref-llama-mxfp8_e4m3-B"]
    assert "step 2: reference's losses moved by sequence" in found.red["ref-llama-mxfp8_e4m3-B"]


def test_a_gate_that_does_not_finish_says_where_to_look(tmp_path: Path) -> None:
    plan = Plan(project=ROOT, state=tmp_path, arguments=("--mx-precision", "woodpecker"))
    with pytest.raises(ValueError, match=r"the gate did not finish in environment '-n 0'; see .*-n 0\.txt"):
        list(run_all(plan, [environment_named("-n 0")], jobs=1))
    assert "'woodpecker'" in (tmp_path / "logs" / "-n 0.txt").read_text()
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--environment", "woodpecker"), "mxcheck: no environment is called 'woodpecker'; allowed: "),
        (("--jobs", "0"), "mxcheck: --jobs must be at least 1, got 0"),
        (("--other-python", "woodpecker"), "mxcheck: --other-python woodpecker: no such program; name an"),
        (("--judge-anew", "--environment", "-n 0"), "mxcheck: --judge-anew: "),
        (("--summary", "out.txt"), "mxcheck: --summary names the Markdown file, NAME.md, got out.txt"),
    ],
    ids=["environment", "jobs", "other-python", "anew", "summary"],
)
def test_bad_input_is_one_line(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = false_alarms(tmp_path / "state", *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)
    assert not (tmp_path / "state").exists()


def test_the_list_and_what_wants_another_torch(tmp_path: Path) -> None:
    done = false_alarms(tmp_path, "--list")
    assert done.returncode == 0, done.stderr
    assert set(SHORT) <= set(done.stdout.splitlines())


def test_a_narrowed_parallel_run(accepted: Project) -> None:
    """`pytest -k fp8_e4m3 -n 2` means what it says, and prints header and table from the controller."""
    words = ("-k", "fp8_e4m3", "-n", "2")
    listed = accepted.gate(*words, "--collect-only", "-q").output
    assert sorted(re.findall(r"::test_accuracy\[(.*)\]$", listed, re.MULTILINE)) == sorted(
        ["bf16-llama-mxfp8_e4m3-B", "wide-gpt2-mxfp8_e4m3-B", "wide-gpt2-mxfp8_e4m3-B+attention"]
        + ["ref-neo-mxfp8_e4m3-B+outputs"]
        + [
            f"{model}-mxfp8_e4m3-{tier}"
            for model in ("long-llama", "outlier-llama", "ref-llama", "ref-moe", "ref-neo")
            for tier in ("A", "B", "B+rceil")
        ]
    )
    before = accepted.files()
    run = accepted.gate("--mx-models", "ref-llama,ref-neo", *words)
    assert (run.code, set(run.verdicts().values())) == (0, {"pass"}), run.output
    assert len(run.rows) == 7
    assert "mxcheck: 7 cases of ref-llama, ref-neo" in run.output
    assert "scale rule floor, rounding even, blocks of 32, kernel auto" in run.output
    assert "perplexity" in run.output
    assert accepted.files() == before
