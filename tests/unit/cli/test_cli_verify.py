"""`mxcheck verify`: right and wrong programs in C and Rust."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from case_programs import FAULTS, SOURCES, answered, compile_c
from torch import Tensor
from verify_command import FEW, Capture, cases_file, verified

from mxcheck.cli import main
from mxcheck.formats.aliases import precision_of
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.eager import fake_quantize_eager

pytestmark = pytest.mark.slow

few = pytest.mark.usefixtures("without_matrices")


def test_a_right_c_program_is_exact(c_program: Callable[..., Path], capsys: Capture) -> None:
    """On all inputs, along other axes too."""
    told, error = verified(capsys, "--command", str(c_program()), "fp8_e4m3", "--axis=-1,0,1", code=0)
    assert told.startswith(f"mxcheck: {c_program()}, mxfp8_e4m3-floor: exact (quick, 24,")
    assert told.count("\n") == 1
    assert not error


@few
@pytest.mark.parametrize("name", ["fp8_e4m3", "fp4_e2m1"])
def test_a_right_c_program_by_files(
    name: str, c_program: Callable[..., Path], capsys: Capture, tmp_path: Path
) -> None:
    program = c_program()
    cases, results = cases_file(tmp_path, name, "floor", "--axis=-1,0,1"), tmp_path / "results.bin"
    with cases.open("rb") as given, results.open("wb") as file:
        subprocess.run([program], stdin=given, stdout=file, check=True)
    told, error = verified(capsys, str(cases), str(results), code=0)
    assert told.startswith(f"mxcheck: {results}, {precision_of(name)}-floor: exact (quick, ")
    assert not error


@few
def test_last_bits_are_not_wrong(capsys: Capture, tmp_path: Path) -> None:
    """Of values under scales with a significand; they are counted."""

    def off_by_one(x: Tensor, spec: CastSpec) -> Tensor:
        values = fake_quantize_eager(x, spec)
        return torch.where(values.isfinite() & (values != 0), values.nextafter(torch.zeros(())), values)

    cases, results = cases_file(tmp_path, "nvfp4", "--dtype", "float32"), tmp_path / "results.bin"
    results.write_bytes(answered(cases.read_bytes(), off_by_one, values=True))
    told, _ = verified(capsys, str(cases), str(results), code=0)
    verdict = r"last bit: [\d,]+ values differ in it, which is not wrong \(quick, [\d,]+ elements of"
    assert re.search(rf", nvfp4-amax: {verdict} \d+ cases\)\n$", told)


@few
def test_the_program_of_the_docs(capsys: Capture, tmp_path: Path) -> None:
    """With a cast to go with it, it is exact; what it does not do it refuses."""
    page = (Path(__file__).parents[3] / "docs" / "cases.md").read_text("utf-8")
    loop = page.partition("```c\n")[2].partition("```")[0]
    cast = (SOURCES / "mx_cast.c").read_text().partition("static void take")[0]
    (tmp_path / "mine.c").write_text(
        cast + loop.replace("uint8_t cast_block(", "static uint8_t cast_block(", 1)
    )
    program = compile_c(tmp_path / "mine.c", tmp_path / "mine")
    told, _ = verified(capsys, "--command", str(program), "fp8_e4m3", "--axis=-1,0,1", *FEW[:2], code=0)
    assert "mxfp8_e4m3-floor: exact (quick, " in told
    told, _ = verified(capsys, "--command", str(program), "fp8_e4m3", "ceil", *FEW, code=1)
    assert "elements): fp8_e4m3 with floor only\n" in told


@few
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_c_program_is_red(fault: str, c_program: Callable[..., Path], capsys: Capture) -> None:
    """With the smallest input of its cause, and a command that shows it."""
    program = c_program(fault)
    title, narrowed, likeness = FAULTS[fault]
    told, error = verified(capsys, "--command", str(program), "fp8_e4m3", "floor", *narrowed, code=1)
    assert not error
    lines = told.splitlines()
    titles = [line for line in lines if ": smallest input, " in line]
    assert titles[0].startswith(title)
    at = next(number for number, line in enumerate(lines) if "differs from the oracle (quick, " in line)
    assert at == bool(likeness)
    assert "; causes: 1 wrong" in lines[at]
    assert lines[at + 1] == titles[0]  # the cause, before the groups that show it
    heading = lines.index("mismatches by group of inputs:")
    tallies = lines[heading + 1 :]
    assert 1 <= len(tallies) <= 6
    assert all(re.fullmatch(r"  (?:\w+(?: \w+)*): \d{1,3}(?:,\d{3})* x .*", line) for line in tallies)
    if likeness:
        assert lines[0] == f"mxcheck: {program} looks like scale rule {likeness}"
    command = next(line for line in lines if line.startswith("  reproduce: ")).removeprefix("  reproduce: ")
    words = shlex.split(command)
    assert words[-2:] == ["--kernel", f"command:{program}"]
    assert main(words[1:]) == 1
    assert " differ\n" in capsys.readouterr().out


@few
def test_two_causes_are_two_examples(c_program: Callable[..., Path], capsys: Capture) -> None:
    program = c_program("TIES_AWAY", "NO_NEGATIVE_ZERO")
    told, _ = verified(capsys, "--command", str(program), "mxfp4", "--dtype", "float32", code=1)
    assert "; causes: 2 wrong\n" in told
    titles = [line.split(",")[0] for line in told.splitlines() if ": smallest input, " in line]
    assert titles == ["code (tie)", "zero sign (negative)"]


def test_results_of_a_file_are_cut_out(
    c_program: Callable[..., Path], capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to ask again; from the standard input too. (Of all inputs: that the rows and blocks of
    some do not matter is seen in others.)"""
    cases = cases_file(tmp_path, "fp4_e2m1", "--dtype", "bfloat16", "--block-size", "16")
    with cases.open("rb") as given:
        results = subprocess.run([c_program("CEIL")], stdin=given, capture_output=True, check=True).stdout
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(results)))
    told, _ = verified(capsys, str(cases), "-", code=1)
    lines = told.splitlines()
    assert lines[0].startswith(
        "mxcheck: the standard input, mxfp4_e2m1-floor: differs from the oracle (quick"
    )
    assert lines[0].endswith("; causes: 1 wrong")
    assert any(": cut out of the input, a single block of 16 bfloat16" in line for line in lines)
    command = next(line for line in lines if line.startswith("  reproduce: "))
    assert "--kernel" not in command
    assert main(shlex.split(command)[2:]) == 0
    assert (
        "cut out of the cases as they are; mxcheck verify --command './my_cast' fp4_e2m1 floor "
        "--dtype=bfloat16 --block-size=16 --axis=-1 asks again for smaller ones"
    ) in lines


@few
def test_a_crash_is_asked_again(c_program: Callable[..., Path], capsys: Capture) -> None:
    """The case that ends it is found, and the others are compared."""
    told, error = verified(
        capsys, "--command", str(c_program("CRASHES")), "fp8_e4m3", "--dtype", "float32", code=1
    )
    assert " failed: it was ended by SIGABRT after " in error
    assert error.count("\n") == 1
    assert "long: 1 x error" in told
    assert "error (more than 8 blocks in a row): smallest input, a tensor of shape (1, 4113)" in told
    assert "  ProgramError: it was ended by SIGABRT\n" in told


@few
def test_a_right_rust_program_of_its_own_domain(rust_program: Path, capsys: Capture) -> None:
    """What it refuses is told. Narrowed to what it does nothing is; narrowed to what it refuses it is red."""
    command = ["--command", str(rust_program), "fp8_e4m3", "rceil", "--block-size", "32"]
    told, error = verified(capsys, *command, "--dtype", "float32,bfloat16", code=0)
    assert told.startswith(f"mxcheck: {rust_program}, mxfp8_e4m3-rceil: exact (quick, ")
    assert told.count("\n") == 1
    told, error = verified(capsys, *command, "--dtype", "bfloat16,float16", code=0)
    why = "fp8_e4m3 with rceil of float32 and bfloat16 only"
    refusal, verdict = told.splitlines()
    assert re.fullmatch(rf"mxcheck: .* does not do \d+ cases \(([\d,]+) elements\): {why}", refusal)
    counted = re.fullmatch(
        r"mxcheck: .*, mxfp8_e4m3-rceil: exact\* \(quick, ([\d,]+) elements of (\d+) of (\d+) cases; "
        r"([\d,]+) elements were refused and not compared\)",
        verdict,
    )
    assert counted
    assert counted[4] in refusal
    assert int(counted[2]) < int(counted[3])
    told, error = verified(capsys, *command, "--dtype", "float16", code=1)
    red = f"mxcheck: red: no result of {rust_program} was compared; its first refusal: {why}"
    assert told.splitlines()[1:] == [f"{red} (mxfp8_e4m3-rceil, quick)"]
    assert not error


@few
def test_a_wrong_rust_program_is_red(rust_program: Path, capsys: Capture) -> None:
    program = f"{rust_program} --truncate"
    words = ["--dtype", "bfloat16", "--block-size", "16"]
    told, _ = verified(capsys, "--command", program, "fp8_e4m3", "rceil", *words, code=1)
    assert told.startswith(f"mxcheck: {program} looks like scale rule `rceil` with truncation\n")
    assert f"--kernel 'command:{program}'\n" in told
