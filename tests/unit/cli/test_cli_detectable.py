"""`mxcheck baselines detectable`: what it prints and what it returns."""

from __future__ import annotations

from pathlib import Path

import pytest
from sample_record import build_record

from mxcheck.cli import main
from mxcheck.files.write import write_text
from mxcheck.gate.baseline import encode

FP8 = "ref-llama/mxfp8_e4m3-B.json"

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with one baseline; no terminal."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    write_text(Path("baselines", FP8), encode(build_record()))


def row(capsys: Capture) -> list[str]:
    captured = capsys.readouterr()
    assert captured.err == ""
    (found,) = (line.split() for line in captured.out.splitlines() if line.startswith(FP8))
    return found


def test_detectable(capsys: Capture) -> None:
    assert main(["baselines", "detectable"]) == 0
    found = row(capsys)
    assert found[:7] == [FP8, "4", "1000000000", "2.2e-04", "7.2e-04", "0.0725", "22.3"]
    assert len(found) == 13


@pytest.mark.parametrize("option", ["--mx-bounds", "--mx-budgets"], ids=["name", "former-name"])
def test_bounds_of_ones_own(capsys: Capture, option: str) -> None:
    Path("mine.toml").write_text("[models.ref-llama]\nfp8_e4m3-B = { kl = 0.501 }\n")
    assert main(["baselines", "detectable", option, "mine.toml"]) == 0
    assert row(capsys)[-1] == "5.0e-01"


def test_a_recipe_of_ones_own_is_known(capsys: Capture) -> None:
    write_text(Path("baselines", FP8), encode(build_record(precision="w4a8", tier=None)))
    Path("pyproject.toml").write_text('[tool.mxcheck.recipes.w4a8]\nmlp = { weights = "fp4_e2m1" }\n')
    Path("mine.toml").write_text("[default]\nw4a8 = { kl = 0.101 }\n")
    assert main(["baselines", "detectable", "--mx-bounds", "mine.toml"]) == 0
    assert row(capsys)[-1] == "1.0e-01"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--baselines", "absent"], "baselines directory absent does not exist", id="directory"),
        pytest.param(["--mx-bounds", "absent.toml"], "bounds file absent.toml", id="bounds"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(capsys: Capture, arguments: list[str], words: str) -> None:
    assert main(["baselines", "detectable", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"mxcheck: {words}")
    assert captured.err.count("\n") == 1


def test_a_case_without_bounds_is_refused_in_one_line(capsys: Capture) -> None:
    write_text(Path("baselines", FP8), encode(build_record(precision="unheard_of", tier=None)))
    assert main(["baselines", "detectable"]) == 2
    assert "no bounds for unheard_of of ref-llama" in capsys.readouterr().err
