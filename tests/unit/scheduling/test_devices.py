"""What a host has: GPUs that NVML lists, CUDA_VISIBLE_DEVICES, cores and memory."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import psutil
import pytest

from mxcheck.scheduling import devices
from mxcheck.scheduling.devices import (
    Gpu,
    cores,
    cpu_device,
    gpu_devices,
    gpus,
    memory_bytes,
    used_bytes,
    visible,
)

MIB = 2**20
H100 = [
    Gpu(
        index=index,
        uuid=f"GPU-{str(index + 1) * 8}-aaaa-bbbb-cccc-000000000000",
        model="NVIDIA H100 80GB HBM3",
        total_bytes=81559 * MIB,
        free_bytes=free * MIB,
    )
    for index, free in enumerate((81004, 1024))
]
MIXED = [*H100, Gpu(index=2, uuid="GPU-333", model="NVIDIA L4", total_bytes=24, free_bytes=24)]


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """NVIDIA's own package, on a host that says that it has a driver."""
    library = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: make install")
    monkeypatch.setattr(devices, "_DRIVER", tmp_path)
    return library


@pytest.fixture
def driver(nvml: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The same with every call to the driver answered as NVIDIA documents it: there is no driver here."""
    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(H100),
        "nvmlDeviceGetHandleByIndex": lambda index: H100[index],
        "nvmlDeviceGetUUID": lambda gpu: gpu.uuid,
        "nvmlDeviceGetName": lambda gpu: gpu.model,
        "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(total=gpu.total_bytes, free=gpu.free_bytes),
    }
    for name, answer in answers.items():
        assert hasattr(nvml, name)
        monkeypatch.setattr(nvml, name, answer)
    return nvml


@pytest.mark.usefixtures("driver")
def test_gpus_are_asked_of_the_driver() -> None:
    assert gpus() == H100
    assert used_bytes(gpu_devices(H100, workers_per_device=1)) == {
        H100[0].uuid: 555 * MIB,
        H100[1].uuid: 80535 * MIB,
    }


def test_no_library_of_the_driver_no_gpus(nvml: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise nvml.NVMLError(nvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(nvml, "nvmlInit", absent)
    assert gpus() == []


def test_no_driver_no_gpus_and_nothing_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "absent")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpus() == []
    assert used_bytes([cpu_device(workers_per_device=1)]).keys() == {"cpu"}


def test_a_driver_needs_the_package_that_asks_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "_DRIVER", tmp_path)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(ValueError, match=r"needs pynvml, .*: pip install 'mxcheck\[gpu\]'$"):
        gpus()
    assert used_bytes([cpu_device(workers_per_device=1)]).keys() == {"cpu"}  # the driver is not asked


@pytest.mark.parametrize(
    ("named", "found"),
    [
        (None, [0, 1]),
        ("", []),
        ("-1", []),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("GPU-2222", [1]),
        ("GPU-2222,GPU-1111", [1, 0]),
        ("0,7,1", [0]),
        ("0,0,1", [0]),
        ("GPU-", []),
    ],
)
def test_visible_as_cuda_has_it(named: str | None, found: list[int]) -> None:
    environ = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    assert [gpu.index for gpu in visible(H100, environ)] == found


@pytest.mark.parametrize("named", [None, "0", "1,2"])
def test_different_gpus_need_an_order(named: str | None) -> None:
    environ = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    with pytest.raises(ValueError, match="set CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        visible(MIXED, environ)
    assert visible(MIXED, environ | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert [gpu.index for gpu in visible(MIXED, {"CUDA_VISIBLE_DEVICES": "GPU-333"})] == [2]


def test_parts_of_a_gpu_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^CUDA_VISIBLE_DEVICES=MIG-1: parts of a GPU \(MIG\) cannot be leased"
    ):
        visible(H100, {"CUDA_VISIBLE_DEVICES": "MIG-1"})


def test_indices_are_cudas_own() -> None:
    found = gpu_devices(visible(H100, {"CUDA_VISIBLE_DEVICES": "1,0"}), workers_per_device=2)
    assert [(device.name[:8], device.index, device.slots) for device in found] == [
        ("GPU-2222", 0, 2),
        ("GPU-1111", 1, 2),
    ]


def test_this_machine() -> None:
    assert 1 <= cores() <= psutil.cpu_count()
    assert 0 < memory_bytes() <= psutil.virtual_memory().total
    host = cpu_device(workers_per_device=3)
    assert (host.name, host.slots, host.total_bytes) == ("cpu", 3 * cores(), memory_bytes())
    before = memory_bytes() - psutil.virtual_memory().available
    used = used_bytes([host])["cpu"]
    after = memory_bytes() - psutil.virtual_memory().available
    # Others take and give back memory meanwhile.
    assert min(before, after) - 2**30 < used < max(before, after) + 2**30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups of a batch job: the process is in `job/step`."""
    step = tmp_path / "job" / "step"
    step.mkdir(parents=True)
    monkeypatch.setattr(devices, "_CGROUPS", tmp_path)
    texts = {"/proc/self/cgroup": "0::/job/step\n"}
    read = devices._text
    monkeypatch.setattr(devices, "_text", lambda path: texts.get(str(path)) or read(path))
    return tmp_path


def test_limits_of_every_group_that_it_is_in(groups: Path) -> None:
    machine = memory_bytes()
    (groups / "job" / "step" / "cpu.max").write_text("max 100000\n")
    (groups / "job" / "cpu.max").write_text("150000 100000\n")
    (groups / "job" / "memory.max").write_text(f"{2 * MIB}\n")
    (groups / "memory.max").write_text("max\n")
    assert cores() == 1
    assert memory_bytes() == 2 * MIB
    (groups / "job" / "step" / "memory.max").write_text(f"{MIB}\n")
    assert memory_bytes() == MIB
    (groups / "job" / "step" / "memory.max").unlink()
    (groups / "job" / "memory.max").write_text("max\n")
    assert memory_bytes() == machine


def test_use_is_that_of_the_group_with_the_limit(groups: Path) -> None:
    (groups / "job" / "memory.max").write_text(f"{8 * MIB}\n")
    (groups / "job" / "memory.current").write_text(f"{5 * MIB}\n")
    (groups / "job" / "memory.stat").write_text(f"anon 7\ninactive_file {2 * MIB}\n")
    host = cpu_device(workers_per_device=1)
    assert used_bytes([host]) == {"cpu": 3 * MIB}


def test_a_driver_that_fails(driver: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_: int) -> None:
        raise driver.NVMLError(driver.NVML_ERROR_GPU_IS_LOST)

    monkeypatch.setattr(driver, "nvmlDeviceGetHandleByIndex", lost)
    with pytest.raises(
        ValueError, match=r"^the NVIDIA driver fails \(GPU is lost\); .* give --mx-device=cpu$"
    ):
        gpus()


def test_a_driver_whose_answer_cannot_be_read(driver: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only NVML's own errors: the thread that asks must answer in any case."""
    monkeypatch.setattr(driver, "nvmlDeviceGetName", lambda _: b"\xff".decode())
    with pytest.raises(ValueError, match=r"^the NVIDIA driver fails \('utf-8' codec can't decode"):
        gpus()


def test_a_driver_that_does_not_answer(driver: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_ANSWER_SECONDS", 0.1)
    ended = threading.Event()
    monkeypatch.setattr(driver, "nvmlInit", ended.wait)
    try:
        with pytest.raises(ValueError, match=r"^the NVIDIA driver fails \(no answer in 0\.1 s\); "):
            gpus()
    finally:
        ended.set()
