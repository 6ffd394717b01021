"""The workflows of GitHub Actions: valid, careful, and what they run is really run, by bash on this machine.
(GitHub's own runners and actions are not: artefacts are copied as these document it.)"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from checkout import MISSING, REASON, SMALL, Checkout, build_checkout
from gate_project import ROOT
from workflow import Runner, evaluate, filled, load, machine_environment

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NIGHTLY = load(ROOT / ".github" / "workflows" / "nightly.yml")
needs_programs = pytest.mark.skipif(bool(MISSING), reason=REASON)


def test_both_are_here() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "nightly.yml"]


def _schema(path: Path) -> subprocess.CompletedProcess[str]:
    words = ("-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path))
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_valid_by_githubs_schema(path: Path) -> None:
    done = _schema(path)
    assert done.returncode == 0, done.stdout


def test_the_schema_can_say_no(tmp_path: Path) -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (tmp_path / "ci.yml").write_text(text.replace("timeout-minutes:", "timeout-minute:"))
    assert _schema(tmp_path / "ci.yml").returncode == 1


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_least_rights_limits_and_pinned_actions(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert "permissions" not in job, name
        assert job["timeout-minutes"] > 0, name
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]), step
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] is False
            # What comes from outside reaches a script through its environment alone. (make puts it into
            # its recipes all the same: `plan` says which values go so far.)
            assert "${{" not in step.get("run", ""), step


def test_the_token_is_given_to_the_one_step_that_fetches() -> None:
    text = (ROOT / ".github" / "workflows" / "nightly.yml").read_text()
    assert text.count("secrets.") == 1
    (step,) = [step for step in NIGHTLY["jobs"]["shard"]["steps"] if "HF_TOKEN" in step.get("env", {})]
    assert step["run"] == "make fetch-models"
    assert step["env"] == {"HF_TOKEN": "${{ secrets.HF_TOKEN }}"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_they_call_the_targets_of_a_developer(path: Path) -> None:
    targets = re.findall(r"^([a-z-]+):.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    found = [
        step["run"].split()[1]
        for job in load(path)["jobs"].values()
        for step in job["steps"]
        if step.get("run", "").startswith("make ")
    ]
    assert set(found) <= set(targets)
    wanted = {"ci.yml": ["lint", "gate", "test"], "nightly.yml": ["fetch-models", "nightly", "merge"]}
    assert found == wanted[path.name]


def test_no_shard_stops_another_and_none_hides_the_verdict() -> None:
    shard, merge = NIGHTLY["jobs"]["shard"], NIGHTLY["jobs"]["merge"]
    assert shard["strategy"]["fail-fast"] is False
    (keep,) = [step for step in shard["steps"] if step.get("uses", "").startswith("actions/upload")]
    assert evaluate(keep["if"][4:-3], {}) is True
    assert merge["needs"] == ["plan", "shard"]
    assert merge["if"] == "${{ always() && needs.plan.result == 'success' }}"


def plan(folder: Path, **inputs: str) -> tuple[int, str, str]:
    """The script of `plan` as GitHub runs it for somebody's words: its exit code, its words, its output."""
    on: Any = dict[Any, Any](NIGHTLY)[True]  # `on` is true in YAML 1.1
    typed = {name: value["default"] for name, value in on["workflow_dispatch"]["inputs"].items()}
    context = {
        "inputs": typed | inputs,
        "vars": {"MXCHECK_SHARDS": "3"},
        "github": {"run_id": "1"},
    }
    (folder / "output").write_text("")
    outer = machine_environment(GITHUB_OUTPUT=str(folder / "output"))
    runner = Runner(checkout=folder, outer=outer, context=context)
    (step,) = NIGHTLY["jobs"]["plan"]["steps"]
    done = runner.run(step, runner.environment(NIGHTLY["env"]))
    return done.returncode, done.stdout + done.stderr, (folder / "output").read_text()


@pytest.mark.parametrize(
    ("inputs", "indices"),
    [
        ({}, "[1,2,3]"),  # the repository's variable, where nobody typed a number
        ({"shards": "1", "models": "ref-llama,meta-llama/Llama-3.1-8B,./mine_1"}, "[1]"),
    ],
    ids=["by the clock", "by hand"],
)
def test_what_somebody_types(tmp_path: Path, inputs: dict[str, str], indices: str) -> None:
    assert plan(tmp_path, **inputs) == (0, "", f"indices={indices}\n")


@pytest.mark.parametrize(
    "inputs",
    [
        {"models": "ref-llama; touch INJECTED"},
        {"models": "$(shell touch INJECTED)"},
        {"models": "ref-llama\ntouch INJECTED"},
        {"models": "`touch INJECTED`"},
        {"models": "ref-llama ref-neo"},
        {"shards": "abc"},
        {"shards": "0"},
        {"shards": "4; touch INJECTED"},
        {"shards": "9999"},
    ],
    ids=range(9),
)
def test_a_hostile_or_a_wrong_input_ends_the_plan(tmp_path: Path, inputs: dict[str, str]) -> None:
    """Make would expand it and hand it to a shell, on a runner of one's own."""
    code, said, output = plan(tmp_path, **inputs)
    assert code == 1
    assert said.startswith("::error::")
    assert said.count("\n") == 1
    assert output == ""
    assert not (tmp_path / "INJECTED").exists()


def test_the_nightly_gate_names_its_device_and_its_run() -> None:
    """Where a GPU is gone, `auto` would be the CPU, and green."""
    (step,) = [step for step in NIGHTLY["jobs"]["shard"]["steps"] if "DEVICE" in step.get("env", {})]
    assert step["run"].startswith("make nightly ")
    assert filled(step["env"]["DEVICE"], {"vars": {}}) == "cuda"
    assert filled(NIGHTLY["env"]["MXCHECK_RUN"], {"github": {"run_id": "17"}}) == "17"


def test_expressions() -> None:
    context = {"inputs": {"shards": ""}, "vars": {"N": "3"}, "needs": {"plan": {"outputs": {"i": "[1, 2]"}}}}
    assert evaluate("inputs.shards || vars.N || '4'", context) == "3"
    assert evaluate("inputs.shards || vars.NO || '4'", context) == "4"
    assert evaluate("fromJSON(needs.plan.outputs.i)", context) == [1, 2]
    assert evaluate("always() && vars.N == '3'", context) is True
    assert evaluate("vars.NO != ''", context) is False
    assert filled("a-${{ vars.N }}-b", context) == "a-3-b"
    with pytest.raises(KeyError):
        evaluate("github.ref", context)


class Night:
    """The nightly workflow's jobs, one after another, each in the checkout as on a runner of its own."""

    def __init__(self, checkout: Checkout, folder: Path, shards: str) -> None:
        self.artefacts = folder / "artefacts"
        self.summary = folder / "summary.md"
        self.output = folder / "output"
        outer = {
            **checkout.environment,
            "CI": "true",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_OUTPUT": str(self.output),
        }
        variables = {
            "MXCHECK_SHARDS": shards,
            "MXCHECK_MODELS": SMALL["MODELS"],
            "MXCHECK_STEPS": SMALL["STEPS"],
            "MXCHECK_PYTEST_ARGS": SMALL["PYTEST_ARGS"],
            "MXCHECK_DEVICE": "cpu",
        }
        context: dict[str, Any] = {
            "inputs": {},
            "vars": variables,
            "secrets": {},
            "matrix": {},
            "github": {"run_id": "17"},
        }
        self.runner = Runner(checkout=checkout.path, outer=outer, context=context)

    def plan(self) -> list[int]:
        """Runs the job that lays out the matrix; returns the shards."""
        assert self.job("plan") == [0]
        name, _, value = self.output.read_text().strip().partition("=")
        self.runner.context["needs"] = {"plan": {"outputs": {name: value}, "result": "success"}}
        matrix = NIGHTLY["jobs"]["shard"]["strategy"]["matrix"]
        assert list(matrix) == ["index"]
        return list(filled(matrix["index"], self.runner.context))

    def shard(self, index: int) -> list[int]:
        self.runner.context["matrix"] = {"index": index}
        try:
            return self.job("shard")
        finally:
            # The next runner has a disk of its own.
            shutil.rmtree(self.runner.checkout / "reports", ignore_errors=True)

    def job(self, name: str) -> list[int]:
        """Exit codes of the scripts that ran: after one that failed, steps that `always()` run still do."""
        job = NIGHTLY["jobs"][name]
        codes: list[int] = []
        self.said = ""
        for step in job["steps"]:
            levels = [NIGHTLY["env"], job.get("env", {}), step.get("env", {})]
            environment = self.runner.environment(*levels)
            if (any(codes) and "always()" not in step.get("if", "")) or not self.runner.applies(
                step, environment
            ):
                continue
            if "run" in step:
                done = self.runner.run(step, environment)
                self.said += done.stdout + done.stderr
                codes.append(done.returncode)
            else:
                self.action(step, environment)
        return codes

    def action(self, step: Any, environment: dict[str, str]) -> None:
        context = {**self.runner.context, "env": environment}
        given = {name: filled(value, context) for name, value in step.get("with", {}).items()}
        match step["uses"].partition("@")[0]:
            case "actions/upload-artifact":
                assert given["if-no-files-found"] == "warn"
                if (folder := self.runner.checkout / given["path"]).exists():
                    shutil.copytree(folder, self.artefacts / given["name"])
            case "actions/download-artifact":
                for artefact in self.artefacts.glob(given["pattern"]):
                    shutil.copytree(artefact, self.runner.checkout / given["path"] / artefact.name)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return build_checkout(tmp_path)


@needs_programs
def test_the_nightly_gate(checkout: Checkout, tmp_path: Path) -> None:
    """Green; then, of the same night, one shard lost and one red."""
    night = Night(checkout, tmp_path, "2")
    assert night.plan() == [1, 2]
    for index in (1, 2):
        # make fetch-models: reference models are there; make nightly
        assert night.shard(index) == [0, 0], night.said
        assert f"--mx-shard={index}/2" in night.said
        assert "faulthandler_timeout=" in night.said
        assert "--mx-device=cpu " in night.said
    assert night.job("merge") == [0], night.said
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],
        cwd=checkout.path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    headline = f"## mxcheck: green: 4 cases: 4 pass; 2 shards; commit {commit}\n"
    assert night.summary.read_text().startswith(headline)
    assert len(json.loads((night.artefacts / "merged" / "accuracy.json").read_text())) == 4

    def another_night(*, without: str) -> None:
        night.summary.unlink()
        for folder in (night.artefacts / "merged", night.artefacts / without):
            shutil.rmtree(folder)
        for name in ("reports", "merged"):
            shutil.rmtree(checkout.path / name)

    another_night(without="shard-2")
    assert night.job("merge") == [2], night.said
    assert night.summary.read_text().startswith(
        "## mxcheck: red: no verdict\n\nmissing in or below reports: "
    )
    shutil.rmtree(checkout.path / "reports")
    # A red shard keeps its records, and the verdict is red. (pytest's 1 and mxcheck's are 2 by make.)
    (checkout.path / "tests" / "models" / "test_red.py").write_text("def test_red():\n    assert not 'red'\n")
    assert night.shard(2) == [0, 2], night.said
    night.summary.unlink()
    assert night.job("merge") == [2], night.said
    summary = night.summary.read_text()
    assert summary.startswith("## mxcheck: red: 4 cases: 4 pass; 1 other failure; 2 shards; commit ")
    assert "### shard 2/2: tests/models/test_red.py::test_red\n" in summary
