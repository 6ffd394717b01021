"""`mxcheck cases` and `mxcheck verify` as tests ask them, and programs in Python for them."""

from __future__ import annotations

import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from mxcheck.cli import main

Capture = pytest.CaptureFixture[str]
#: Few inputs, for programs that fail whatever they are given.
FEW = ("--dtype", "float16", "--block-size", "32")


def verified(capsys: Capture, *words: str, code: int) -> tuple[str, str]:
    """What it prints, and what to the standard error."""
    assert main(["verify", *words]) == code
    output = capsys.readouterr()
    return output.out, output.err


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
