"""A host that is not there: devices with memory, models that take time to load, cases that sleep and
allocate.

The run is real: pytest, xdist, our scheduler, our ledger. Who allocates what is kept apart from the ledger,
in a file a device, so that the one checks the other. Used by tests and by the benchmark.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mxcheck.scheduling.devices import Device

ROOT = Path(__file__).parents[2]
GIB = 2**30

_PLUGINS = ("-p", "xdist", "-p", "syrupy", "-p", "mxcheck.pytest_plugin.plugin")

CONFTEST = """
from simulated_worker import *
"""
SUITE = """
import pytest
from simulated_worker import CASES

@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_simulated(case, simulated):
    simulated(case)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One simulated model: seconds to load, seconds of each case, and what it takes."""

    name: str
    load: float
    cases: tuple[float, ...]
    devices: int
    bytes_each: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A folder with a project, models and devices in it."""

    folder: Path
    models: tuple[Model, ...]
    devices: int
    device_bytes: int = 80 * GIB
    workers_per_device: int = 1

    @property
    def seconds(self) -> float:
        """The least time that all of it can take: every device busy all the time, every model loaded once."""
        total = sum((model.load + sum(model.cases)) * model.devices for model in self.models)
        longest = max(model.load + max(model.cases) for model in self.models)
        return max(total / self.devices, longest)

    @property
    def makespan(self) -> float:
        """Seconds from the first load to the last case's end, of a run that is over."""
        times = [float(line.split()[0]) for line in (self.folder / "events").read_text().splitlines()]
        return max(times) - min(times)

    def write(self) -> Host:
        """Make the project."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "pytest.ini").write_text("[pytest]\n")
        (self.folder / "conftest.py").write_text(CONFTEST)
        (self.folder / "test_simulated.py").write_text(SUITE)
        (self.folder / "host.json").write_text(json.dumps(asdict(self), default=str))
        return self

    def start(
        self, *arguments: str, python: str = sys.executable, **environment: str
    ) -> subprocess.Popen[str]:
        """The real pytest on it, in the background."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PYTEST_") and name != "CI"
        }
        path = os.pathsep.join([str(ROOT / "src"), str(Path(__file__).parent)])
        return subprocess.Popen(
            [python, "-m", "pytest", "-p", "no:cacheprovider", *_PLUGINS, *arguments],
            cwd=self.folder,
            env={
                **inherited,
                # Others, Hypothesis for one, take half of a process's start.
                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                "PYTHONPATH": path,
                "MXCHECK_LEASES": str(self.folder / "leases"),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def read_host(folder: Path) -> Host:
    """What `Host.write` wrote."""
    data: dict[str, Any] = json.loads((folder / "host.json").read_text())
    models = tuple(Model(**{**one, "cases": tuple(one["cases"])}) for one in data.pop("models"))
    return Host(**{**data, "folder": folder, "models": models})


def draw_models(seed: int, *, count: int, cases: int, wide: int, scale: float) -> tuple[Model, ...]:
    """Models with random times, `wide` of which need two devices. `scale` is a case's mean in seconds."""
    chosen = random.Random(seed)
    return tuple(
        Model(
            name=f"model{number:02}",
            load=scale * chosen.uniform(0.5, 1.5),
            cases=tuple(scale * chosen.uniform(0.4, 1.6) for _ in range(cases)),
            devices=2 if number < wide else 1,
            bytes_each=chosen.randrange(30, 75) * GIB,
        )
        for number in range(count)
    )


def devices_of(host: Host) -> list[Device]:
    """Its devices, as the ledger knows them."""
    return [
        Device(
            name=f"GPU-{number}", index=number, slots=host.workers_per_device, total_bytes=host.device_bytes
        )
        for number in range(host.devices)
    ]


class Memory:
    """The devices' memory: who has how much, whatever the ledger says."""

    def __init__(self, folder: Path, host: Host) -> None:
        self._folder = folder / "memory"
        self._folder.mkdir(exist_ok=True)
        self._host = host

    @contextmanager
    def _of(self, device: str) -> Iterator[dict[str, int]]:
        with (self._folder / f"{device}.json").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            taken = {pid: size for pid, size in json.loads(text or "{}").items() if lives(int(pid))}
            yield taken
            file.truncate(0)
            file.write(json.dumps(taken))

    def allocate(self, names: Sequence[str], size: int) -> None:
        """Take memory, and write down where there was not enough, or one process too many."""
        for name in names:
            with self._of(name) as taken:
                taken[str(os.getpid())] = size
                over = sum(taken.values()) > self._host.device_bytes
                if over or len(taken) > self._host.workers_per_device:
                    with (self._folder / "oversubscribed").open("a") as log:
                        log.write(f"{time.time()}: {name}: {taken}\n")

    def free(self, names: Sequence[str]) -> None:
        """Give it back."""
        for name in names:
            with self._of(name) as taken:
                taken.pop(str(os.getpid()), None)

    def used(self, devices: Sequence[Device]) -> dict[str, int]:
        """What the driver would say."""
        found = {}
        for device in devices:
            with self._of(device.name) as taken:
                found[device.name] = sum(taken.values())
        return found

    @property
    def oversubscribed(self) -> list[str]:
        """Every moment at which a device had to hold more than it has."""
        log = self._folder / "oversubscribed"
        return log.read_text().splitlines() if log.exists() else []


#: Of the kernel's flags of a process (include/linux/sched.h): it is about to end.
_PF_EXITING = 0x4


def lives(pid: int) -> bool:
    """Whether a process has memory. One that ends loses it before its locks, but is no zombie at once."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return state != "Z" and not int(fields[5]) & _PF_EXITING
