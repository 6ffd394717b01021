"""The reduced model suite without pytest: the same cases, and which faults still need pytest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from gate_project import WITH_VALIDATION

from mxcheck.gate.bounds_tables import load_bounds
from mxcheck.gate.case import Case
from mxcheck.gate.result import Outcome
from mxcheck.pytest_plugin.options.read_settings import read_settings
from validation.faults.catalogued import catalogue
from validation.faults.fault import Fault, Setting, applied
from validation.sensitivity import model_run, reduced_gate
from validation.sensitivity.reduced_gate import ReducedGate, accepting_gates
from validation.sensitivity.sensitivity_run import concerns_merge, concerns_pytest

FAULTS = catalogue()
#: Those that are run without pytest.
GATES = {
    options: gate
    for options, gate in accepting_gates(FAULTS.values()).items()
    if gate.measuring(Path()) is not None
}
OF_PYTEST = Fault(
    name="of_pytest",
    group="gate",
    what="Nothing is wrong.",
    source="made up",
    changes=(
        Setting(
            target="mxcheck.pytest_plugin.fixtures.gate_session:_BROKEN_CONTEXT", value=lambda code: code + 1
        ),
    ),
)

#: Two faults of the model suite under a run in which pytest cannot start.
_RUN = """
import json, sys
from dataclasses import asdict, replace
from pathlib import Path
import pytest
from validation.sensitivity import reduced_gate
from validation.faults.catalogued import catalogue
from validation.sensitivity.sensitivity_run import run

def cannot(*_, **__):
    raise AssertionError("pytest was started")

pytest.main = cannot
reduced_gate.MODELS, reduced_gate.SEQUENCES, reduced_gate.WHOLE_MODEL = ("ref-llama",), 2, ("fp32",)
faults = [
    replace(catalogue()["activations_skipped"], formats=(), precisions=("mxfp8_e4m3",)),
    replace(catalogue()["nvfp4_in_blocks_of_32"], formats=(), precisions=("nvfp4",)),
]
folder = Path(sys.argv[1])
(folder / "baselines").mkdir()
found = run(faults, state=folder / "state", baselines=folder / "baselines")
logs = {path.stem: path.read_text() for path in (folder / "state" / "logs" / "models").iterdir()}
print(json.dumps({one.name: [*one.models.steps, "pytest was started" in logs[one.name]] for one in found}))
"""


def test_faults_of_the_model_suite_are_caught_where_pytest_cannot_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": WITH_VALIDATION, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == {"activations_skipped", "nvfp4_in_blocks_of_32"}
    assert [started for *_, started in found.values()] == [False, False]
    assert {"4", "6"} <= set(found["activations_skipped"])
    assert "1" in found["nvfp4_in_blocks_of_32"], "the recipe is made under the fault"


def test_which_faults_concern_pytest() -> None:
    assert concerns_pytest(OF_PYTEST)
    known = [fault for fault in FAULTS.values() if not fault.unseen and not concerns_merge(fault)]
    assert {fault.name for fault in known if concerns_pytest(fault)} == {
        "order_by_its_mean_alone",
        "order_of_the_arguments",
        "death_of_a_worker_not_noted",
        "end_after_the_call_not_noted",
        "any_order_will_do",
        "case_that_never_ran_left_out",
    }


@pytest.mark.parametrize("options", GATES, ids=" ".join)
def test_the_cases_are_those_of_pytest(
    pytester: pytest.Pytester, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """And what else decides a record: or a run without pytest would be of something else."""
    gate = GATES[options]
    measuring = gate.measuring(tmp_path)
    pytester.makeini("[pytest]\n")
    _, _, *words = gate.arguments(tmp_path)
    settings = read_settings(pytester.parseconfig(*words))
    if options == ("--mx-scale-rule", "rceil"):
        assert measuring is None, "an option of pytest's plugin alone: it goes by pytest"
        return
    assert measuring is not None
    selected = [case for case in settings.cases if case in settings.recipes]
    assert list(measuring.recipes) == selected
    assert dict(measuring.recipes) == dict(settings.recipes)
    by_pytest = settings
    for name in ("corpus", "max_samples", "sequence_length", "batch_size", "dtype", "kernel", "device"):
        assert getattr(measuring, name) == getattr(by_pytest, name), name
    assert measuring.baselines == by_pytest.baselines


@pytest.mark.parametrize(
    "options",
    [("--mx-datasets", "a/b.txt"), ("--mx-dtype", "bf16"), ("--mx-attention", "--mx-metrics", "a:b")],
    ids=" ".join,
)
def test_an_option_that_is_not_in_the_table_goes_by_pytest(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert ReducedGate(options=options, precisions=("mxfp8_e4m3",)).measuring(tmp_path) is None


def test_options_that_cost_more_are_let_in_and_nothing_else_is(tmp_path: Path) -> None:
    case = Case(model="ref-moe", precision="mxfp8_e4m3", tier="B", options=("zero", "samples16"))
    ours = load_bounds().of(case)
    ReducedGate(options=("--mx-rounding", "away"), precisions=("mxfp8_e4m3",)).let_in(tmp_path)
    assert not list(tmp_path.iterdir())
    ReducedGate(options=("--mx-rounding", "zero"), precisions=("fp32", "mxfp8_e4m3")).let_in(tmp_path)
    found = load_bounds(baselines=tmp_path)
    assert found.of(case).kl == pytest.approx(8 * ours.kl, rel=0.01)
    assert found.of(replace(case, options=("samples16",))).kl == ours.kl


def test_what_is_accepted_is_held_and_a_fault_is_red_with_the_gate_s_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MODELS", ("ref-llama",)), ("SEQUENCES", 2), ("TIERS", ("A",))):
        monkeypatch.setattr(reduced_gate, name, value)
    measuring = ReducedGate(options=(), precisions=("fp32", "mxfp8_e4m3")).measuring(tmp_path)
    assert measuring is not None

    missing = model_run.run_models(measuring)
    assert missing.red
    assert [result.outcome for result in missing.results] == [Outcome.MISSING] * 2
    assert all("no accepted baseline at" in message for message in missing.messages)
    assert not list(tmp_path.iterdir())

    accepted = model_run.run_models(measuring, update=True)
    assert not accepted.red, accepted.messages
    assert [result.outcome for result in accepted.results] == [Outcome.ACCEPTED] * 2
    names = {"fp32+samples2.json", "mxfp8_e4m3-A+samples2.json"}
    folder = tmp_path / "ref-llama"
    assert all((folder / name).is_file() for name in names)
    # ours are copied: beside a first baseline of its own nobody reads them any more
    assert (folder / "mxfp8_e4m3-A.json").is_file()
    assert list(folder.glob("states-*.safetensors"))

    held = model_run.run_models(measuring)
    assert (held.red, held.messages) == (False, [])
    assert [result.outcome for result in held.results] == [Outcome.PASSED] * 2

    with applied(FAULTS["activations_skipped"]):
        red = model_run.run_models(measuring)
    assert red.red
    assert [result.outcome for result in red.results] == [Outcome.PASSED, Outcome.FAILED]
    assert "step 4 (casts)" in red.messages[0]
    assert "layers: " in red.messages[0], "what the layers' figures say is part of it"


def test_a_case_that_raises_is_red_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MODELS", ("ref-llama",)), ("SEQUENCES", 1), ("TIERS", ("A",))):
        monkeypatch.setattr(reduced_gate, name, value)
    measuring = ReducedGate(options=(), precisions=("fp32", "mxfp8_e4m3")).measuring(tmp_path)
    assert measuring is not None
    run_case = model_run.run_case

    def raising(session, case, compare, *, baselines):  # type: ignore[no-untyped-def]
        if case.precision == "fp32":
            raise KeyError("no such thing")
        return run_case(session, case, compare, baselines=baselines)

    monkeypatch.setattr(model_run, "run_case", raising)
    found = model_run.run_models(measuring)
    assert [result.outcome for result in found.results] == [Outcome.ERROR, Outcome.MISSING]
    assert "KeyError: 'no such thing'" in found.messages[0]


def test_baselines_are_read_where_the_gate_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a fault in that is one here, too."""
    for name, value in (("MODELS", ("ref-neo",)), ("SEQUENCES", 1)):
        monkeypatch.setattr(reduced_gate, name, value)
    measuring = ReducedGate(options=(), precisions=("fp32",)).measuring(tmp_path)
    assert measuring is not None
    with applied(FAULTS["baseline_of_another_model"]):
        (message,) = model_run.run_models(measuring).messages
    assert f"no accepted baseline at {tmp_path}/ref-llama/" in message
