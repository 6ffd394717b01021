"""Without any extra the kernel suite and its commands run, and what needs models says so in one line.

`make base-install` runs this file, and the whole kernel suite, in an environment that really has none.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from gate_project import ROOT

from mxcheck.extras import EXTRA_OF

ONE_CAST = "test_conformance and fp4_e3m0 and floor and not (eager_values or away or zero or stochastic)"
#: As if no extra were installed; then pytest, or mxcheck's command line.
_CHILD = f"""
import sys
from importlib.machinery import PathFinder

class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in {sorted(EXTRA_OF)!r}
        return None if absent else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutExtras
if sys.argv[1] == "pytest":
    import pytest
    left_out = ("xdist", "xdist.looponfail", "cacheprovider")
    sys.exit(pytest.main([*(f"-pno:{{name}}" for name in left_out), *sys.argv[2:]]))
from mxcheck.cli import main
sys.exit(main(sys.argv[2:]))
"""


def without_extras(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _CHILD, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_the_kernel_suite_runs_without_any_extra() -> None:
    done = without_extras("pytest", "tests/kernels", "-q", "-k", ONE_CAST)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ passed", done.stdout, re.MULTILINE), done.stdout


def test_the_model_suite_is_listed_without_them_and_red_in_one_line() -> None:
    listed = without_extras("pytest", "tests/models", "-q", "--collect-only")
    assert listed.returncode == 0, listed.stdout + listed.stderr
    done = without_extras("pytest", "tests/models", "-q")
    assert done.returncode == 2, done.stdout + done.stderr
    line = (
        "mxcheck: the model suite needs transformers, which is not installed: pip install 'mxcheck[models]'"
    )
    assert done.stdout.splitlines().count(line) == 1
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        pytest.param("formats", 0, id="formats"),
        pytest.param("explain fp8_e4m3 --values 1.5", 0, id="explain"),
        pytest.param("identify eager --format fp4_e3m0 --dtype float16", 0, id="identify"),
        pytest.param("verify --command false fp4_e3m0 --dtype float16 --block-size 32", 1, id="verify"),
        pytest.param("ladder --device cpu", 0, id="ladder"),
    ],
)
def test_commands_without_any_extra(words: str, code: int) -> None:
    done = without_extras("mxcheck", *words.split())
    assert done.returncode == code, done.stdout + done.stderr
    assert "No module named" not in done.stderr


def test_a_command_that_loads_a_model_is_refused_in_one_line() -> None:
    done = without_extras("mxcheck", "sample", "./nowhere")
    line = "mxcheck: this command needs transformers, which is not installed: pip install 'mxcheck[models]'\n"
    assert (done.returncode, done.stderr) == (2, line)
