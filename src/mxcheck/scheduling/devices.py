"""The devices that a host can lease: its GPUs, or, without GPUs, its cores and memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from mxcheck.extras import require

CPU = "cpu"
#: The NVIDIA driver's device, where this process may reach it; under WSL only nvidia-smi tells. (A container
#: without GPUs sees the host's /proc/driver/nvidia too.)
_DRIVER = Path("/dev/nvidiactl")
#: Seconds to wait for the driver: it answers in well under a second, but never when it is faulty.
_ANSWER_SECONDS = 60.0
_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device.

    Attributes:
        name: its name in the ledger: `cpu`, or a GPU's UUID, which is the same in every process.
        index: its index among the devices that this process may use, which is CUDA's.
        slots: number of simultaneous leases: workers on a GPU, threads on the CPU.
        total_bytes: its memory.
    """

    name: str
    index: int
    slots: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What NVML says of a GPU: memory in bytes, index in the PCI bus order (as nvidia-smi)."""

    index: int
    uuid: str
    model: str
    total_bytes: int
    free_bytes: int


def gpus() -> list[Gpu]:
    """Return all GPUs of the host, without a CUDA context: none without an NVIDIA driver.

    Raises ValueError, in one line, where the driver does not answer; NotInstalledError where there is one and
    nvidia-ml-py, which asks it, is absent.
    """
    if not _DRIVER.exists() and shutil.which("nvidia-smi") is None:
        return []
    require("pynvml", "asking the NVIDIA driver for this host's GPUs (if --mx-device is not cpu)")
    import pynvml

    answers: Queue[list[Gpu] | pynvml.NVMLError] = Queue()
    # A call that hangs in the driver cannot be interrupted; a daemon does not keep the process.
    Thread(target=_ask, args=(answers,), daemon=True).start()
    try:
        found = answers.get(timeout=_ANSWER_SECONDS)
    except Empty:
        found = TimeoutError(f"no answer in {_ANSWER_SECONDS:g} s")
    if isinstance(found, pynvml.NVMLError_LibraryNotFound | pynvml.NVMLError_DriverNotLoaded):
        return []
    if isinstance(found, Exception):
        raise ValueError(f"the NVIDIA driver fails ({found}); look at it, or give --mx-device=cpu") from found
    return found


def _ask(answers: Queue[Any]) -> None:
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        answers.put([_gpu(index, handle) for index, handle in enumerate(handles)])
        pynvml.nvmlShutdown()
    except Exception as error:  # noqa: BLE001  (reported, whatever it is: else the wait for an answer ends late)
        answers.put(error)


def _gpu(index: int, handle: Any) -> Gpu:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        index=index,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        model=pynvml.nvmlDeviceGetName(handle),
        total_bytes=memory.total,
        free_bytes=memory.free,
    )


def visible(found: Sequence[Gpu], environ: Mapping[str, str] = os.environ) -> list[Gpu]:
    """Return the GPUs in CUDA_VISIBLE_DEVICES, in its order; as in CUDA, the first entry that names no GPU
    ends the list.

    Raises ValueError where an index is ambiguous: CUDA counts the fastest GPU first unless CUDA_DEVICE_ORDER
    is PCI_BUS_ID, so with different GPUs an index could mean another one in CUDA than here. Also raises it
    for a part of a GPU (MIG), whose memory NVML reports apart.
    """
    named = environ.get("CUDA_VISIBLE_DEVICES")
    mixed = len({gpu.model for gpu in found}) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"
    if named is None:
        if mixed:
            raise ValueError(
                f"this host has different GPUs ({', '.join(sorted({gpu.model for gpu in found}))}); set "
                f"CUDA_DEVICE_ORDER=PCI_BUS_ID, so that CUDA and nvidia-smi give them the same numbers"
            )
        return list(found)
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in named.split(",")):
        if entry.startswith("MIG"):
            raise ValueError(
                f"CUDA_VISIBLE_DEVICES={named}: parts of a GPU (MIG) cannot be leased; name whole GPUs"
            )
        if entry.isdecimal() and mixed:
            raise ValueError(
                f"CUDA_VISIBLE_DEVICES={named}: this host has different GPUs, and CUDA counts the fastest "
                f"first; set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name GPUs by their UUID"
            )
        match = [
            gpu
            for gpu in found
            if (entry.isdecimal() and gpu.index == int(entry))
            or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))
        ]
        if len(match) != 1 or match[0] in chosen:
            break
        chosen += match
    return chosen


def gpu_devices(found: Sequence[Gpu], *, workers_per_device: int) -> list[Device]:
    """Return the leasable devices of the visible GPUs."""
    return [
        Device(name=gpu.uuid, index=index, slots=workers_per_device, total_bytes=gpu.total_bytes)
        for index, gpu in enumerate(found)
    ]


def cpu_device(*, workers_per_device: int) -> Device:
    """Return the device of a host without GPUs, with its cores as slots."""
    return Device(name=CPU, index=0, slots=cores() * workers_per_device, total_bytes=memory_bytes())


def cores() -> int:
    """Return the number of cores that this process may use; at least one."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups():
        quota = _words(group / "cpu.max")  # microseconds of a period, or `max`
        if len(quota) == 2 and quota[0].isdecimal():
            mine = min(mine, max(1, int(quota[0]) // int(quota[1])))
    return mine


def memory_bytes() -> int:
    """Return the memory that this process may use: the machine's, or its container's."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_limits().values()])


def _limits() -> dict[Path, int]:
    """Return the memory limits of this process, by control group (version 2)."""
    found = {group: _words(group / "memory.max") for group in _groups()}
    return {group: int(words[0]) for group, words in found.items() if words and words[0].isdecimal()}


def _groups() -> list[Path]:
    """Return the control groups of this process, innermost first: a container's, or a batch job's."""
    own = [line.removeprefix("0::") for line in _text("/proc/self/cgroup").splitlines() if line[:3] == "0::"]
    inner = _CGROUPS / own[0].lstrip("/") if own else _CGROUPS
    return [group for group in (inner, *inner.parents) if group.is_relative_to(_CGROUPS)]


def used_bytes(devices: Sequence[Device]) -> dict[str, int]:
    """Return the memory now in use on each device, by any process; devices without this information are
    omitted."""
    names = {device.name: device.total_bytes for device in devices}
    found = [] if names.keys() <= {CPU} else gpus()
    used = {gpu.uuid: gpu.total_bytes - gpu.free_bytes for gpu in found if gpu.uuid in names}
    if CPU in names:
        used[CPU] = _used_memory(names[CPU])
    return used


def _used_memory(total: int) -> int:
    """Return the memory in use without the kernel's reclaimable part: of the control group with the limit,
    else of the machine."""
    for group, limit in _limits().items():
        if limit == total and (words := _words(group / "memory.current")):
            cached = [words[1] for words in _lines(group / "memory.stat") if words[0] == "inactive_file"]
            return max(0, int(words[0]) - int(cached[0] if cached else 0))
    available = [words[1] for words in _lines("/proc/meminfo") if words[:1] == ["MemAvailable:"]]
    return max(0, total - int(available[0]) * 1024) if available else 0


def _words(path: Path) -> list[str]:
    return next(iter(_lines(path)), [])


def _lines(path: Path | str) -> list[list[str]]:
    return [line.split() for line in _text(path).splitlines() if line.strip()]


def _text(path: Path | str) -> str:
    file = Path(path)
    return file.read_text() if file.is_file() else ""
