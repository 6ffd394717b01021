"""What a host has: nvidia-smi's lines, CUDA_VISIBLE_DEVICES, cores and memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

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
    parse,
    used_bytes,
    visible,
)

MIB = 2**20
#: The form of the answer to --query-gpu=index,uuid,name,memory.total,memory.free, as NVIDIA documents it.
ANSWER = """\
0, GPU-11111111-aaaa-bbbb-cccc-000000000000, NVIDIA H100 80GB HBM3, 81559, 81004
1, GPU-22222222-aaaa-bbbb-cccc-000000000000, NVIDIA H100 80GB HBM3, 81559, 1024
"""
H100 = parse(ANSWER)
MIXED = [*H100, Gpu(index=2, uuid="GPU-333", model="NVIDIA L4", total_bytes=24, free_bytes=24)]


def test_the_answer_of_nvidia_smi() -> None:
    assert [(gpu.index, gpu.uuid[:12], gpu.total_bytes // MIB, gpu.free_bytes // MIB) for gpu in H100] == [
        (0, "GPU-11111111", 81559, 81004),
        (1, "GPU-22222222", 81559, 1024),
    ]


@pytest.mark.parametrize("line", ["0, GPU-1, H100, [N/A], 5", "something else", "0, GPU-1, H100, 5"])
def test_another_answer_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"^nvidia-smi says .* expected index,uuid,name"):
        parse(line)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, first on the path: there is no driver here that could answer."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{ANSWER}END\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return program


def test_gpus_are_asked_of_the_program(nvidia_smi: Path) -> None:
    assert gpus() == H100
    assert used_bytes(gpu_devices(H100, workers_per_device=1)) == {
        H100[0].uuid: 555 * MIB,
        H100[1].uuid: 80535 * MIB,
    }
    nvidia_smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    assert gpus() == []


def test_no_program_no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == []


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


def test_a_driver_that_does_not_answer(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_ANSWER_SECONDS", 0.1)
    nvidia_smi.write_text("#!/bin/sh\nexec sleep 30\n")
    with pytest.raises(ValueError, match=r"^nvidia-smi does not answer .*give --mx-device=cpu$"):
        gpus()
    nvidia_smi.write_text("#!/no/such/interpreter\n")
    with pytest.raises(ValueError, match=r"^nvidia-smi does not answer"):
        gpus()
