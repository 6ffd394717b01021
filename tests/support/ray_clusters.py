"""A real Ray cluster of several nodes, each of several processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import psutil
from gate_project import Project, Run

T = TypeVar("T")

#: Seconds for what takes a few: other tests may have the cores.
PATIENCE = 300
#: One case a model, of the accepted baselines.
FEW = ("--mx-precision", "mxfp8_e4m3", "--mx-tier", "A")
#: Milliseconds: a node that is lost is noticed in a second or two, where Ray takes half a minute by default.
NOTICE = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_failure_threshold": 3,
}


@contextmanager
def cluster(project: Project, *nodes: Mapping[str, Any]) -> Iterator[Any]:
    """A cluster whose head takes no task, and a node of a core for each of `nodes` with what they say. Each
    finds the project's mxcheck, and none a GPU, whatever this machine has."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    found = None
    try:
        with node_environment(project):
            head = {
                "num_cpus": 0,
                "num_gpus": 0,
                "include_dashboard": False,
                "_system_config": NOTICE,
                "node_name": "head",
            }
            found = Cluster(initialize_head=True, head_node_args=head)
            for index, node in enumerate(nodes, start=1):
                # Ray refuses to promise more than it may see, and does not look whether that is there.
                os.environ["CUDA_VISIBLE_DEVICES"] = "99" if node.get("num_gpus") else ""
                found.add_node(**{"num_cpus": 1, "num_gpus": 0, "node_name": f"node-{index}", **node})
        yield found
    finally:
        if found is not None:
            found.shutdown()


@contextmanager
def node_environment(project: Project) -> Iterator[None]:
    """What a node's processes inherit: the project's mxcheck, and nothing of this test run."""
    kept = dict(os.environ)
    for name in kept:
        if name.startswith(("PYTEST_", "MXCHECK_", "OMP_")) or name == "CI":
            del os.environ[name]
    os.environ |= {"PYTHONPATH": str(project.source), **own_ledger(project)}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def own_ledger(project: Project) -> dict[str, str]:
    """The environment of a run that does not wait for what other tests hold of this machine, and sees no GPU
    of it."""
    return {"MXCHECK_LEASES": str(project.directory.parent / "leases"), "CUDA_VISIBLE_DEVICES": ""}


def name_of(node: Any) -> str:
    """What `cluster` called it."""
    return str(node._ray_params.node_name)


def raylet(node: Any) -> psutil.Process:
    """The process that is a node's own."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def gates_below(process: psutil.Process) -> list[psutil.Process]:
    """The pytest processes of shards that run below a process, those of xdist's workers too."""
    found = []
    for child in process.children(recursive=True):
        try:
            if any(word.startswith("--mx-shard") for word in child.cmdline()):
                found += [child, *child.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def wait_for(found: Callable[[], T], *, seconds: float = PATIENCE) -> T:
    """What `found` returns as soon as that is true."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
    return value


def run_on(project: Project, *arguments: str, **environment: str) -> Run:
    """`mxcheck run`, to its end."""
    done = project.run("-m", "mxcheck.cli", "run", *arguments, **own_ledger(project), **environment)
    return Run(code=done.returncode, output=done.stdout + done.stderr)


def start_on(project: Project, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """`mxcheck run`, and on with the test."""
    return start(project, "-m", "mxcheck.cli", "run", *arguments)


@contextmanager
def start(project: Project, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The interpreter in a session of its own, with both streams as one; killed where the test ends first."""
    # A shell without job control starts what runs in its background deaf to Ctrl-C, children and all.
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=project.directory,
            env={**os.environ, "PYTHONPATH": str(project.source), **own_ledger(project)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, kept)
    try:
        yield run
    finally:
        if run.poll() is None:
            run.kill()
            run.communicate()
