"""Installed from a built wheel, used from a folder that has nothing to do with this repository."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from gate_project import PACKAGE, ROOT

from mxcheck.distributed.provenance import folder_digest

SUPPORT = ROOT / "tests" / "support"


@dataclass(frozen=True)
class Installed:
    """An environment with mxcheck from a wheel, and a folder to work in."""

    programs: Path
    folder: Path

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        """A program of that environment, started in the folder, as a user types it: by its own script, which
        unlike `python -m` does not put the folder on sys.path."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST_", "PYTHON", "HF_", "TRANSFORMERS_")) and name != "CI"
        }
        own = {"HF_HUB_OFFLINE": "1", "MXCHECK_LEASES": str(self.folder / "leases")}
        return subprocess.run(
            [str(self.programs / program), *words],
            cwd=self.folder,
            env={**kept, **own},
            capture_output=True,
            text=True,
            check=False,
        )

    def pytest(self, *words: str) -> str:
        """What a green run prints."""
        done = self.run("pytest", "-p", "no:cacheprovider", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scripts of a fresh environment: mxcheck from a wheel built here, the rest as this run has it."""
    path = tmp_path_factory.mktemp("installed")
    _python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(path), str(ROOT))
    (wheel,) = path.glob("mxcheck-*.whl")
    environment = path / "environment"
    venv.create(environment, symlinks=True)
    programs = environment / "bin"
    python = programs / "python"
    install = ("--isolated", "install", "-q", "--no-deps", "--no-index")
    _python("-m", "pip", "--python", str(python), *install, str(wheel))
    (packages,) = environment.glob("lib/python*/site-packages")
    # Python does not read the .pth files of a folder that a .pth file adds: an editable install stays out.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    script = programs / "pytest"
    script.write_text(
        f"#!{python}\nimport sys\nfrom _pytest.config import _console_main\nsys.exit(_console_main())\n"
    )
    script.chmod(0o755)
    return programs


def _python(*words: str) -> None:
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def installed(programs: Path, tmp_path: Path) -> Installed:
    shutil.copy(SUPPORT / "own_casts.py", tmp_path / "my_casts.py")
    return Installed(programs=programs, folder=tmp_path)


def test_the_wheel_is_what_runs(installed: Installed) -> None:
    done = installed.run("python", "-c", "import mxcheck; print(mxcheck.__file__)")
    assert Path(done.stdout.strip()).is_relative_to(installed.programs.parent), done.stdout + done.stderr


def test_the_reference_models_in_an_empty_folder(installed: Installed) -> None:
    """Their baselines are in the wheel; a project's own come first, and the package is never written to."""
    (package,) = installed.programs.parent.glob("lib/python*/site-packages/mxcheck")
    before = folder_digest(package)
    suite = ("--pyargs", "mxcheck.suite.models")
    few = ("-k", "short-moe or ref-llama-mxfp8_e4m3-B")
    output = installed.pytest(*suite, "--mx-tier", "A,B", *few, "-n", "2", "--mx-report=report")
    assert "mxcheck: baselines that come with mxcheck: ref-llama, short-moe" in output
    rows = json.loads((installed.folder / "report" / "accuracy.json").read_text())
    assert [row["outcome"] for row in rows] == ["pass"] * 4, output
    assert not (installed.folder / "baselines").exists()
    one = (*suite, "--mx-models", "short-moe", "--mx-precision", "fp32")
    assert " pass\n" in installed.pytest(*one, "--snapshot-update")
    assert not (installed.folder / "baselines").exists()
    assert " accepted\n" in installed.pytest(*one, "--mx-max-samples", "4", "--snapshot-update")
    assert (installed.folder / "baselines" / "short-moe" / "fp32+samples4.json").is_file()
    # the others of the model are the project's too now, and nothing is taken from the package any more
    assert (installed.folder / "baselines" / "short-moe" / "fp32.json").is_file()
    output = installed.pytest(*one)
    assert " pass\n" in output
    assert "that come with mxcheck" not in output
    assert folder_digest(package) == before


def test_kernel_suite(installed: Installed) -> None:
    output = installed.pytest(
        "--pyargs", "mxcheck.suite.kernels", "--mx-kernel", "my_casts:quantize", "-k", "fp8_e4m3"
    )  # fmt: skip
    assert re.search(r"my_casts\.quantize +fp8_e4m3 +exact +-", output), output
    assert "not supported, my_casts.quantize: my_casts has only mxfp8_e4m3-floor, not fp8_e4m3" in output


def test_a_wrong_cast_is_red_and_can_be_looked_at(installed: Installed) -> None:
    """In workers too; and the line to paste shows the same difference."""
    words = ("-m", "fp8_e4m3", "--mx-kernel", "my_casts:wrong", "-n", "2")
    done = installed.run("pytest", "-p", "no:cacheprovider", "--pyargs", "mxcheck.suite.kernels", *words)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "mxcheck: my_casts.wrong-mxfp8_e4m3-floor differs from the oracle (quick, " in done.stdout
    told = re.search(
        r"; causes: 1 wrong\n"
        r"code \(tie\), [\d,]+ times: smallest input, a single block of \d+ \w+, .*from \w+:\n"
        r"  input: \[.*\] [0-9a-f]{8} \(.*\); the other \d+ are 0\n"
        r"  scales: as expected\n"
        r"  code: \[.*\] got ([0-9a-f]{2}), expected ([0-9a-f]{2})\n"
        r"  reproduce: (mxcheck explain fp8_e4m3 --hex .* --kernel my_casts:wrong)$",
        done.stdout,
        re.MULTILINE,
    )
    assert told, done.stdout
    got, expected, command = told.groups()
    program, *rest = shlex.split(command)
    shown = installed.run(program, *rest)
    assert shown.returncode == 1, shown.stdout + shown.stderr
    assert re.search(rf" {expected} .*≠ {got} ", shown.stdout), shown.stdout
    assert "kernel my_casts:wrong: 1 of " in shown.stdout


def test_model_suite(installed: Installed) -> None:
    """Sample, accept, gate: a model of one's own, with a cast of one's own, which the child processes that
    measure the noise have to find as well."""
    model = installed.folder / "my-model"
    reference = PACKAGE / "models" / "zoo" / "reference" / "ref-llama"
    shutil.copytree(reference, model, ignore=shutil.ignore_patterns("tokens.safetensors"))
    done = installed.run("mxcheck", "sample", "./my-model", "--sequences", "4", "--length", "16")
    assert done.returncode == 0, done.stderr
    words = (
        "--pyargs", "mxcheck.suite.models", "--mx-models", "./my-model", "--mx-baselines", "./baselines",
        "--mx-precision", "mxfp8_e4m3", "--mx-tier", "A", "--mx-kernel", "my_casts:quantize",
    )  # fmt: skip
    assert " accepted\n" in installed.pytest(*words, "--snapshot-update")
    baselines = installed.folder / "baselines" / "my-model"
    names = sorted(path.name for path in baselines.iterdir())
    (states,) = [name for name in names if name.startswith("states-")]
    assert names == ["bounds.toml", "mxfp8_e4m3-A.json", states, "tokens.safetensors"]
    assert " pass\n" in installed.pytest(*words, "-n", "1")
    red = installed.run("pytest", *(word.replace(":quantize", ":wrong") for word in words))
    assert red.returncode == 1, red.stdout
    assert "step 4 (casts): codes of the quantized weights changed bits" in red.stdout
