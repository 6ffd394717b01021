"""`mxcheck baselines prune`: what it names, and what it deletes."""

from __future__ import annotations

from pathlib import Path

import pytest
from baselines_project import BF16, FP8, Capture, put, refused
from sample_record import build_record

from mxcheck.cli import main

ORPHANS = (
    "ref-llama/fp9-A@cuda-sm90.json",
    "ref-llama/mxfp8_e4m3-Z.json",
    "ref-llama/mxfp8_e4m3.json",
    "ref-old/bf16.json",
    "ref-llama/states-0a1b2c3d.safetensors",
)


@pytest.fixture
def kept() -> set[Path]:
    """Files that belong to a case, with orphans beside them."""
    for name in ORPHANS:
        if name.endswith(".json"):
            put("baselines", name, build_record())
    override = put("baselines", "ref-llama/mxfp8_e4m3-B@cuda-sm90.json", build_record())
    tokens = Path("baselines/ref-llama/tokens.safetensors")
    tokens.write_bytes(b"tokens")
    # what layers start from: of the weights that the baselines name, and of none that they name
    states = Path("baselines/ref-llama/states-aaaaaaaa.safetensors")
    for one in (states, Path("baselines", ORPHANS[-1])):
        one.write_bytes(b"states")
    return {override, tokens, states, Path("baselines", FP8), Path("baselines", BF16)}


def files() -> set[Path]:
    return {path for path in Path("baselines").rglob("*") if path.is_file()}


def test_prune_finds_nothing(capsys: Capture) -> None:
    assert main(["baselines", "prune"]) == 0
    assert capsys.readouterr() == ("", "nothing to prune in baselines\n")


def test_prune_names_orphans_and_deletes_nothing(capsys: Capture, kept: set[Path]) -> None:
    assert main(["baselines", "prune"]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"orphan: baselines/{name}" for name in ORPHANS]
    assert files() == kept | {Path("baselines", name) for name in ORPHANS}


@pytest.mark.usefixtures("kept")
def test_prune_keeps_what_options_and_recipes_of_one_s_own_made(capsys: Capture) -> None:
    """And models of one's own, as their tokens lie beside their baselines."""
    Path("pyproject.toml").write_text('[tool.mxcheck.recipes.w4a8]\nmlp = { weights = "fp4_e2m1" }\n')
    own = [
        "ref-llama/mxfp8_e4m3-B+attention+block16.json",
        "ref-llama/mxfp8_e4m3-linears.json",
        "ref-llama/w4a8.json",
        "my-model/mxfp8_e4m3-B.json",
    ]
    for name in own:
        put("baselines", name, build_record())
    Path("baselines/my-model/tokens.safetensors").write_bytes(b"tokens")
    assert main(["baselines", "prune"]) == 1
    assert capsys.readouterr().out.splitlines() == [f"orphan: baselines/{name}" for name in ORPHANS]


def test_prune_deletes_orphans_only(capsys: Capture, kept: set[Path]) -> None:
    assert main(["baselines", "prune", "--delete"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"deleted: baselines/{name}" for name in ORPHANS]
    assert captured.err == ""
    assert files() == kept
    assert main(["baselines", "prune"]) == 0


@pytest.mark.usefixtures("kept")
def test_prune_keeps_states_beside_a_baseline_that_cannot_be_read(capsys: Capture) -> None:
    """It may rest on them."""
    Path("baselines", FP8).write_bytes(b"\xff")
    assert main(["baselines", "prune"]) == 1
    assert "states" not in capsys.readouterr().out


def test_prune_deletes_an_orphan_that_cannot_be_read() -> None:
    orphan = put("baselines", "ref-llama/old.json", build_record())
    orphan.write_text(orphan.read_text()[:-40])  # its end is lost
    assert main(["baselines", "prune", "--delete"]) == 0
    assert not orphan.exists()


def test_prune_touches_nothing_that_was_never_a_baseline_and_nothing_behind_a_link(tmp_path: Path) -> None:
    theirs = [
        Path("baselines/package.json"),
        Path("baselines/ref-llama/notes.json"),
        Path("baselines/a/b/c.json"),
    ]
    other = tmp_path / "other"
    theirs += [other / "old.json", other / "states-00000000.safetensors"]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"name": "theirs"}')
    put(str(other), "old.json", build_record())
    Path("baselines/linked").symlink_to(other)
    Path("baselines/ref-llama/link.json").symlink_to(other / "old.json")
    assert main(["baselines", "prune", "--delete"]) == 0
    assert all(path.exists() for path in theirs)
    assert Path("baselines/ref-llama/link.json").is_symlink()


@pytest.mark.parametrize(
    ("models", "orphans"),
    [
        pytest.param("ref-llama,org/m", [], id="both"),
        pytest.param("ref-llama", ["org--m/bf16.json"], id="ours"),
        pytest.param("org/m", [BF16, FP8], id="theirs"),
    ],
)
def test_prune_of_other_models(capsys: Capture, models: str, orphans: list[str]) -> None:
    put("baselines", "org--m/bf16.json", build_record())
    assert main(["baselines", "prune", "--models", models]) == bool(orphans)
    assert capsys.readouterr().out.splitlines() == [f"orphan: baselines/{name}" for name in orphans]


def test_what_prune_says_to_type_deletes_what_it_named(capsys: Capture) -> None:
    """Not the files of another directory, nor those of the models that this run counted as owned."""
    mine = put("my baselines", "org--m/bf16.json", build_record())
    orphan = put("my baselines", "org--m/old.json", build_record())
    assert main(["baselines", "prune", "--baselines", "my baselines", "--models", "org/m"]) == 1
    command = "mxcheck baselines prune --baselines 'my baselines' --models org/m --delete"
    assert capsys.readouterr().err == f"delete them with: {command}\n"
    typed = ["baselines", "prune", "--baselines", "my baselines", "--models", "org/m", "--delete"]
    assert main(typed) == 0
    assert mine.exists()
    assert not orphan.exists()


def test_prune_of_a_bad_model_name_is_refused_and_deletes_nothing(capsys: Capture, kept: set[Path]) -> None:
    before = files()
    message = refused(capsys, "baselines", "prune", "--delete", "--models", "ref-llama,two words")
    assert "'two words'" in message
    assert kept < before == files()


def test_a_linked_folder_is_renamed_in_too_and_once(capsys: Capture) -> None:
    for name in ("store/elsewhere/fp8_e4m3-B.json", "baselines/here/bfp16-A.json"):
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text("{}")
    for name, target in (("a", "../store/elsewhere"), ("b", "../store/elsewhere"), ("c", "here")):
        Path("baselines", name).symlink_to(target)
    assert main(["baselines", "rename"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert Path("baselines/a/mxfp8_e4m3-B.json").is_file()
    assert Path("baselines/c/bf16_operands-A.json").is_file()


def test_former_names_are_renamed_and_never_pruned(capsys: Capture) -> None:
    former, new = Path("baselines/ref-llama/fp8_e4m3-B.json"), Path("baselines", FP8)
    new.rename(former)
    before = former.read_bytes()
    assert "mxcheck baselines rename" in refused(capsys, "baselines", "prune", "--delete")
    assert main(["baselines", "rename"]) == 0
    assert capsys.readouterr().out == "baselines/ref-llama/fp8_e4m3-B.json -> mxfp8_e4m3-B.json\n"
    assert (new.read_bytes(), former.exists()) == (before, False)
    assert main(["baselines", "rename"]) == 0
    assert capsys.readouterr().err == "nothing to rename in baselines\n"
    for action in ("rename", "prune"):
        told = refused(capsys, "baselines", action, "--baselines", "baselines/ref-llama")
        assert f"is the folder of a model; name the directory above it: --baselines {Path.cwd()}/base" in told
    assert main(["baselines", "prune"]) == 0
