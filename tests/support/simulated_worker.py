"""The conftest of a simulated host's project: its scheduler, its cases, its results."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sample_record import build_record
from simulated_host import Memory, devices_of, read_host

from mxcheck.pytest_plugin.snapshots.snapshot_files import extension_for
from mxcheck.pytest_plugin.xdist.xdist_scheduling import ModelScheduling
from mxcheck.scheduling.leases import Lease, Request
from mxcheck.scheduling.ledger import Ledger
from mxcheck.scheduling.placement import Group, Item, Placement

HOST = read_host(Path(os.environ.get("SIMULATED_HOST", ".")))


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedCase:
    model: str
    number: int
    seconds: float

    @property
    def id(self) -> str:
        return f"{self.model}-case{self.number}"

    @property
    def baseline(self) -> Path:
        return HOST.folder / "baselines" / self.model / f"case{self.number}.json"


CASES = [
    SimulatedCase(model=model.name, number=number, seconds=seconds)
    for model in HOST.models
    for number, seconds in enumerate(model.cases)
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", default="results.json")
    parser.addoption("--accept", default="")


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.known_args_namespace.dist != "no":
        return None  # another scheduler, to compare with
    by_id = {case.id: case for case in CASES}

    def make_placement(node_ids: Any) -> Placement[Any]:
        cases = [by_id[node_id.rpartition("[")[2][:-1]] for node_id in node_ids]
        return Placement(
            [Item(group=case.model, seconds=case.seconds) for case in cases],
            {model.name: Group(load_seconds=model.load, slots=model.devices) for model in HOST.models},
            HOST.devices * HOST.workers_per_device,
        )

    scheduling = ModelScheduling(config, log, make_placement)
    config.pluginmanager.register(scheduling)
    return scheduling


class Simulation:
    """One worker: the model that is loaded, its lease, its memory."""

    def __init__(self, accept: str) -> None:
        self.ledger = Ledger(Path(os.environ["MXCHECK_LEASES"]), used=Memory(HOST.folder, HOST).used)
        self.memory = Memory(HOST.folder, HOST)
        self.model = ""
        self.lease: Lease | None = None
        self.accept = accept

    def __call__(self, case: SimulatedCase, snapshot: Any) -> None:
        model = next(one for one in HOST.models if one.name == case.model)
        if self.model != case.model:
            self.free()
            request = Request(what=model.name, devices=model.devices, bytes_each=model.bytes_each)
            self.lease = self.ledger.acquire(request, devices_of(HOST))
            self.memory.allocate(list(self.lease.bytes_of), model.bytes_each)
            self.model = case.model
            self.note("load", model.name)
            time.sleep(model.load)
        time.sleep(case.seconds)
        self.wait_while_held()
        self.note("end", case.id)
        if self.accept:
            record = build_record(model=case.model, environment={"accepted": self.accept})
            assert snapshot.use_extension(extension_for(case.baseline, holds=False)) == record

    def note(self, what: str, name: str) -> None:
        with (HOST.folder / "events").open("a") as log:
            log.write(f"{time.time():.4f} {os.getpid()} {what} {name}\n")

    def wait_while_held(self) -> None:
        """From as many events on as the file `hold` says, wait until it is gone."""
        with suppress(FileNotFoundError):
            while (HOST.folder / "events").read_text().count("\n") >= int((HOST.folder / "hold").read_text()):
                time.sleep(0.005)

    def free(self) -> None:
        if self.lease is not None:
            self.memory.free(list(self.lease.bytes_of))
            self.ledger.release(self.lease)
        self.model, self.lease = "", None


@pytest.fixture(scope="session")
def simulation(request: pytest.FixtureRequest) -> Iterator[Simulation]:
    made = Simulation(request.config.getoption("accept"))
    request.config.stash[_SIMULATION] = made
    yield made
    made.free()
    made.ledger.close()


_SIMULATION = pytest.StashKey[Simulation]()


@pytest.fixture
def simulated(simulation: Simulation, snapshot: Any) -> Any:
    return lambda case: simulation(case, snapshot)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: Any) -> Any:
    yield
    made = item.config.stash.get(_SIMULATION, None)
    if made is not None and (nextitem is None or nextitem.callspec.params["case"].model != made.model):
        made.free()


_RESULTS = pytest.StashKey[dict[str, list[str]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RESULTS] = {}
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(config.stash[_RESULTS]))


class Results:
    """In the controller: how often each case ended, and how."""

    def __init__(self, found: dict[str, list[str]]) -> None:
        self._found = found

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.when == "call":
            self._found.setdefault(report.nodeid.rpartition("[")[2][:-1], []).append(report.outcome)

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionstart(self) -> Any:
        yield
        (HOST.folder / "started").touch()  # xdist has made its workers

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        (HOST.folder / session.config.getoption("results")).write_text(json.dumps(self._found))
