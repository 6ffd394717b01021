"""Accepting baselines: only what changed is rewritten, nothing is ever deleted, whatever dies on the way."""

from __future__ import annotations

import json
from dataclasses import replace

from gate_project import Project

from mxcheck.evaluation.layer_states import load_states, save_states

#: Few short samples: the noise of a case is measured quickly. They are part of its name.
FEW = (
    *("--mx-models", "ref-llama", "--mx-precision", "mxfp8_e4m3,mxint8"),
    *("--mx-max-samples", "4", "--mx-sequence-length", "32"),
)
LABEL = "length32+samples4"
NAMES = {f"ref-llama/{name}-{tier}+{LABEL}.json" for name in ("mxfp8_e4m3", "mxint8") for tier in "AB"}
CHANGED = {name for name in NAMES if "fp8_e4m3" in name}


def change_one_format(project: Project) -> None:
    """A real change of one format: the largest E4M3 number becomes 416."""
    project.replace(
        "formats/elements.py", "nan_magnitudes=frozenset({0x7F})", "nan_magnitudes=frozenset({0x7E, 0x7F})"
    )


def states(project: Project) -> dict[str, bytes]:
    """What layers start from, by file."""
    found = {path.name: path for path in project.baselines.rglob("states-*")}
    return {name: path.read_bytes() for name, path in found.items()}


def changed_files(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_update_rewrites_what_changed_though_a_worker_dies(project: Project) -> None:
    """Accepted by two workers, stable in one process, updated by workers of which one dies, and again."""
    run = project.gate(*FEW, "-n", "2", "--snapshot-update")
    assert (run.code, set(run.verdicts().values())) == (0, {"accepted"}), run.output
    first = project.files()
    assert first.keys() == NAMES
    kept = states(project)
    assert len(kept) == 1, "one for all cases of a model, whichever worker came first"

    run = project.gate(*FEW, "--snapshot-update")
    assert (run.code, set(run.verdicts().values())) == (0, {"pass"}), run.output
    assert project.files() == first

    change_one_format(project)
    # A plugin of the workers: one of the two changed cases takes its worker down before it is written.
    (project.source / "killer.py").write_text(
        "import os\ndef pytest_runtest_setup(item):\n    if 'mxfp8_e4m3-B' in item.name: os._exit(3)\n"
    )
    run = project.gate(*FEW, "-n", "2", "-p", "killer", "--snapshot-update")
    assert run.code == 1
    assert run.verdicts()[f"ref-llama-mxfp8_e4m3-B+{LABEL}"] == "CRASH", run.output
    assert run.verdicts()[f"ref-llama-mxfp8_e4m3-A+{LABEL}"] == "updated", run.output
    halfway = project.files()
    assert changed_files(first, halfway) == {f"ref-llama/mxfp8_e4m3-A+{LABEL}.json"}

    run = project.gate(*FEW, "-n", "2", "--snapshot-update")
    assert run.code == 0, run.output
    updated = {name for name, verdict in run.verdicts().items() if verdict == "updated"}
    assert updated == {f"ref-llama-mxfp8_e4m3-B+{LABEL}"}
    assert set(run.verdicts().values()) == {"pass", "updated"}
    assert changed_files(first, project.files()) == CHANGED
    assert changed_files(halfway, project.files()) == {f"ref-llama/mxfp8_e4m3-B+{LABEL}.json"}
    assert states(project) == kept, "no update writes them anew"
    assert not list(project.baselines.rglob("*.part"))


def test_a_narrowed_update_deletes_nothing(accepted: Project) -> None:
    before = accepted.files()
    run = accepted.gate("--mx-models", "ref-llama", "--mx-precision", "fp32", "--snapshot-update")
    assert run.code == 0, run.output
    assert accepted.files() == before


def test_new_only_adds_and_does_not_touch(project: Project) -> None:
    narrow = ("--mx-models", "ref-llama", "--mx-max-samples", "2", "--mx-tier", "A")
    assert project.gate(*narrow, "--mx-precision", "mxint8", "--snapshot-update").code == 0
    before = project.files()
    change_one_format(project)
    run = project.gate(*narrow, "--mx-precision", "mxint8,mxfp8_e4m3", "--snapshot-update-new-only")
    assert (run.code, run.verdicts()) == (
        0,
        {"ref-llama-mxint8-A+samples2": "pass", "ref-llama-mxfp8_e4m3-A+samples2": "accepted"},
    ), run.output
    after = project.files()
    assert {name: after[name] for name in before} == before


def test_recentre_rewrites_within_tolerance_only(project: Project) -> None:
    """In other arithmetic the figures move within tolerance: an update leaves them, recentre does not."""
    narrow = (
        "--mx-models",
        "ref-llama",
        "--mx-max-samples",
        "4",
        "--mx-tier",
        "A",
        "--mx-precision",
        "mxfp8_e4m3",
    )
    other = {"ATEN_CPU_CAPABILITY": "default"}
    assert project.gate(*narrow, "--snapshot-update").code == 0
    before = project.files()
    run = project.gate(*narrow, "--snapshot-update", **other)
    assert (run.code, set(run.verdicts().values())) == (0, {"pass"}), run.output
    assert project.files() == before

    done = project.run("-m", "mxcheck.cli", "baselines", "recentre", *narrow, **other)
    assert done.returncode == 0, done.stdout + done.stderr
    recentred = project.files()
    assert changed_files(before, recentred) == {"ref-llama/mxfp8_e4m3-A+samples4.json"}

    change_one_format(project)
    project.replace("formats/elements.py", "mantissa_bits=3, bias=7", "mantissa_bits=2, bias=7")
    done = project.run("-m", "mxcheck.cli", "baselines", "recentre", *narrow, **other)
    assert done.returncode == 1, done.stdout + done.stderr
    assert project.files() == recentred


def test_what_layers_start_from_is_stored_at_the_first_acceptance_alone(project: Project) -> None:
    """Where they are lost, the cases are red until an update stores them anew."""
    narrow = (
        *("--mx-models", "ref-llama", "--mx-max-samples", "2", "--mx-tier", "A"),
        *("--mx-precision", "mxint8"),
    )
    assert project.gate(*narrow, "--snapshot-update").code == 0
    kept = states(project)
    ((name, data),) = kept.items()
    path = project.baselines / "ref-llama" / name
    path.unlink()
    run = project.gate(*narrow)
    assert (run.code, set(run.verdicts().values())) == (1, {"FAIL corrupt"}), run.output
    assert f"{path}, from which " in run.output
    assert "is gone; restore it from version control" in run.output
    assert not states(project)
    assert project.gate(*narrow, "--snapshot-update").code == 0
    assert states(project).keys() == kept.keys()

    # Others of the same weights: no figure of a layer could be compared.
    path.write_bytes(data)
    (file,) = project.files().values()
    weights = json.loads(file)["fingerprints"]["weights"]
    stored = load_states(path, weights=weights)
    save_states(replace(stored, tokens=stored.tokens.flip(-1)), path, weights=weights)
    run = project.gate(*narrow)
    assert run.code == 1, run.output
    assert "step 1 (inputs): states are not the accepted ones: " in run.output
