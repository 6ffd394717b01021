"""Forked starts of Python, by which most tests of this folder run pytest, do what fresh ones do."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from gate_project import Project

FEW = ("--mx-models", "ref-llama", "--mx-precision", "mxfp8_e4m3", "--mx-tier", "B")
SHORT = ("--mx-max-samples", "2", "--mx-sequence-length", "32", "--snapshot-update")

#: Starts the interpreter as `sys.executable` names it, and tells how that ended.
_CHILD = """
import os, subprocess, sys
{extra}
print(subprocess.run([sys.executable, "-c", {code!r}], env={{**os.environ, **{environment!r}}}).returncode)
"""


def child(project: Project, code: str, *, extra: str = "", **environment: str) -> tuple[str, str]:
    """What a child of a forked start prints, and its exit code, as its parent sees it."""
    done = project.run("-c", _CHILD.format(extra=extra, code=code, environment=environment))
    assert done.returncode == 0, done.stderr
    *printed, ended = done.stdout.splitlines()
    return "\n".join(printed), ended


def test_a_case_is_accepted_as_by_fresh_ones(project: Project) -> None:
    """Figures, and the noise under two other instruction sets, which libraries read at their import."""
    accepted = []
    for environment in ({}, {"PYTHONHASHSEED": "0"}):
        run = project.gate(*FEW, *SHORT, **environment)
        assert run.code == 0, run.output
        (name,) = project.files()
        accepted.append(project.files()[name])
        (project.baselines / name).unlink()
    assert accepted[0] == accepted[1]
    noise = json.loads(accepted[0])["noise"]
    assert sorted(noise["environments"]) == ["avx2", "default"]
    assert noise["loss_rms"] > 0


#: Whether torch was there before anybody imported it, and what it multiplies with.
_TORCH = """
import sys
print("torch" in sys.modules)
import torch
print(torch.backends.cpu.get_cpu_capability())
"""


@pytest.mark.parametrize(
    ("environment", "forked", "capability"),
    [
        ({"ATEN_CPU_CAPABILITY": "default"}, True, "DEFAULT"),
        ({"ATEN_CPU_CAPABILITY": "default", "MALLOC_ARENA_MAX": "1"}, False, "DEFAULT"),
        ({"PYTHONPATH": "SITECUSTOMIZE"}, False, None),
    ],
    ids=["instruction-set", "allocator", "sitecustomize"],
)
def test_what_libraries_read_decides_who_starts(
    project: Project, tmp_path: Path, environment: dict[str, str], forked: bool, capability: str | None
) -> None:
    (tmp_path / "sitecustomize.py").write_text("")
    own = {name: value.replace("SITECUSTOMIZE", str(tmp_path)) for name, value in environment.items()}
    printed, ended = child(project, _TORCH, **own)
    there, found = printed.splitlines()
    assert (there, ended) == (str(forked), "0")
    assert capability in (None, found)


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("raise SystemExit(7)", "7"),
        ("raise SystemExit('a word')", "1"),
        ("raise ValueError", "1"),
        ("import os; os._exit(3)", "3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", str(-signal.SIGKILL)),
        ("import os; os.abort()", str(-signal.SIGABRT)),
        ("import atexit, os; atexit.register(os._exit, 5)", "5"),
        (
            "import threading, time; threading.Thread(target=lambda: (time.sleep(0.1), print('x'))).start()",
            "0",
        ),
    ],
    ids=["exit", "word", "error", "at-once", "killed", "aborted", "at-exit", "thread"],
)
def test_it_ends_as_its_fork_does(project: Project, code: str, ended: str) -> None:
    printed, found = child(project, code)
    assert found == ended
    assert printed == ("x" if "thread" in code else "")


def test_who_kills_it_kills_its_fork(project: Project) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "code = 'import os, time; print(os.getpid(), flush=True); time.sleep(600)'\n"
        "child = subprocess.Popen([sys.executable, '-u', '-c', code], stdout=subprocess.PIPE, text=True)\n"
        "pid = int(child.stdout.readline())\n"
        "assert pid != child.pid\n"
        "child.kill()\n"
        "assert child.stdout.read() == ''\n"  # nobody has the other end any more
        "try:\n    while True:\n        os.kill(pid, 0), time.sleep(0.01)\n"
        "except ProcessLookupError:\n    print('gone')\n"
    )
    done = project.run("-c", code)
    assert done.stdout == "gone\n", done.stderr
