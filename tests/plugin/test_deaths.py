"""Whatever dies costs its case, or the run: at any moment, a process that ends leaves nothing green.

What a case measures does not matter here: the gate's fixture is replaced by one that passes every case.
"""

from __future__ import annotations

import pytest
from gate_project import Project, Run
from passing_gate import PASSING, verdicts

#: A plugin: the hooks of a conftest are not those of tests of another folder.
_DEADLY = """
import os, signal
import pytest

def die(where):
    if os.environ.get("DIES_IN") != where:
        return
    try:
        os.open("died", os.O_CREAT | os.O_EXCL)  # the first one alone
    except FileExistsError:
        return
    DEATH

def pytest_collection_modifyitems(config):
    if hasattr(config, "workerinput"):
        die("collection")

def pytest_runtest_setup():
    die("setup")

def pytest_runtest_teardown():
    die("teardown")

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol():
    done = yield
    die("between")
    return done

def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        die("finish")
"""
CASES = ("--mx-models=ref-llama,ref-neo", "--mx-precision=fp32,bf16", "-k", "test_accuracy")
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


def run(project: Project, death: str, *words: str, where: str) -> Run:
    (project.source / "deadly.py").write_text(_DEADLY.replace("DEATH", death))
    (project.directory / "conftest.py").write_text(PASSING)
    return project.gate("-p", "deadly", *CASES, *words, DIES_IN=where)


@pytest.mark.parametrize(
    ("where", "death"),
    [("setup", KILLED), ("call", "os._exit(0)"), ("teardown", KILLED)],
    ids=["setup", "call", "teardown"],
)
def test_in_a_test_it_costs_the_case(project: Project, where: str, death: str) -> None:
    done = run(project, death, "-n", "2", where=where)
    assert (project.directory / "died").exists()
    assert done.code == 1, done.output
    assert done.output.count("crashed while running") >= 1, done.output
    assert verdicts(done.output).count("CRASH") == 1, done.output
    assert "mxcheck: red:" not in done.output


@pytest.mark.parametrize("where", ["collection", "between", "finish"])
def test_elsewhere_it_costs_the_run(project: Project, where: str) -> None:
    done = run(project, KILLED, "-n", "2", where=where)
    assert (project.directory / "died").exists()
    assert done.code == 1, done.output
    assert "CRASH" not in verdicts(done.output), done.output
    assert "mxcheck: red: gw" in done.output, done.output
    assert "died while none of its tests ran (Not properly terminated)" in done.output


def test_an_internal_error_of_a_worker_costs_the_run(project: Project) -> None:
    done = run(project, r"raise RuntimeError('of a hook\x1b[2J')", "-n", "2", where="finish")
    assert done.code == 1, done.output
    assert r"ended in an error: RuntimeError: of a hook\x1b[2J" in done.output


def test_the_run_s_own_process_does_not_end_green(project: Project) -> None:
    done = run(project, "os._exit(0)", where="call")
    assert done.code not in (0, 5), done.output
    assert "mxcheck: red: a test ended the process by os._exit(0)" in done.output
    (project.directory / "died").unlink()
    done = run(project, "os.fork() or os._exit(0)", where="call")  # a child's end is its own
    assert done.code == 0, done.output


def test_nobody_died(project: Project) -> None:
    """What the others are compared with."""
    done = run(project, KILLED, "-n", "2", where="nowhere")
    assert done.code == 0, done.output
    assert verdicts(done.output) == ["pass"] * 4, done.output
