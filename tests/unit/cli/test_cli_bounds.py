"""`mxcheck bounds`: what accepted cases cost beside what they may, and what it returns."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from sample_record import build_record

from mxcheck.cli import main
from mxcheck.files.write import write_text
from mxcheck.gate.baseline import encode

CASE = build_record(model="my-model")  # KL 0.001


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_text(Path("baselines/my-model/mxfp8_e4m3-B.json"), encode(CASE))
    return tmp_path


def bounds(text: str) -> None:
    write_text(Path("baselines/my-model/bounds.toml"), text)


def last_line(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()[-1].split()


@pytest.mark.parametrize(
    ("kl", "code", "used"), [("0.002", 0, "50%"), ("0.0005", 1, "200%"), ("0.001", 0, "100%")]
)
def test_a_case_and_its_bound(capsys: pytest.CaptureFixture[str], kl: str, code: int, used: str) -> None:
    bounds(f"mxfp8_e4m3-B = {{ kl = {kl}, rise = 0.01 }}\n")
    assert main(["bounds", "my-model"]) == code
    whose = "baselines/my-model/bounds.toml"
    assert last_line(capsys) == ["mxfp8_e4m3-B", "0.001000", kl, used, "0.002", whose]


def test_a_rise_over_its_bound_is_red_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The same KL, and losses that rise by 0.5 nats, as on text that is not the model's own."""
    risen = build_record(model="my-model", sequence_losses=[one + 0.5 for one in CASE.sequence_losses])
    write_text(Path("baselines/my-model/mxfp8_e4m3-B.json"), encode(risen))
    bounds("mxfp8_e4m3-B = { kl = 0.002 }\n")
    assert main(["bounds", "my-model"]) == 1
    assert "mxcheck: mxfp8_e4m3-B: rise of the cross-entropy" in capsys.readouterr().err


def test_a_case_without_bounds_is_red(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bounds", "my-model"]) == 1
    _, row, *lines = capsys.readouterr().out.splitlines()
    assert row.split() == ["mxfp8_e4m3-B", "0.001000", "none", "0.002"]
    assert tomllib.loads("\n".join(lines)) == {"mxfp8_e4m3-B": {"kl": 0.002}}


def test_a_file_that_cannot_be_read_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    bounds("mxfp8_e4m3-B = { kl = 1 }\n")
    Path("baselines/my-model/bf16.json").write_text("{")
    assert main(["bounds", "my-model"]) == 1
    captured = capsys.readouterr()
    assert "bf16.json: unreadable" in captured.out
    assert captured.err.startswith("mxcheck: corrupt baseline baselines/my-model/bf16.json: not JSON")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("other", "baselines directory baselines/other does not exist"),
        ("empty", "no baseline in baselines/empty; accept the model's cases first: pytest --pyargs"),
    ],
)
def test_a_model_without_baselines_is_refused(
    capsys: pytest.CaptureFixture[str], model: str, words: str
) -> None:
    Path("baselines/empty").mkdir()
    assert main(["bounds", model]) == 2
    assert words in capsys.readouterr().err
