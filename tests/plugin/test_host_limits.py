"""What a host cannot give, and a ledger that cannot be used: one clear line each."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from gate_project import CONFTEST, Project
from passing_gate import PASSING

from mxcheck.run.cost import estimate
from mxcheck.scheduling.devices import cores

RUN = (
    *("--mx-models", "ref-llama", "--mx-precision", "fp32", "--mx-max-samples", "2"),
    *("--mx-device", "cpu"),
)
GIB = 2**30


def usage_error(project: Project, *arguments: str, **environment: str) -> str:
    run = project.gate(*RUN, *arguments, **environment)
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.output
    (line,) = [text for text in run.output.splitlines() if text.startswith("ERROR: mxcheck")]
    assert "Traceback" not in run.output
    assert "INTERNALERROR" not in run.output
    return line


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_corrupt_ledger(project: Project, workers: str) -> None:
    ledger = project.directory / "leases" / "leases.json"
    ledger.parent.mkdir()
    ledger.write_text("{")
    line = usage_error(project, "-n", workers)
    assert f"the ledger {ledger} is corrupt" in line
    assert line.endswith("delete it")
    assert ledger.read_text() == "{"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_ledger_that_cannot_be_written(project: Project, workers: str) -> None:
    (project.directory / "leases").write_text("a file\n")
    line = usage_error(project, "-n", workers)
    assert "leases cannot be used (FileExistsError: " in line or "(NotADirectoryError: " in line
    assert "--mx-leases=DIR or $MXCHECK_LEASES" in line


def test_they_can_lie_elsewhere(project: Project) -> None:
    (project.directory / "leases").write_text("a file\n")
    run = project.gate(*RUN, "--mx-leases", "elsewhere")
    assert run.code == 1, run.output  # no baseline: it ran
    assert (project.directory / "elsewhere" / "leases.json").is_file()


def pretend(project: Project, shares: float) -> str:
    """Give the host so many times what ref-llama needs; returns what it has, as messages say it."""
    known = estimate(
        "ref-llama", dtype=None, samples=2, length=None, batch_size=8, own=project.baselines / "ref-llama"
    )
    assert known is not None
    memory = round(shares * known.bytes_needed)
    project.replace(
        "scheduling/devices.py",
        'return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits().values()])',
        f"return {memory}",
    )
    return f"{memory / GIB:.1f} GiB"


def test_more_workers_than_memory_can_hold(project: Project) -> None:
    host = pretend(project, 2.2)
    line = usage_error(project, "-n", "3")
    assert "mxcheck: -n 3: even ref-llama, the smallest model of the run, needs about" in line
    assert line.endswith(f"this host has {host}; give at most -n 2")


def test_a_model_larger_than_the_host(project: Project) -> None:
    host = pretend(project, 0.6)
    run = project.gate(*RUN, "-n", "2")
    assert (run.code, list(run.verdicts().values())) == (1, ["ERROR"]), run.output
    line = next(text for text in run.output.splitlines() if text.startswith("ref-llama-fp32+samples2: "))
    assert f"this host has {host}; lower --mx-batch-size" in line


def test_auto_gives_no_more_workers_than_memory_holds(project: Project) -> None:
    pretend(project, 1.6)
    (project.directory / "conftest.py").write_text(PASSING)
    run = project.gate(*RUN, "-n", "auto")
    assert "created: 1/1 worker" in run.output, run.output


def test_as_many_workers_as_the_host_has_places(project: Project) -> None:
    (project.directory / "conftest.py").write_text(PASSING)
    run = project.gate(*RUN, "-n", "auto", "--mx-workers-per-device", "2")
    assert f"created: {2 * cores()}/{2 * cores()} workers" in run.output, run.output
    run = project.gate(*RUN, "-n", "auto", PYTEST_XDIST_AUTO_NUM_WORKERS="3")
    assert "created: 3/3 workers" in run.output


_THEIRS = """
import pytest
@pytest.mark.parametrize("number", range(9))
def test_theirs(number):
    pass
"""
_THEIR_SCHEDULER = """
from xdist.scheduler import LoadScheduling
class TheirScheduling(LoadScheduling):
    pass
def pytest_xdist_make_scheduler(config, log):
    return TheirScheduling(config, log)
"""


def test_other_runs_keep_their_number_of_workers_and_scheduler(project: Project) -> None:
    (project.directory / "test_theirs.py").write_text(_THEIRS)
    (project.directory / "their_plugin.py").write_text(_THEIR_SCHEDULER)
    # This project's ini file has options of ours, and two workers a device would make another number.
    (project.directory / "pytest.ini").write_text("[pytest]\nmx_workers_per_device = 9\n")
    run = project.pytest("test_theirs.py", "-n", "auto", "-v", "-p", "their_plugin")
    assert (run.code, "9 passed" in run.output) == (0, True), run.output
    assert "scheduling tests via TheirScheduling" in run.output
    assert f"created: {9 * cores()}/" not in run.output
    assert not (project.directory / "leases").exists()


def test_other_schedulers_are_respected(project: Project) -> None:
    (project.directory / "conftest.py").write_text(PASSING)
    for words, name in (
        (("--dist", "worksteal"), "WorkStealingScheduling"),
        (("--dist", "load"), "LoadScheduling"),
        ((), "ModelScheduling"),
    ):
        run = project.gate(*RUN, "-n", "2", "-v", *words)
        assert f"scheduling tests via {name}" in run.output, run.output


#: Holds every place of the host until it is told to go on.
_HOLDER = """
import sys
from pathlib import Path
from mxcheck.scheduling.devices import cpu_device
from mxcheck.scheduling.leases import Request
from mxcheck.scheduling.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
ledger.acquire(Request(what="another run"), [cpu_device(workers_per_device=1)])
print("has it", flush=True)
sys.stdin.readline()
"""


#: Notes what becomes of faulthandler's timer.
_TIMER = """
import faulthandler

def noted(call, word):
    def noting(*args, **options):
        with open("timer", "a") as file:
            file.write(word.format(*args, **options) + "\\n")
        return call(*args, **options)
    return noting

faulthandler.dump_traceback_later = noted(faulthandler.dump_traceback_later, "{:.0f} s, then exit: {exit}")
faulthandler.cancel_dump_traceback_later = noted(faulthandler.cancel_dump_traceback_later, "off")
"""


def test_waiting_is_told_and_is_no_hang(project: Project) -> None:
    """Another run holds the host: meanwhile no timeout runs, and afterwards all of it is there again."""
    project.replace("pytest_plugin/progress/live.py", "_PERIOD = 10.0", "_PERIOD = -1.0")
    (project.directory / "pytest.ini").write_text(
        "[pytest]\nfaulthandler_timeout = 900\nfaulthandler_exit_on_timeout = true\n"
    )
    (project.directory / "conftest.py").write_text(CONFTEST + _TIMER)
    timer = project.directory / "timer"
    words = ("-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "mxcheck.suite.models", *RUN, "-n", "1")
    common = {"cwd": project.directory, "env": project.environment(), "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(project.directory / "leases")], stdin=subprocess.PIPE, **common
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "has it\n"
        with subprocess.Popen([sys.executable, *words], **common) as run:
            assert run.stdout is not None
            told = ""
            while "gw0 ref-llama waits: device 0 is taken" not in told:
                line = run.stdout.readline()
                assert line, told  # it ended
                told += line
            while_it_waits = timer.read_text().split("\n")[:-1]
            holder.kill()
            rest = run.stdout.read()
    assert while_it_waits == ["900 s, then exit: True", "off"]
    assert timer.read_text().split("\n")[2:4] == while_it_waits
    (row,) = json.loads((project.directory / "rows.json").read_text()).values()
    assert row["outcome"] == "FAIL missing", told + rest  # it ran to its end


def test_without_faulthandler(project: Project) -> None:
    """And at the end the lease is given back, and nothing of the run is left."""
    run = project.gate(*RUN, "-p", "no:faulthandler")
    assert list(run.verdicts().values()) == ["FAIL missing"], run.output
    assert not project.baselines.exists()
    folder = project.directory / "leases"
    assert '"leases": []' in (folder / "leases.json").read_text()
    assert [path.name for path in folder.iterdir() if path.name.startswith("holder")] == []


@pytest.mark.parametrize("workers", ["0", "1"])
def test_cases_beside_other_tests_do_not_keep_the_host(project: Project, workers: str) -> None:
    """The lease of the last model is given back before the next test, which is none of its cases."""
    (project.directory / "test_theirs.py").write_text(
        "import os\n"
        "from pathlib import Path\n"
        "from mxcheck.scheduling.ledger import Ledger\n"
        "from mxcheck.suite.models.test_accuracy import test_accuracy\n"
        "def test_theirs():\n"
        "    assert Ledger(Path(os.environ['MXCHECK_LEASES'])).leases() == []\n"
    )
    run = project.pytest("test_theirs.py", *RUN, "-n", workers)
    assert "1 failed, 1 passed" in run.output, run.output  # the case has no baseline
