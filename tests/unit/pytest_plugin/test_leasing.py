"""What a model asks of the host, and what a worker does with its lease."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest

from mxcheck.measure.on_device import allocator_share
from mxcheck.measure.session import Session
from mxcheck.models.footprint import Footprint
from mxcheck.pytest_plugin.leasing import (
    Leasing,
    host_devices,
    looks_for_gpus,
    pin_visible_gpus,
    request_for,
    threads,
)
from mxcheck.pytest_plugin.settings import Settings
from mxcheck.pytest_plugin.work import estimated
from mxcheck.scheduling.devices import Device, Gpu, cores
from mxcheck.scheduling.leases import Request
from mxcheck.scheduling.ledger import Ledger

GIB = 2**30
Lay = Callable[..., Settings]
GPUS = [Device(name=f"GPU-{n}", index=n, slots=2, total_bytes=80 * GIB) for n in range(4)]
HOST = [Device(name="cpu", index=0, slots=4, total_bytes=64 * GIB)]


def model(weights: int, working: int) -> Footprint:
    return Footprint(
        weight_bytes=weights * GIB, working_bytes=working * GIB, case_seconds=1.0, load_seconds=1.0
    )


def test_one_device_or_as_many_as_it_takes() -> None:
    assert request_for("m", model(30, 10), GPUS, on_gpu=True) == Request(what="m", bytes_each=40 * GIB)
    # 250 GiB of weights over devices with room for 70 each.
    assert request_for("m", model(250, 10), GPUS, on_gpu=True) == Request(
        what="m", devices=4, bytes_each=int(72.5 * GIB)
    )


def test_twice_where_the_noise_is_measured_beside_it() -> None:
    assert request_for("m", model(30, 8), GPUS, on_gpu=True, twice=True) == Request(
        what="m", bytes_each=76 * GIB
    )
    # Two processes on each device: each has room for half of one.
    assert request_for("m", model(40, 10), GPUS, on_gpu=True, twice=True) == Request(
        what="m", devices=2, bytes_each=60 * GIB
    )


def test_unknown_models_take_a_device_for_themselves() -> None:
    assert request_for("m", None, GPUS, on_gpu=True) == Request(what="m", bytes_each=None)


def test_on_a_cpu_threads_are_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert request_for("m", model(2, 1), HOST, on_gpu=False) == Request(what="m", slots=3, bytes_each=3 * GIB)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")  # more than it has: torch will start them all the same
    assert request_for("m", model(2, 1), HOST, on_gpu=False).slots == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert threads() == 1


def test_a_model_that_no_number_of_devices_could_hold() -> None:
    with pytest.raises(ValueError, match=r"^m needs 81\.0 GiB beside its weights, got a device of 80\.0 GiB"):
        request_for("m", model(2, 81), GPUS, on_gpu=True)


def test_this_host_s_devices(lay: Lay) -> None:
    (host,) = host_devices(lay("--mx-workers-per-device", "3"), on_gpu=False)
    assert (host.name, host.slots) == ("cpu", 3 * cores())


def test_gpus_are_looked_for_with_a_torch_that_can_use_them(
    lay: Lay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by the file of its version, as torch's builds have it; torch is not imported."""
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')\n")
    spec = ModuleSpec("torch", None, origin=str(package / "__init__.py"))
    monkeypatch.setattr("mxcheck.pytest_plugin.leasing.find_spec", lambda _: spec)
    for cuda, hip, found in (("None", "None", False), ("'13.0'", "None", True), ("None", "'7.1'", True)):
        (package / "version.py").write_text(f"cuda: Optional[str] = {cuda}\nhip: Optional[str] = {hip}\n")
        assert looks_for_gpus(lay()) == found
        assert not looks_for_gpus(lay("--mx-device", "cpu"))


def test_gpus_are_named_before_cuda_counts_them(lay: Lay, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Gpu(index=index, uuid=uuid, model="H100", total_bytes=80 * GIB, free_bytes=80 * GIB)
        for index, uuid in enumerate(("GPU-aa", "GPU-bb"))
    ]
    monkeypatch.setattr("mxcheck.pytest_plugin.leasing.gpus", lambda: found)
    monkeypatch.setattr("mxcheck.pytest_plugin.leasing._torch_is_for_cpus", lambda: False)
    monkeypatch.setattr("mxcheck.pytest_plugin.leasing.missing", lambda _: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    settings = lay("--mx-workers-per-device", "2")
    assert [(device.name, device.index, device.slots) for device in host_devices(settings, on_gpu=True)] == [
        ("GPU-bb", 0, 2)
    ]
    pin_visible_gpus(lay("--mx-device", "cpu"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setattr("mxcheck.pytest_plugin.leasing.missing", lambda _: "pynvml is not installed")
    pin_visible_gpus(settings)  # the kernel suite, by the base alone
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setattr("mxcheck.pytest_plugin.leasing.missing", lambda _: None)
    pin_visible_gpus(settings)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bb"


def test_the_allocator_s_share_leaves_room_for_the_context() -> None:
    assert allocator_share(80 * GIB, 80 * GIB) == pytest.approx(1 - 0.5 / 80)
    assert allocator_share(40 * GIB, 80 * GIB) == pytest.approx(0.5 - 0.5 / 80)
    assert allocator_share(0, 80 * GIB) == 0.01


@pytest.fixture
def leasing(lay: Lay, configure: Callable[..., pytest.Config], tmp_path: Path) -> Leasing:
    settings = lay("--mx-device", "cpu", "--mx-leases", str(tmp_path / "leases"))
    return Leasing(configure(), settings, tell=lambda *_: None, twice=False)


def test_taken_whole_and_given_back(leasing: Leasing, lay: Lay, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "leases")
    known = estimated(lay(), "ref-llama")
    assert known is not None
    assert leasing.take("ref-llama", device="cpu", whole=False) == {0: known.bytes_needed}
    lease = leasing.lease
    assert lease is not None
    assert (lease.bytes_of, lease.slots_of) == ({"cpu": known.bytes_needed}, {"cpu": threads()})
    assert (ledger.leases(), leasing.names) == ([lease], ["cpu"])
    leasing.give_back()
    assert (leasing.lease, leasing.names, ledger.leases()) == (None, [], [])
    leasing.give_back()  # once more does nothing
    leasing.take("ref-llama", device="cpu", whole=True)
    assert leasing.lease is not None
    assert leasing.lease.slots_of == {"cpu": cores()}
    leasing.close()
    assert ledger.leases() == []


def test_what_does_not_become_resident_holds_nothing(
    lay: Lay, configure: Callable[..., pytest.Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out while a model loads: at first, and again with the host to itself."""
    settings = lay("--mx-device", "cpu", "--mx-leases", str(tmp_path / "leases"))
    held: list[dict[str, int]] = []

    def load(*_: Any, **__: Any) -> Any:
        held.extend(dict(lease.slots_of) for lease in Ledger(settings.leases).leases())
        raise MemoryError

    monkeypatch.setattr("mxcheck.models.load.load", load)
    leasing = Leasing(configure(), settings, tell=lambda *_: None, twice=False)
    session = Session(settings, shared=tmp_path, host=leasing)
    for larger in (True, False):
        with pytest.raises(MemoryError):
            session.resident("ref-llama")
        assert Ledger(settings.leases).leases() == []
        assert session.enlarge("ref-llama") == larger
    assert held == [{"cpu": 1}, {"cpu": cores()}]
    leasing.close()


def test_a_model_of_which_nothing_is_known_had_its_devices_whole(
    lay: Lay, configure: Callable[..., pytest.Config], tmp_path: Path
) -> None:
    models = ("--mx-models", "ref-llama,some/model", "--mx-leases", str(tmp_path / "leases"))
    leasing = Leasing(configure(), lay(*models), tell=lambda *_: None, twice=False)
    assert leasing.can_give_more("ref-llama")
    assert not leasing.can_give_more("some--model")
    leasing.close()
