"""`mxcheck run --ray`: the real Ray, on clusters of several nodes of this machine, which has no GPU."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from gate_project import CONFTEST, PACKAGE, ROOT, Project
from ray_clusters import (
    FEW,
    PATIENCE,
    cluster,
    gates_below,
    name_of,
    own_ledger,
    raylet,
    run_on,
    start,
    start_on,
    wait_for,
)

MODELS = ("--mx-models", "ref-llama,ref-neo")


@pytest.fixture
def farm(tmp_path: Path) -> Project:
    """A project with this repository's baselines, and its package as it is: nothing of it is broken."""
    directory = tmp_path / "farm"
    directory.mkdir()
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "conftest.py").write_text(CONFTEST)
    shutil.copytree(ROOT / "baselines", directory / "baselines")
    return Project(directory=directory, source=PACKAGE.parent)


def rows(path: Path) -> dict[str, Any]:
    return without_times({row["id"]: row for row in json.loads(path.read_text())})


def without_times(rows: dict[str, Any]) -> dict[str, Any]:
    """Rows but for how long they took and on which worker."""
    times = ("seconds", "load_seconds", "worker", "cost")
    return {name: {key: row[key] for key in row if key not in times} for name, row in rows.items()}


#: Cases wait as long as a file is there. A plugin, for a conftest's hooks are for the items below it alone.
_HELD = """
import os, time
class Held:
    def pytest_runtest_setup(self):
        while pathlib.Path(HELD).exists():
            pathlib.Path(HELD).with_name(f"waits-{os.getpid()}").touch()
            time.sleep(0.05)
def pytest_configure(config):
    config.pluginmanager.register(Held())
"""


def test_a_run_that_loses_a_node_and_a_process_equals_a_run_on_one_machine(farm: Project) -> None:
    held = farm.directory / "held"
    (farm.directory / "conftest.py").write_text(CONFTEST + _HELD.replace("HELD", repr(str(held))))
    alone = farm.gate(*MODELS, *FEW, **own_ledger(farm))
    assert alone.code == 0, alone.output
    earlier = farm.directory / "out" / "shard-1-of-9.json"  # it must not be joined to this run's
    earlier.parent.mkdir()
    earlier.write_text("{}")
    held.touch()  # so that both are at work however late one begins
    with (
        cluster(farm, {}, {}, {}) as three,
        start_on(farm, "--ray", three.address, *MODELS, *FEW, "--mx-report", "out") as run,
    ):
        nodes = sorted(three.worker_nodes, key=name_of)
        busy = wait_for(lambda: [node for node in nodes if len(gates_below(raylet(node))) > 1][1:])
        wait_for(lambda: list(farm.directory.glob("waits-*"))[1:])  # each in its first case
        left = [node for node in nodes if node is not busy[0] and gates_below(raylet(node))]
        of_node = gates_below(raylet(busy[0]))
        of_process = gates_below(raylet(left[0]))
        (folder,) = (word for word in of_process[0].cmdline() if word.startswith("--mx-report="))
        assert "/session_" in folder  # Ray's own: what a killed worker leaves is in nobody's way
        worker = of_process[0].parent()
        assert worker is not None
        worker.kill()
        three.remove_node(busy[0], allow_graceful=False)
        # Neither may hold its device beside the task that takes its place.
        _, alive = psutil.wait_procs([*of_node, *of_process], timeout=PATIENCE)
        assert not alive
        held.unlink()
        output, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, output
    assert "(raylet)" not in output
    assert "(raylet)" in (farm.directory / "out" / "ray.log").read_text()
    assert output.count("mxcheck: lost node ") == output.count(f"lost node {name_of(busy[0])} (") == 1
    assert re.findall(r"^(\d of 2): ref-", output, flags=re.MULTILINE) == ["1 of 2", "2 of 2"]
    assert rows(farm.directory / "out" / "accuracy.json") == without_times(alone.rows)
    shards = [json.loads(path.read_text()) for path in (farm.directory / "out").glob("shard-*-of-2.json")]
    assert sorted(name for shard in shards for name in shard["selected"]) == sorted(alone.rows)


def test_a_red_case_is_a_result_and_no_reason_to_try_again(farm: Project) -> None:
    (farm.baselines / "ref-llama" / "mxfp8_e4m3-A.json").unlink()
    words = ("--mx-models", "ref-llama", *FEW, "--mx-precision", "fp32", "--mx-report", "out")
    run = run_on(farm, "--ray", *words, RAY_ADDRESS="")
    assert run.code == 1
    assert run.output.count("ref-llama-mxfp8_e4m3-A: no accepted baseline at ") == 1
    assert run.output.count("1 of 1: ref-llama: ") == 1
    found = rows(farm.directory / "out" / "accuracy.json")
    assert {name: row["outcome"] for name, row in found.items()} == {
        "ref-llama-fp32": "pass",
        "ref-llama-mxfp8_e4m3-A": "FAIL missing",
    }


def test_a_shard_whose_workers_all_die_is_lost_and_the_other_keeps_its_rows(farm: Project) -> None:
    """pytest calls that 'no tests ran', and leaves a shard without a case; the driver knows of one."""
    (farm.directory / "conftest.py").write_text(
        f"{CONFTEST}\nimport os\ndef pytest_sessionstart(session):\n"
        "    if 'PYTEST_XDIST_WORKER' in os.environ and session.config.option.mx_shard == '2/2':\n"
        "        os._exit(7)\n"
    )
    run = run_on(farm, "--ray", "local", *MODELS, *FEW, "--mx-report", "out", RAY_ADDRESS="")
    assert run.code == 1, run.output
    assert "red: 2 cases: 1 CRASH, 1 pass; " in run.output
    assert re.search(
        r"\nref-llama-mxfp8_e4m3-A: no result: node .* selected 0 cases, and the driver 1\n", run.output
    )
    assert "\nno collection has ended, so nothing ran: " in run.output


def test_a_node_that_promises_a_gpu_and_has_none_is_red(farm: Project) -> None:
    """Ray counts GPUs that a node says it has. The task is given one, and must not run on the CPU instead."""
    words = ("--mx-models", "ref-llama", *FEW)
    with cluster(farm, {}, {"num_gpus": 1}) as two:
        run = run_on(farm, "--ray", two.address, *words)
        many = run_on(farm, "--ray", two.address, *words, "--mx-models", "deepseek-67b")
    assert run.code == 1
    assert "mxcheck: ref-llama: 1 case, 1 CPU, 1 GPU\n" in run.output
    assert "mxcheck: ref-llama: pytest ended with exit code 4 on node node-2 (" in run.output
    assert "mxcheck: --mx-device=cuda: " in run.output
    assert run.output.endswith("mxcheck: red: no model has a result\n")
    assert many.code == 2
    assert re.fullmatch(
        r"mxcheck: deepseek-67b needs 1 CPU, \d GPUs on one node, and no node of the cluster has that; .+\n",
        many.output,
    )


#: `mxcheck run` without its patience: it waits a minute for such a node to come back.
IMPATIENT = """
import sys
from pathlib import Path
from mxcheck import __version__
from mxcheck.distributed.demand import Demand
from mxcheck.distributed.collect_plan import plan_run
from mxcheck.distributed.ray_cluster import connected
from mxcheck.distributed.ray_run import run_models
from mxcheck.distributed.ray_results import write_shards
words, plan = plan_run(sys.argv[2:])
demands = {"ref-llama": Demand(cpus=1, gpus=1, memory=0), "ref-neo": Demand(cpus=1, gpus=0, memory=0)}
with connected(sys.argv[1]):
    tasks = run_models(
        plan.models, demands, arguments=lambda model: [*words, "--mx-device=cpu"], directory=str(Path.cwd()),
        version=__version__, say=print, patience=1,
    )
    found = list(tasks)
write_shards(Path("out"), found, {model.label: model.cases for model in plan.models})
"""


def test_a_model_that_no_node_left_can_hold_is_red_by_name_and_the_others_finish(farm: Project) -> None:
    words = ("--mx-models", "ref-llama,ref-neo", *FEW)
    with cluster(farm, {"num_gpus": 1}, {}) as two, start(farm, "-c", IMPATIENT, two.address, *words) as run:
        (only,) = (node for node in two.worker_nodes if name_of(node) == "node-1")
        wait_for(lambda: gates_below(raylet(only)))
        two.remove_node(only, allow_graceful=False)
        output, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, output
    merged = farm.run("-m", "mxcheck.cli", "merge", "out")
    assert merged.returncode == 1
    why = "no result: it needs 1 CPU, 1 GPU on one node, and no node left has that"
    assert f"\nref-llama-mxfp8_e4m3-A: {why}\n" in merged.stdout
    assert "red: 2 cases: 1 CRASH, 1 pass; 2 shards" in merged.stdout


def test_ctrl_c_cancels_the_tasks(farm: Project) -> None:
    with start_on(farm, "--ray", "local", "--mx-models", "ref-llama", *FEW) as run:
        gates = wait_for(lambda: found if len(found := gates_below(psutil.Process(run.pid))) > 1 else [])
        run.send_signal(signal.SIGINT)
        output, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 130, output
    assert output.endswith("mxcheck: stopped; the tasks are cancelled\n")
    _, alive = psutil.wait_procs(gates, timeout=PATIENCE)
    assert not alive


def test_a_node_with_another_mxcheck_is_named(project: Project, farm: Project) -> None:
    project.replace("__init__.py", '__version__ = "0.1.0"', '__version__ = "0.0.9"')
    with cluster(project, {}) as one:
        run = run_on(farm, "--ray", one.address, "--mx-models", "ref-llama", *FEW)
    assert run.code == 2
    assert re.search(
        r"mxcheck: node node-1 \(\S+\) has mxcheck 0\.0\.9, and this machine has 0\.1\.0; install the same\n",
        run.output,
    )


def test_a_directory_that_a_node_does_not_have_is_named() -> None:
    from mxcheck.distributed.ray_task import complaint

    assert complaint("/not/there", "0.1.0").startswith("has no directory /not/there; every node has to see")


@pytest.fixture
def closed_port() -> Iterator[str]:
    """Bound, so that nobody else gets it meanwhile, and not listened to."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{one.getsockname()[1]}"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "mxcheck run spreads models over a Ray cluster: add --ray [ADDRESS]; on one machine use pytest"),
        (("--ray", "127.0.0.1:CLOSED"), "--ray 127.0.0.1:CLOSED: nothing answers there ([Errno 111]"),
        (
            ("--ray", "ray://head:10001"),
            "--ray ray://head:10001: an address is HOST:PORT of the cluster's head",
        ),
        (("--ray", "conftest.py"), "auto or local; that is a path: write it before --ray"),
        (("--ray", "--snapshot-update"), "--snapshot-update: baselines are not accepted through Ray"),
        (
            ("--ray", "--mx-shard", "1/2", "--mx-report", "out"),
            "--mx-shard=1/2: a run on Ray makes its own",
        ),
        (("--ray", "-n", "4"), "-n: a task is one model and has one worker"),
        (("--ray", "--device-gib", "0"), "--device-gib must be a number of GiB above 0, got 0"),
        (("--ray", "local", "--mx-device", "cuda"), "--mx-device=cuda: the cluster has no GPU"),
        (("--ray", "--mx-models", "ref-lama"), "unknown model 'ref-lama'; allowed: "),
        (
            ("--ray", "-k", "nothing"),
            "pytest selects no case of the model suite; see: pytest --pyargs mxcheck.",
        ),
        (("--ray", "absent.py"), "--ray absent.py: an address is HOST:PORT"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_is_told_in_one_line(
    farm: Project, closed_port: str, words: tuple[str, ...], says: str
) -> None:
    typed = [word.replace("127.0.0.1:CLOSED", closed_port) for word in words]
    run = run_on(farm, *typed, RAY_ADDRESS="")
    assert run.code == 2
    assert run.output.count("\n") == 1
    assert run.output.startswith("mxcheck: ")
    assert says.replace("127.0.0.1:CLOSED", closed_port) in run.output


def test_a_shard_below_the_report_folder_is_somebodys(farm: Project) -> None:
    below = farm.directory / "out" / "earlier" / "shard-1-of-2.json"
    below.parent.mkdir(parents=True)
    below.write_text("{}")
    run = run_on(farm, "--ray", "local", "--mx-models", "ref-llama", *FEW, "--mx-report", "out")
    assert run.code == 2
    assert f"there is a shard of another run, {below}; remove it" in run.output
    assert below.exists()


def test_ray_that_is_not_installed_is_told_with_the_command(farm: Project) -> None:
    code = "import sys; sys.modules['ray'] = None; from mxcheck.cli import main; sys.exit(main(sys.argv[1:]))"
    done = farm.run("-c", code, "run", "--ray")
    assert done.returncode == 2
    assert done.stderr.startswith("mxcheck: --ray needs Ray (import of ray halted")
    assert done.stderr.endswith(": pip install 'mxcheck[ray]'\n")


def test_nothing_of_ray_is_imported_unless_asked_for(farm: Project) -> None:
    code = """
import sys
from mxcheck.cli import main
assert main(['formats']) == 0 and main(['run']) == 2
import mxcheck.pytest_plugin.plugin, mxcheck.pytest_plugin.xdist.plan_writer
assert not [name for name in sys.modules if name == 'ray' or name.startswith('ray.')]
import ray
assert 'ray' in sys.modules  # so this would have seen it
"""
    done = farm.run("-c", code)
    assert done.returncode == 0, done.stderr
