"""`mxcheck cases` and `mxcheck verify`: right and wrong programs in C and Rust, and what else programs do."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest
from case_programs import FAULTS, HEADER, SOURCES, answered, compile_c, compiled_c, compiled_rust

from mxcheck.cli import main
from mxcheck.conformance import answers
from mxcheck.kernels.registry import implementation

Capture = pytest.CaptureFixture[str]
#: Few inputs, for programs that fail whatever they are given.
FEW = ("--dtype", "float16", "--block-size", "32")


@pytest.fixture(scope="module")
def c_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("c")
    return cache(lambda *defines: compiled_c(folder, *defines))


@pytest.fixture(scope="module")
def rust_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled_rust(tmp_path_factory.mktemp("rust"))


def verified(capsys: Capture, *words: str, code: int) -> tuple[str, str]:
    """What it prints, and what to the standard error."""
    assert main(["verify", *words]) == code
    output = capsys.readouterr()
    return output.out, output.err


def refused(capsys: Capture, *words: str) -> str:
    """The one line of bad input."""
    assert main(list(words)) == 2
    output = capsys.readouterr()
    assert not output.out
    assert output.err.startswith("mxcheck: ")
    assert output.err.count("\n") == 1
    return output.err


def cases_file(folder: Path, *words: str) -> Path:
    """Written by the command itself."""
    path = folder / "cases.bin"
    with path.open("w") as file, redirect_stdout(file):
        assert main(["cases", *words]) == 0
    return path


def script(folder: Path, *lines: str) -> str:
    """The command line of a program in Python."""
    path = folder / "program.py"
    path.write_text("\n".join(["import sys, time", *lines]))
    return shlex.join([sys.executable, "-S", str(path)])


# C and Rust


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp4_e2m1"])
def test_a_right_c_program_is_exact(
    name: str, c_program: Callable[..., Path], capsys: Capture, tmp_path: Path
) -> None:
    """Asked, and by files; along other axes too."""
    program = c_program()
    told, error = verified(capsys, "--command", str(program), name, "--axis=-1,0,1", code=0)
    assert told.startswith(f"mxcheck: {program}, {name}-floor: exact (quick, 24,")
    assert told.count("\n") == 1
    assert not error
    cases, results = cases_file(tmp_path, name, "floor"), tmp_path / "results.bin"
    with cases.open("rb") as given, results.open("wb") as file:
        subprocess.run([program], stdin=given, stdout=file, check=True)
    told, error = verified(capsys, str(cases), str(results), code=0)
    assert told.startswith(f"mxcheck: {results}, {name}-floor: exact (quick, ")
    assert not error


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
    assert "fp8_e4m3-floor: exact (quick, " in told
    told, _ = verified(capsys, "--command", str(program), "fp8_e4m3", "ceil", *FEW, code=1)
    assert "elements): fp8_e4m3 with floor only\n" in told


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
    assert any("differs from the oracle (quick, " in line for line in lines)
    if likeness:
        assert lines[0] == f"mxcheck: {program} looks like {likeness}"
    command = next(line for line in lines if line.startswith("  reproduce: ")).removeprefix("  reproduce: ")
    words = shlex.split(command)
    assert words[-2:] == ["--kernel", f"command:{program}"]
    assert main(words[1:]) == 1
    assert " differ\n" in capsys.readouterr().out


def test_two_causes_are_two_examples(c_program: Callable[..., Path], capsys: Capture) -> None:
    program = c_program("TIES_AWAY", "NO_NEGATIVE_ZERO")
    told, _ = verified(capsys, "--command", str(program), "mxfp4", "--dtype", "float32", code=1)
    assert "causes: 2 wrong\n" in told
    titles = [line.split(",")[0] for line in told.splitlines() if ": smallest input, " in line]
    assert titles == ["code (tie)", "zero sign (negative)"]


def test_results_of_a_file_are_cut_out(
    c_program: Callable[..., Path], capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to ask again; from the standard input too."""
    cases = cases_file(tmp_path, "fp4_e2m1", "--dtype", "bfloat16", "--block-size", "16")
    with cases.open("rb") as given:
        results = subprocess.run([c_program("CEIL")], stdin=given, capture_output=True, check=True).stdout
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(results)))
    told, _ = verified(capsys, str(cases), "-", code=1)
    lines = told.splitlines()
    assert lines[0].startswith("mxcheck: the standard input, fp4_e2m1-floor: differs from the oracle (quick")
    assert "causes: 1 wrong" in lines
    assert any(": cut out of the input, a single block of 16 bfloat16" in line for line in lines)
    command = next(line for line in lines if line.startswith("  reproduce: "))
    assert "--kernel" not in command
    assert main(shlex.split(command)[2:]) == 0
    assert lines[-1].startswith("cut out of the cases as they are; mxcheck verify --command './my_cast'")


def test_a_crash_is_asked_again(c_program: Callable[..., Path], capsys: Capture) -> None:
    """The case that ends it is found, and the others are compared."""
    told, error = verified(
        capsys, "--command", str(c_program("CRASHES")), "fp8_e4m3", "--dtype", "float32", code=1
    )
    assert " failed: it was ended by SIGABRT after " in error
    assert error.count("\n") == 1
    assert "long: 1 x error" in told
    assert "error (several blocks), 3 times: smallest input, a tensor of shape (1, 4113)" in told
    assert "  ProgramError: it was ended by SIGABRT\n" in told


def test_a_right_rust_program_of_its_own_domain(rust_program: Path, capsys: Capture) -> None:
    """What it refuses is told. Narrowed to what it does nothing is; narrowed to what it refuses it is red."""
    command = ["--command", str(rust_program), "fp8_e4m3", "rceil", "--block-size", "32"]
    told, error = verified(capsys, *command, "--dtype", "float32,bfloat16", code=0)
    assert told.startswith(f"mxcheck: {rust_program}, fp8_e4m3-rceil: exact (quick, ")
    assert told.count("\n") == 1
    told, error = verified(capsys, *command, "--dtype", "bfloat16,float16", code=0)
    assert f"mxcheck: {rust_program} does not do " in told
    assert "fp8_e4m3 with rceil of float32 and bfloat16 only\n" in told
    told, error = verified(capsys, *command, "--dtype", "float16", code=1)
    assert told.endswith(f"mxcheck: {rust_program}, fp8_e4m3-rceil: nothing was compared (quick)\n")
    assert not error


def test_a_wrong_rust_program_is_red(rust_program: Path, capsys: Capture) -> None:
    program = f"{rust_program} --truncate"
    words = ["--dtype", "bfloat16", "--block-size", "16"]
    told, _ = verified(capsys, "--command", program, "fp8_e4m3", "rceil", *words, code=1)
    assert told.startswith(f"mxcheck: {program} looks like `rceil` with truncation\n")
    assert f"--kernel 'command:{program}'\n" in told


# what else a program does


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("pass", "what it wrote: it is empty, and is no results"),
        ("print('4 blocks')", "what it wrote: it begins with b'4 blocks\\n', and is no results"),
        ("sys.exit(3)", "it ended with exit status 3"),
        (
            "sys.exit('no \x1b[2J card')",
            "it ended with exit status 1 after 0 of 133 answers; on stderr: no \\x1b[2J card",
        ),
        ("sys.stdin.close()", "what it wrote: it is empty, and is no results"),
        ("sys.stdout.buffer.write(sys.stdin.buffer.read())", "what it wrote: it begins with b'MXCASES\\n"),
    ],
)
def test_a_program_that_gives_no_results(line: str, why: str, capsys: Capture, tmp_path: Path) -> None:
    """One line, and nothing was compared."""
    told, error = verified(capsys, "--command", script(tmp_path, line), "fp8_e4m3", *FEW, code=1)
    assert told.endswith(", fp8_e4m3-floor: nothing was compared (quick)\n")
    assert told.count("\n") == 1
    assert f" failed: {why}" in error
    assert error.count("\n") == 1
    assert error.strip().isprintable()


def test_a_program_that_hangs(capsys: Capture, tmp_path: Path) -> None:
    """It is ended once, and what it has started with it."""
    command = script(
        tmp_path,
        "import subprocess",
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])",
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))",
        "time.sleep(60)",
    )
    began = time.monotonic()
    told, error = verified(capsys, "--command", command, "fp8_e4m3", *FEW, "--time-limit", "1", code=1)
    assert time.monotonic() - began < 30
    assert " failed: it was ended: it wrote nothing for 1 s (see --time-limit) after 0 of " in error
    assert "nothing was compared" in told
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 10
    while _is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(child)


def _is_alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_program_that_writes_without_end(capsys: Capture, tmp_path: Path) -> None:
    command = script(tmp_path, "while True: sys.stdout.buffer.write(b'MXRESULT' * 10000)")
    _, error = verified(capsys, "--command", command, "fp8_e4m3", *FEW, code=1)
    assert " failed: it was ended: it wrote more than " in error


@pytest.mark.parametrize(
    ("more", "code", "why"),
    [
        ("sys.exit(4)", 1, " failed: it ended with exit status 4\n"),
        ("print('done')", 1, "it goes on after the last of "),
        ("print('warm', file=sys.stderr)", 0, " wrote on stderr: warm\n"),
    ],
)
def test_a_program_that_does_more(
    more: str, code: int, why: str, c_program: Callable[..., Path], capsys: Capture, tmp_path: Path
) -> None:
    """After right results. A word on stderr is told, and no fault."""
    command = script(
        tmp_path, "import subprocess", f"subprocess.run([{str(c_program())!r}], check=True)", more
    )
    told, error = verified(capsys, "--command", command, "fp8_e4m3", *FEW, code=code)
    assert why in error
    assert error.count("\n") == 1
    assert told.count("\n") == 1
    assert ("exact" if code == 0 else "no bit differs in what it gave") in told


def test_what_only_other_cases_show(c_program: Callable[..., Path], capsys: Capture, tmp_path: Path) -> None:
    """A program that spoils a case which is not its first one is right when it is asked for it alone."""
    command = script(
        tmp_path,
        "import subprocess",
        "given = sys.stdin.buffer.read()",
        f"done = subprocess.run([{str(c_program())!r}], input=given, stdout=subprocess.PIPE, check=True)",
        "results = bytearray(done.stdout)",
        "results[-1] ^= given[48] > 1",
        "sys.stdout.buffer.write(results)",
    )
    told, error = verified(capsys, "--command", command, "fp8_e4m3", *FEW, code=1)
    assert "scale: cut out of the input, " in told
    assert ", answered together with others; asked alone it gives the expected bits\n" in told
    assert "no one-line reproduction" in told
    assert not error


def test_shrinking_ends(
    c_program: Callable[..., Path], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time an example is told as it is by then."""
    monkeypatch.setattr(answers, "_SHRINKING", 0.0)
    told, _ = verified(capsys, "--command", str(c_program("TIES_AWAY")), "fp8_e4m3", *FEW, code=1)
    assert "; not shrunk for longer than 0 s\n" in told
    assert "code (tie" in told


# bad input


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
