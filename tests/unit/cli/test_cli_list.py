"""`mxcheck baselines list`, and the folder that each of its kin is given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from baselines_project import BF16, CHANGED, FP8, Capture, commit, lines, put, refused

from mxcheck.cli import main


def test_list(capsys: Capture) -> None:
    assert main(["baselines", "list"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert lines(captured.out) == [
        "baseline perplexity KL top-1 % modules noise (loss rms) accepted with",
        f"{BF16} 7.493 0.001000 98.75 2 1.0e-04 torch 2.9.0, AVX2",
        f"{FP8} 7.493 0.001000 98.75 2 1.0e-04 torch 2.9.0, AVX2",
    ]


def test_list_and_diff_look_at_records_alone(capsys: Capture) -> None:
    """What a model's layers start from lies beside them."""
    assert main(["baselines", "list"]) == 0
    before = capsys.readouterr().out
    commit()
    Path("baselines/ref-llama/states-0a1b2c3d.safetensors").write_bytes(b"states")
    assert main(["baselines", "list"]) == 0
    assert capsys.readouterr().out == before
    assert main(["baselines", "diff", "HEAD"]) == 0
    assert capsys.readouterr().out == "no differences\n"


def test_list_of_another_directory(capsys: Capture) -> None:
    put("other", FP8, CHANGED)
    assert main(["baselines", "list", "--baselines", "other"]) == 0
    assert lines(capsys.readouterr().out)[1:] == [f"{FP8} 9.488 0.250000 98.75 2 1.0e-04 torch 2.9.0, AVX2"]


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
