"""A model whose files are broken is red by itself, in one line; a sound one beside it runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import broken_checkpoints as broken
import pytest
from gate_project import Project, Run

from mxcheck.models.zoo.known_models import model_source
from mxcheck.models.zoo.refusal import LINE

CASE = "mxfp8_e4m3-A+samples2"
RUN = ("--mx-precision", "mxfp8_e4m3", "--mx-tier", "A", "--mx-max-samples", "2")


@pytest.fixture
def sound(project: Project) -> Path:
    """A sound model of the user's, with its evaluation tokens."""
    path = project.directory / "sound"
    broken.save_sound(path)
    tokens_of(project, "sound")
    return path


def tokens_of(project: Project, label: str) -> None:
    import torch

    from mxcheck.evaluation.tokens import save_tokens

    path = project.baselines / label / "tokens.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tokens(torch.arange(32).view(2, 16), path)


def broken_models(project: Project) -> list[str]:
    for name, (damage, _) in broken.BROKEN.items():
        folder = project.directory / name
        broken.save_sound(folder)
        damage(folder)
        tokens_of(project, name)
    return list(broken.BROKEN)


def lines_of(run: Run, label: str) -> list[str]:
    """What the run says of a red case, cut from a line of its own."""
    return [line for line in run.output.splitlines() if line.startswith(f"{label}-{CASE}: ")]


@pytest.mark.usefixtures("sound")
def test_each_broken_model_is_red_in_one_line_and_the_sound_one_runs(project: Project) -> None:
    """In a worker, and what it says comes to the controller as it is."""
    names = broken_models(project)
    models = ",".join(f"./{name}" for name in [*names[:20], "sound", *names[20:]])
    run = project.gate("--mx-models", models, *RUN, "-n", "1")

    assert run.code == pytest.ExitCode.TESTS_FAILED, run.output
    verdicts = run.verdicts()
    assert verdicts.pop(f"sound-{CASE}") == "FAIL missing", run.output
    assert verdicts == {f"{name}-{CASE}": "ERROR" for name in names}
    for word in ("INTERNALERROR", "Traceback", "LOAD REPORT", "\x1b[31mred"):
        assert word not in run.output
    for name in names:
        (line,) = lines_of(run, name)
        said = line.removeprefix(f"{name}-{CASE}: ")
        assert said.startswith(f"model './{name}': ")
        assert len(said) <= LINE
        assert broken.BROKEN[name][1] in said


@pytest.mark.usefixtures("sound")
def test_collection_and_sample_survive_them(project: Project) -> None:
    """What reads the same files without measuring: collection, and `mxcheck sample`."""
    names = broken_models(project)
    models = ",".join(f"./{name}" for name in [*names, "sound"])
    collected = project.gate("--mx-models", models, *RUN, "--collect-only", "-q")
    assert collected.code == 0, collected.output
    for name in ("nested", "biases", "gguf"):
        (project.baselines / name / "tokens.safetensors").unlink()
        done = project.run("-m", "mxcheck.cli", "sample", f"./{name}", "--sequences", "2", "--length", "8")
        assert done.returncode == 2, done.stderr
        (line,) = [text for text in done.stderr.splitlines() if text.startswith("mxcheck: ")]
        assert broken.BROKEN[name][1] in line
        assert "Traceback" not in done.stderr


TOKENIZERS = {
    "another-version": ('{"version": "9.0", "model": {"type": "Tomorrow"}}', None),
    "list": ("[1]", None),
    "nested": ("[" * 200_000, None),
    "no-json": ("not a tokenizer", None),
    "no-model": ('{"version": "1.0"}', None),
    "class": ("{}", '{"tokenizer_class": "OfTomorrow"}'),
    "config-list": (None, "[1]"),
    "config-nested": (None, "[" * 200_000),
}


def test_a_tokenizer_that_cannot_be_read_is_red_by_itself(project: Project, sound: Path) -> None:
    whole = Path(model_source("ref-neo").location)
    for name in (*TOKENIZERS, "whole"):
        folder = project.directory / name
        shutil.copytree(sound, folder)
        if name == "whole":
            broken.save_sound(folder, vocabulary=1024)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(whole / file, folder)
        tokenizer, config = TOKENIZERS.get(name, (None, None))
        if tokenizer is not None:
            (folder / "tokenizer.json").write_text(tokenizer)
        if config is not None:
            (folder / "tokenizer_config.json").write_text(config)
    (project.directory / "text.txt").write_text("some words of text\n" * 200)
    models = ",".join(f"./{name}" for name in (*TOKENIZERS, "whole"))
    run = project.gate(
        "--mx-models", models, *RUN, "--mx-datasets", "./text.txt", "--mx-sequence-length", "32"
    )

    assert run.code == pytest.ExitCode.TESTS_FAILED, run.output
    ends = {name: verdict for name, verdict in run.verdicts().items() if verdict != "ERROR"}
    assert [name.partition("-mxfp8")[0] for name in ends] == ["whole"], run.output
    assert "Traceback" not in run.output
    assert "INTERNALERROR" not in run.output
    for name in TOKENIZERS:
        said = [line for line in run.output.splitlines() if line.startswith(f"{name}-mxfp8_e4m3-A")]
        (line,) = [text for text in said if ": " in text]
        assert f"model './{name}': " in line, json.dumps(said)
