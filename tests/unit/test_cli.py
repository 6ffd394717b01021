"""`mxcheck baselines …`: what it prints and what it returns."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from sample_record import build_record

from mxcheck.cli import main
from mxcheck.gate.baseline import encode, write_text
from mxcheck.gate.record import Record

FP8, BF16 = "ref-llama/fp8_e4m3-B.json", "ref-llama/bf16.json"
CHANGED = build_record(kl=0.25, perplexity=9.5)

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two baselines; no terminal and no git of the machine's own."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    put("baselines", FP8, build_record())
    put("baselines", BF16, build_record(precision="bf16", tier=None))
    return tmp_path


def put(root: str, name: str, record: Record) -> Path:
    path = Path(root) / name
    write_text(path, encode(record))
    return path


def commit() -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "baselines"]):
        subprocess.run(["git", *identity, *words], check=True, capture_output=True)


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def refused(capsys: Capture, *arguments: str) -> str:
    """The one line on stderr of a command that ends with 2 and prints nothing else."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mxcheck: ")
    assert captured.err.count("\n") == 1
    return captured.err


# list


def test_list(capsys: Capture) -> None:
    assert main(["baselines", "list"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert lines(captured.out) == [
        "baseline perplexity KL top-1 % modules noise (loss rms) accepted with",
        f"{BF16} 7.493 0.001000 98.75 2 1.0e-04 torch 2.9.0, AVX2",
        f"{FP8} 7.493 0.001000 98.75 2 1.0e-04 torch 2.9.0, AVX2",
    ]


def test_list_of_another_directory(capsys: Capture) -> None:
    put("other", FP8, CHANGED)
    assert main(["baselines", "list", "--baselines", "other"]) == 0
    assert lines(capsys.readouterr().out)[1:] == [f"{FP8} 9.500 0.250000 98.75 2 1.0e-04 torch 2.9.0, AVX2"]


def test_list_shows_what_cannot_be_read(capsys: Capture) -> None:
    Path("baselines", FP8).write_text("{")
    assert main(["baselines", "list"]) == 0
    output = capsys.readouterr().out
    assert "corrupt baseline" in output
    assert re.search(rf"^{BF16} +7\.493 ", output, re.MULTILINE)


@pytest.mark.parametrize("action", ["list", "prune", "diff"])
def test_a_directory_that_does_not_exist_is_refused(capsys: Capture, action: str) -> None:
    message = refused(capsys, "baselines", action, "--baselines", "absent")
    assert "baselines directory absent" in message
    assert "name one with --baselines" in message


# diff


@pytest.mark.parametrize(
    ("before", "after", "row"),
    [
        pytest.param("old", "baselines", "9.500 → 7.493 0.250000 → 0.001000", id="old-new"),
        pytest.param("baselines", "old", "7.493 → 9.500 0.001000 → 0.250000", id="new-old"),
    ],
)
def test_diff_of_two_directories(capsys: Capture, before: str, after: str, row: str) -> None:
    put("old", BF16, build_record(precision="bf16", tier=None))
    put("old", FP8, CHANGED)
    assert main(["baselines", "diff", before, after]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    assert lines(captured.out) == [
        "baseline what perplexity KL loss rms digests",
        f"{FP8} other {row} 0.0e+00",
    ]


def test_diff_of_equal_directories(capsys: Capture) -> None:
    assert main(["baselines", "diff", "baselines", "baselines"]) == 0
    assert capsys.readouterr().out == "no differences\n"


def test_diff_against_the_baselines_directory_that_was_named(capsys: Capture) -> None:
    put("old", FP8, build_record())
    put("new", FP8, build_record())
    assert main(["baselines", "diff", "old", "--baselines", "new"]) == 0
    assert main(["baselines", "diff", "old"]) == 1
    assert f"{BF16} added" in lines(capsys.readouterr().out)[2]


@pytest.mark.parametrize("revision", [[], ["HEAD"], ["HEAD", "baselines"]], ids=["default", "head", "both"])
def test_diff_of_a_git_revision(capsys: Capture, revision: list[str]) -> None:
    commit()
    assert main(["baselines", "diff", *revision]) == 0
    assert capsys.readouterr().out == "no differences\n"
    put("baselines", FP8, CHANGED)
    assert main(["baselines", "diff", *revision]) == 1
    assert lines(capsys.readouterr().out)[1:] == [f"{FP8} other 7.493 → 9.500 0.001000 → 0.250000 0.0e+00"]


def test_diff_of_two_revisions(capsys: Capture) -> None:
    commit()
    Path("baselines", BF16).unlink()
    put("baselines", FP8, CHANGED)
    commit()
    put("baselines", FP8, build_record())  # the working tree is not asked
    assert main(["baselines", "diff", "HEAD~1", "HEAD"]) == 1
    assert [line.split()[:2] for line in lines(capsys.readouterr().out)[1:]] == [
        [BF16, "removed"],
        [FP8, "other"],
    ]
    assert main(["baselines", "diff", "HEAD", "HEAD"]) == 0


@pytest.mark.parametrize("sides", [["absent"], ["HEAD", "absent"], ["baselines", "absent"]])
def test_diff_of_an_unknown_revision_is_refused(capsys: Capture, sides: list[str]) -> None:
    commit()
    message = refused(capsys, "baselines", "diff", *sides)
    assert (
        "'absent' is neither a directory nor a git revision with baselines at baselines: fatal: " in message
    )


def test_diff_without_a_repository_is_refused(capsys: Capture) -> None:
    assert "not a git repository" in refused(capsys, "baselines", "diff")


# prune

ORPHANS = (
    "ref-llama/fp8_e4m3-Z.json",
    "ref-llama/fp8_e4m3.json",
    "ref-llama/fp9-A@cuda-sm90.json",
    "ref-old/bf16.json",
)


@pytest.fixture
def kept() -> set[Path]:
    """Files that belong to a case, with orphans beside them."""
    for name in ORPHANS:
        put("baselines", name, build_record())
    override = put("baselines", "ref-llama/fp8_e4m3-B@cuda-sm90.json", build_record())
    tokens = Path("baselines/ref-llama/tokens.safetensors")
    tokens.write_bytes(b"tokens")
    return {override, tokens, Path("baselines", FP8), Path("baselines", BF16)}


def files() -> set[Path]:
    return {path for path in Path("baselines").rglob("*") if path.is_file()}


def test_prune_finds_nothing(capsys: Capture) -> None:
    assert main(["baselines", "prune"]) == 0
    assert capsys.readouterr() == ("", "")


def test_prune_names_orphans_and_deletes_nothing(capsys: Capture, kept: set[Path]) -> None:
    assert main(["baselines", "prune"]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"orphan: baselines/{name}" for name in ORPHANS]
    assert files() == kept | {Path("baselines", name) for name in ORPHANS}


def test_prune_deletes_orphans_only(capsys: Capture, kept: set[Path]) -> None:
    assert main(["baselines", "prune", "--delete"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [f"deleted: baselines/{name}" for name in ORPHANS]
    assert captured.err == ""
    assert files() == kept
    assert main(["baselines", "prune"]) == 0


def test_prune_deletes_an_orphan_that_cannot_be_read() -> None:
    orphan = Path("baselines/ref-llama/old.json")
    orphan.write_bytes(b"\xff")
    assert main(["baselines", "prune", "--delete"]) == 0
    assert not orphan.exists()


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


# the command itself


@pytest.mark.parametrize(
    "arguments",
    [[], ["baselines"], ["unknown"], ["baselines", "list", "--absent"]],
    ids=["nothing", "no-action", "unknown", "unknown-option"],
)
def test_bad_usage_ends_with_2(capsys: Capture, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: mxcheck" in capsys.readouterr().err
