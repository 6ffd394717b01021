"""What `mxcheck cases` and `mxcheck verify` refuse."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from baselines_project import refused
from case_programs import HEADER, answered
from verify_command import FEW, Capture, cases_file

from mxcheck.cli import main
from mxcheck.kernels.registry import implementation

pytestmark = pytest.mark.usefixtures("without_matrices")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["cases", "fp9"], "unknown format 'fp9'; allowed: "),
        (["cases", "fp8_e4m3", "flor"], "did you mean 'floor'?"),
        (["cases", "mxint8", "even"], "unknown rule of mxint8 'even'; allowed: floor, floor-away"),
        (
            ["cases", "fp8_e4m3", "--level", "exhaustive"],
            "unknown --level 'exhaustive'; allowed: quick, full",
        ),
        (["cases", "fp8_e4m3", "--dtype", "bf16"], "unknown --dtype 'bf16'"),
        (["cases", "fp8_e4m3", "--block-size", "x"], "--block-size is a whole number, got 'x'"),
        (["cases", "fp8_e4m3", "--block-size", "8,16"], "--block-size is one size, or several of 16, 32"),
        (["cases", "nvfp4", "--block-size", "16"], "nvfp4 has one block size; leave --block-size out"),
        (["cases", "fp8_e4m3", "--axis", "7"], "unknown --axis '7'; allowed: -1, 0, 1"),
        (["cases", "fp8_e4m3", "--least-rows", "0"], "least_rows of a Domain must be an integer from 1"),
        (["verify", "a.bin"], "verify takes a file of cases and a file of results, or --command"),
        (["verify", "no.bin", "r.bin"], "no.bin: No such file or directory"),
        (["verify", "c.bin", "r.bin", "--level", "full", "--time-limit", "2"], "--level, --time-limit goes"),
        (["verify", "c.bin", "r.bin", "--run-limit", "2"], "--run-limit goes with --command"),
        (["verify", "--command", "", "fp8_e4m3"], "the command is empty; give a program and its arguments"),
        (["verify", "--command", "a 'b", "fp8_e4m3"], "cannot be read: No closing quotation"),
        (
            ["verify", "--command", "./none", "fp8_e4m3", *FEW],
            "the command './none' cannot be started: No such",
        ),
        (["verify", "--command", "/", "fp8_e4m3", *FEW], "cannot be started: Permission denied"),
        (
            ["verify", "--command", "a", "fp8_e4m3", "--time-limit", "0"],
            "--time-limit is a number of seconds",
        ),
        (
            ["verify", "--command", "a", "fp8_e4m3", "--run-limit", "nan"],
            "--run-limit is a number of seconds above 0, got nan",
        ),
        (["identify", "command:"], "the command is empty"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_bad_input_is_one_line_and_2(words: list[str], why: str, capsys: Capture) -> None:
    assert why in refused(capsys, *words)


def test_files_that_are_refused(capsys: Capture, tmp_path: Path) -> None:
    """In one line that names the file."""
    cases, results = cases_file(tmp_path, "fp8_e4m3", *FEW), tmp_path / "r.bin"
    results.write_bytes(answered(cases.read_bytes())[:-3])
    assert f"mxcheck: {results}: it is truncated: " in refused(capsys, "verify", str(cases), str(results))
    assert "it is no regular file" in refused(capsys, "verify", str(cases), str(tmp_path))
    assert "r.bin: it begins with b'MXRESULT" in refused(capsys, "verify", str(results), str(cases))
    cases.write_bytes(cases.read_bytes()[: HEADER + 3])
    assert "it is truncated: its header says " in refused(capsys, "verify", str(cases), str(results))


def test_a_program_is_no_kernel_of_a_suite() -> None:
    """What is called thousands of times is no program: the line says what holds one."""
    with pytest.raises(ValueError, match="is a program, which `mxcheck verify --command` holds"):
        implementation("command:./a")


def test_cases_are_no_text(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["cases", "fp8_e4m3"]) == 2
    assert "cases are bytes, which a terminal cannot show; add > cases.bin" in capsys.readouterr().err
