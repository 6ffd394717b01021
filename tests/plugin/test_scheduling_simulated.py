"""The scheduler and the ledger in real pytest runs on a simulated host. `make bench-scheduling` times it."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from simulated_host import Host, Memory, draw_models
from warm_python import warm_interpreter

from mxcheck.scheduling.ledger import Ledger

CASES = 60


def make_host(folder: Path, **more: int) -> Host:
    models = draw_models(7, count=12, cases=5, wide=2, scale=0.05)
    return Host(folder=folder, models=models, devices=4, **more).write()


def start(host: Host, *arguments: str) -> subprocess.Popen[str]:
    return host.start(*arguments, python=str(warm_interpreter()))


def finish(host: Host, *arguments: str) -> str:
    process = start(host, *arguments)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def check(host: Host, results: str = "results.json") -> None:
    """Every case passed once, no device ever held too much, nothing is held now."""
    ended = json.loads((host.folder / results).read_text())
    assert len(ended) == CASES
    assert set(map(tuple, ended.values())) == {("passed",)}
    assert Memory(host.folder, host).oversubscribed == []
    assert Ledger(host.folder / "leases").leases() == []


def loads(host: Host) -> Counter[tuple[str, str]]:
    """How often each worker loaded each model."""
    lines = [line.split() for line in (host.folder / "events").read_text().splitlines()]
    return Counter((pid, name) for _, pid, what, name in lines if what == "load")


@pytest.mark.parametrize("workers", ["4", "8"])
def test_no_device_is_oversubscribed(tmp_path: Path, workers: str) -> None:
    host = make_host(tmp_path)
    finish(host, "-n", workers)
    check(host)
    assert set(loads(host).values()) == {1}, "a worker loaded a model twice"


def test_two_workers_a_device(tmp_path: Path) -> None:
    """By memory some pairs of models fit on one device and some do not."""
    host = make_host(tmp_path, workers_per_device=2, device_bytes=100 * 2**30)
    finish(host, "-n", "8")
    check(host)


def test_two_runs_at_once(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    others = start(host, "-n", "4", "--results", "others.json")
    finish(host, "-n", "4")
    output, _ = others.communicate(timeout=600)
    assert others.returncode == 0, output
    check(host)
    check(host, "others.json")


@pytest.mark.parametrize("scheduler", ["load", "worksteal"])
def test_leases_hold_under_any_scheduler(tmp_path: Path, scheduler: str) -> None:
    """Correctness is the ledger's. And ours is the one that keeps a worker's model."""
    host = make_host(tmp_path)
    finish(host, "-n", "4", "--dist", scheduler)
    check(host)
    assert sum(loads(host).values()) >= 12


def test_the_check_sees_oversubscription(tmp_path: Path) -> None:
    """The same run with leases on a ledger of its own for every worker, which is none at all."""
    host = make_host(tmp_path)
    conftest = host.folder / "conftest.py"
    conftest.write_text(
        "import os\nos.environ['MXCHECK_LEASES'] += os.environ.get('PYTEST_XDIST_WORKER', '')\n"
        + conftest.read_text()
    )
    finish(host, "-n", "4")
    assert Memory(host.folder, host).oversubscribed
