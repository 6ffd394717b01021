"""Orders, distributions and folders of pytest's own: every case has its row, wherever and whenever it ran."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from gate_project import Project
from passing_gate import PASSING, verdicts

CASES = ("--mx-models=ref-llama,ref-neo", "--mx-precision=fp32,bf16", "-k", "test_accuracy")


@pytest.mark.parametrize(
    "words",
    [
        ("--lf", "-p", "cacheprovider"),
        ("--ff", "--sw", "-p", "cacheprovider", "-p", "stepwise", "-n", "2"),
        ("--dist=loadfile", "-n", "2", "-W", "error"),
        ("--dist=worksteal", "-n", "2"),
        ("--import-mode=importlib", "--strict-markers", "--strict-config", "-W", "error"),
    ],
    ids=" ".join,
)
def test_every_case_has_its_row(project: Project, words: tuple[str, ...]) -> None:
    (project.directory / "conftest.py").write_text(PASSING)
    run = project.gate(*CASES, *words)
    assert run.code == 0, run.output
    assert verdicts(run.output) == ["pass"] * 4, run.output


@pytest.mark.skipif(shutil.which("unshare") is None, reason="a folder is made read-only by unshare")
def test_a_project_that_cannot_be_written_to(project: Project) -> None:
    """Of permissions root is free: the folder is mounted read-only, in a namespace of its own."""
    (project.directory / "conftest.py").write_text(PASSING)
    (project.directory / "run.sh").write_text(
        'mount --bind "$PWD" "$PWD" && mount -o remount,ro,bind "$PWD" && cd "$PWD" || exit 77\n'
        'touch written 2> "$TMPDIR/refused" && exit 78\nexec "$@"\n'
    )
    outside = project.directory.parent / "outside"
    outside.mkdir()
    spaces = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    words = ["-m", "pytest", "--pyargs", "mxcheck.suite.models", *CASES]
    done = subprocess.run(
        ["unshare", *spaces, "sh", "run.sh", sys.executable, *words],
        cwd=project.directory,
        env=project.environment(TMPDIR=str(outside), MXCHECK_LEASES=str(outside / "leases")),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert verdicts(done.stdout) == ["pass"] * 4
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words", [("-k", "nowhere"), ("-m", "ref-moe", "-n", "2"), ("--deselect=test_accuracy.py",)]
)
def test_a_run_that_compares_nothing_is_not_green(project: Project, words: tuple[str, ...]) -> None:
    run = project.gate("--mx-models=ref-llama", "--mx-precision=fp32", *words)
    assert run.code == pytest.ExitCode.NO_TESTS_COLLECTED, run.output
