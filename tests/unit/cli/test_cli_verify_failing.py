"""`mxcheck verify` of programs that give no results, or not only these, or do not end."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from verify_command import FEW, Capture, script, verified

from mxcheck.conformance.programs import answers
from mxcheck.conformance.programs.program import ProgramError, _listen, program
from mxcheck.formats.spec import CastSpec

pytestmark = pytest.mark.usefixtures("without_matrices")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("pass", "what it wrote: it is empty, and is no results"),
        ("print('4 blocks')", "what it wrote: it begins with b'4 blocks\\n', and is no results"),
        ("sys.exit(3)", "it ended with exit status 3"),
        (
            "sys.exit('no \x1b[2J card')",
            "it ended with exit status 1 after 0 of 14 answers; on stderr: no \\x1b[2J card",
        ),
        ("sys.stdin.close()", "what it wrote: it is empty, and is no results"),
        ("sys.stdout.buffer.write(sys.stdin.buffer.read())", "what it wrote: it begins with b'MXCASES\\n"),
    ],
)
def test_a_program_that_gives_no_results(line: str, why: str, capsys: Capture, tmp_path: Path) -> None:
    """One line, and nothing was compared."""
    told, error = verified(capsys, "--command", script(tmp_path, line), "fp8_e4m3", *FEW, code=1)
    assert told.endswith(" was compared (mxfp8_e4m3-floor, quick)\n")
    assert told.startswith("mxcheck: red: no result of ")
    assert told.count("\n") == 1
    assert f" failed: {why}" in error
    assert error.count("\n") == 1
    assert error.strip().isprintable()


#: A program that starts another one, which says its number, and then does something.
CHILD = (
    "import subprocess",
    "child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(600)'])",
    "open('child.new', 'w').write(str(child.pid))",
    "import os; os.rename('child.new', 'child')",
)


def assert_child_ends() -> None:
    """And not because nobody has started it."""
    child = int(Path("child").read_text())
    deadline = time.monotonic() + 10
    while _is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_alive(child)


def _is_alive(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    ("does", "options", "why"),
    [
        pytest.param(
            "time.sleep(600)", ["--time-limit=1"], "it wrote nothing for 1 s (`verify` has", id="hangs"
        ),
        pytest.param(
            "while True: sys.stdout.write('M'); sys.stdout.flush(); time.sleep(0.05)",
            ["--run-limit=1"],
            "it had not finished after 1 s (`verify` has --run-limit)",
            id="drips",
        ),
        pytest.param(
            "while True: sys.stdout.buffer.write(b'MXRESULT' * 10000)",
            [],
            "it wrote more than ",
            id="writes-without-end",
        ),
    ],
)
def test_a_program_that_does_not_end(
    does: str, options: list[str], why: str, capsys: Capture, tmp_path: Path
) -> None:
    """It is ended once, and what it has started with it."""
    command = script(tmp_path, *CHILD, does)
    told, error = verified(capsys, "--command", command, "fp8_e4m3", *FEW, *options, code=1)
    assert f" failed: it was ended: {why}" in error
    assert error.count("\n") == 1
    assert told.startswith("mxcheck: red: no result of ")
    assert_child_ends()


def test_a_program_that_drips_when_it_is_asked_for_one_case(tmp_path: Path) -> None:
    """As `explain` and `identify` ask it, and `verify` for a smaller input."""
    drips = script(tmp_path, "while True: sys.stdout.write('M'); sys.stdout.flush(); time.sleep(0.05)")
    with pytest.raises(ProgramError, match=r"it had not finished after 0.5 s .* --time-limit for a case"):
        program(drips, time_limit=0.5)(torch.ones(1, 32), CastSpec(format="fp8_e4m3"))


def test_a_child_that_a_program_leaves_behind(capsys: Capture, tmp_path: Path) -> None:
    verified(capsys, "--command", script(tmp_path, *CHILD, "sys.exit(3)"), "fp8_e4m3", *FEW, code=1)
    assert_child_ends()


def _heed_signals() -> None:
    """A run in the background may ignore Ctrl-C, and its children inherit that."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_ends_the_program_too(number: int, code: int, tmp_path: Path) -> None:
    """And what was written for it is removed."""
    command = script(tmp_path, *CHILD, "time.sleep(600)")
    (folder := tmp_path / "temporary").mkdir()
    asked = subprocess.Popen(
        [sys.executable, "-m", "mxcheck", "verify", "--command", command, "fp8_e4m3", *FEW],
        env={**os.environ, "TMPDIR": str(folder)},
        stderr=subprocess.PIPE,
        preexec_fn=_heed_signals,
    )
    with asked:
        while not Path("child").exists():
            assert asked.poll() is None
            time.sleep(0.02)
        assert any(folder.iterdir())
        asked.send_signal(number)
        _, said = asked.communicate(timeout=60)
    assert asked.returncode == code
    assert not said or number == signal.SIGINT
    assert not any(folder.iterdir())
    assert_child_ends()


def test_what_is_kept_of_the_standard_error(
    c_program: Callable[..., Path], capsys: Capture, tmp_path: Path
) -> None:
    """The first line; a program that says more than a pipe holds neither waits nor fills the memory."""
    command = script(
        tmp_path,
        "import subprocess",
        "for _ in range(1000): sys.stderr.write('warm' * 1000)",
        f"subprocess.run([{str(c_program())!r}], check=True)",
    )
    told, error = verified(capsys, "--command", command, "fp8_e4m3", *FEW, code=0)
    assert ": exact (quick, " in told
    assert error.count("warm") < 100
    kept = bytearray()
    _listen(io.BytesIO(b"warm" * 100_000), kept)
    assert len(kept) == 4096


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


def test_asking_one_by_one_ends(c_program: Callable[..., Path], capsys: Capture, tmp_path: Path) -> None:
    """After a crash, when the time for all cases is over; what was answered by then is told."""
    command = script(
        tmp_path,
        "import subprocess",
        "given = sys.stdin.buffer.read()",
        "if given[48] > 1: sys.exit(3)",
        "time.sleep(0.4)",
        f"subprocess.run([{str(c_program())!r}], input=given, check=True)",
    )
    words = ["--command", command, "fp8_e4m3", *FEW, "--run-limit=1"]
    told, error = verified(capsys, *words, code=1)
    assert " after 0 of 14 answers; the cases that are left were asked until 1 s were over\n" in error
    assert ": no bit differs in what it gave (quick, " in told
    assert " of 14 cases)\n" in told


def test_shrinking_ends(
    c_program: Callable[..., Path], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time an example is told as it is by then."""
    monkeypatch.setattr(answers, "_SHRINKING", 0.0)
    told, _ = verified(capsys, "--command", str(c_program("TIES_AWAY")), "fp8_e4m3", *FEW, code=1)
    assert "; not shrunk for longer than 0 s\n" in told
    assert "code (tie" in told
