"""`mxcheck baselines diff`: of folders and of git revisions."""

from __future__ import annotations

from pathlib import Path

import pytest
from baselines_project import BF16, CHANGED, FP8, Capture, commit, lines, put, refused
from sample_record import build_record

from mxcheck.cli import main


@pytest.mark.parametrize(
    ("before", "after", "row"),
    [
        pytest.param("old", "baselines", "9.488 → 7.493 0.250000 → 0.001000", id="old-new"),
        pytest.param("baselines", "old", "7.493 → 9.488 0.001000 → 0.250000", id="new-old"),
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
        f"{FP8} figures {row} 2.5e-01",
    ]


def test_diff_of_equal_directories(capsys: Capture) -> None:
    assert main(["baselines", "diff", "baselines", "baselines"]) == 0
    assert capsys.readouterr().out == "no differences\n"


def test_a_former_name_is_no_difference_unless_a_file_of_today_s_is_beside_it(capsys: Capture) -> None:
    former = FP8.replace("mxfp8_e4m3", "fp8_e4m3")
    assert former != FP8
    put("old", former, build_record())
    put("new", FP8, build_record())
    assert main(["baselines", "diff", "old", "new"]) == 0
    put("old", FP8, build_record())
    assert main(["baselines", "diff", "old", "new"]) == 1
    assert lines(capsys.readouterr().out)[-1].startswith(f"{former} removed")


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
    assert lines(capsys.readouterr().out)[1:] == [f"{FP8} figures 7.493 → 9.488 0.001000 → 0.250000 2.5e-01"]


def test_diff_of_two_revisions(capsys: Capture) -> None:
    commit()
    Path("baselines", BF16).unlink()
    put("baselines", FP8, CHANGED)
    commit()
    put("baselines", FP8, build_record())  # the working tree is not asked
    assert main(["baselines", "diff", "HEAD~1", "HEAD"]) == 1
    assert [line.split()[:2] for line in lines(capsys.readouterr().out)[1:]] == [
        [BF16, "removed"],
        [FP8, "figures"],
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


@pytest.mark.parametrize("word", ["--output=precious", "--remote=elsewhere", "-o"])
def test_a_revision_is_no_option_of_git(word: str, capsys: Capture) -> None:
    """Such a name may come from a variable of CI. `git archive --output=FILE` would empty the file."""
    Path("precious").write_text("precious")
    assert main(["baselines", "diff", "--", word]) == 2
    assert Path("precious").read_text() == "precious"
    assert f"{word!r} is neither a directory nor a git revision" in capsys.readouterr().err
