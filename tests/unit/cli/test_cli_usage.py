"""`mxcheck` itself: its version, bad usage, what it loads."""

from __future__ import annotations

import subprocess
import sys

import pytest
from baselines_project import Capture

import mxcheck
from mxcheck.cli import main


def test_it_says_which_release_it_is(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"mxcheck {mxcheck.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["baselines"], ["unknown"], ["baselines", "list", "--absent"]),
        *(["explain", "fp8_e4m3"], ["explain", "fp8_e4m3", "--values", "1", "--hex", "1"]),
    ],
    ids=["nothing", "no-action", "unknown", "unknown-option", "no-values", "two-kinds-of-values"],
)
def test_bad_usage_ends_with_2(capsys: Capture, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: mxcheck" in capsys.readouterr().err


def test_exhaustive_says_where_it_is(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["exhaustive", "--jobs", "2"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "mxcheck: error: exhaustive is `python -m validation exhaustive` in a checkout of mxcheck"


@pytest.mark.parametrize(
    "arguments", [["formats"], ["explain", "fp4_e2m1", "--values", "1"]], ids=lambda w: w[0]
)
def test_no_command_of_formats_loads_torch(arguments: list[str]) -> None:
    program = (
        f"import sys; from mxcheck.cli import main; main({arguments}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_the_commands_are_a_module_that_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "mxcheck.cli", "formats"], check=True, capture_output=True)
    assert "e8m0" in done.stdout.decode()
