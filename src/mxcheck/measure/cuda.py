"""Apply a lease to torch. The CUDA parts were written from its documentation and have not been run."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mxcheck.models.zoo.cards import GIB
from mxcheck.scheduling.devices import CPU, Device
from mxcheck.scheduling.leases import Lease

#: Size of a CUDA context, which is outside of torch's allocator.
_CONTEXT_BYTES = GIB // 2


def use(device: str, lease: Lease, devices: Sequence[Device]) -> None:
    """Put torch on the leased devices, and limit its allocator to the lease."""
    if device == CPU:
        return
    import torch

    torch.cuda.set_device(devices[0].index)
    for one in devices:
        share = allocator_share(lease.bytes_of[one.name], one.total_bytes)
        torch.cuda.set_per_process_memory_fraction(share, one.index)


def allocator_share(lease_bytes: int, total_bytes: int) -> float:
    """Return the share of a GPU that torch's allocator may use under a lease; the context is outside of
    it."""
    return max(0.01, min(1.0, (lease_bytes - _CONTEXT_BYTES) / total_bytes))


def empty(device: str) -> None:
    """Release what torch's allocator keeps of a freed model. On a CPU it keeps nothing."""
    if device == CPU:
        return
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def memory_bytes(device: str, indices: Sequence[int]) -> int:
    """Return the memory that this process takes: on GPUs by torch's allocator, else of the host."""
    if device == CPU:
        pages = Path("/proc/self/statm")
        return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.is_file() else 0
    import torch

    return sum(torch.cuda.memory_reserved(index) for index in indices)


def forget_peak(device: str, indices: Sequence[int]) -> None:
    """Let `peak_bytes` of GPUs begin anew."""
    if device == CPU:
        return
    import torch

    for index in indices:
        torch.cuda.reset_peak_memory_stats(index)


def peak_bytes(device: str, indices: Sequence[int]) -> int:
    """Return the most memory taken: on GPUs by torch's tensors since `forget_peak`, else of the host by this
    process since it began (what resets that would mislead others who measure the process)."""
    if device == CPU:
        if sys.platform == "win32":
            return 0
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    import torch

    return sum(torch.cuda.max_memory_allocated(index) for index in indices)


def torch_devices(*, workers_per_device: int) -> list[Device]:
    """Return the GPUs that torch finds, where NVML tells of none: memory held by others is not known."""
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(
            Device(
                name=f"GPU-{properties.uuid}",
                index=index,
                slots=workers_per_device,
                total_bytes=properties.total_memory,
            )
        )
    return found
