"""What machine this is, and whether leases say of its memory what the driver says."""

from __future__ import annotations

import platform
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mxcheck.measure import cuda
from mxcheck.scheduling.devices import CPU, Device, cpu_device, gpu_devices, gpus, used_bytes, visible
from mxcheck.scheduling.leases import Request
from mxcheck.scheduling.ledger import Ledger

_MIB, _GIB = 2**20, 2**30
#: What the lease is for, and what is put into it: well above what a context takes, well below any GPU.
_LEASED, _TAKEN = 3 * _GIB, _GIB
#: The driver keeps some hundreds of MiB from torch's total.
_SAME_TOTAL = 0.02
#: What else a process has on a GPU beside its tensors: a context, and what the allocator rounds to.
_BESIDE = _GIB
_PACKAGES = ("torch", "transformers", "numpy", "safetensors", "pytest", "pytest-xdist", "syrupy", "filelock")


def measure(device: str, *, short: bool) -> tuple[dict[str, Any], list[str]]:
    """Facts, a lease's figures in MiB, and what is wrong with them."""
    del short  # it takes no time worth saving
    leased, wrong = _leases(device)
    return {"machine": _facts(device), "leases": leased}, wrong


def _facts(device: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"python": platform.python_version(), "packages": _versions()}
    if device == CPU:
        return facts | {"device": "cpu"}
    properties = torch.cuda.get_device_properties(0)
    return facts | {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_mib": properties.total_memory // _MIB,
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "devices": torch.cuda.device_count(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _devices(device: str) -> list[Device]:
    if device == CPU:
        return [cpu_device(workers_per_device=1)]
    return gpu_devices(visible(gpus()), workers_per_device=1)


def _leases(device: str) -> tuple[dict[str, Any], list[str]]:
    """Take a lease, fill a part of it, go beyond it, give it back; at each step, what the driver says."""
    devices = _devices(device)
    if not devices:
        return {}, ["the driver lists no GPU, and torch finds one: a lease could not tell GPUs apart"]
    with tempfile.TemporaryDirectory(prefix="mxcheck-gpu-leases-") as folder:
        ledger = Ledger(Path(folder))
        lease = ledger.acquire(Request(what="gpu check", bytes_each=_LEASED), devices)
        held = [one for one in devices if one.name in lease.bytes_of]
        cuda.use(device, lease, held)
        found = {"leased": lease.bytes_of[held[0].name], "total": held[0].total_bytes}
        found |= _filled(device, held)
        ledger.release(lease)
        ledger.close()
    wrong = [] if device == CPU else _disagreements(found)
    figures = {name: value if isinstance(value, bool) else value // _MIB for name, value in found.items()}
    return figures, wrong


def _filled(device: str, held: list[Device]) -> dict[str, Any]:
    """Bytes in use by the driver and by torch, before, with and after a tensor; and whether a tensor beyond
    the lease was refused."""
    (name,), indices = [one.name for one in held], tuple(one.index for one in held)
    torch.zeros(1, device=device)  # the context is there before anything is compared
    found: dict[str, Any] = {"used_before": used_bytes(held).get(name, 0)}
    tensor = torch.ones(_TAKEN, dtype=torch.uint8, device=device)
    found["used_with"] = used_bytes(held).get(name, 0)
    found["torch_with"] = cuda.memory_bytes(device, indices)
    del tensor
    if device != CPU:
        found["torch_total"] = torch.cuda.get_device_properties(0).total_memory
        found["refused_beyond"] = _is_refused(device)
    cuda.empty(device)
    found["used_after"] = used_bytes(held).get(name, 0)
    return found


def _is_refused(device: str) -> bool:
    try:
        torch.empty(2 * _LEASED, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        return True
    return False


def _disagreements(found: dict[str, Any]) -> list[str]:
    """What of a lease's figures (bytes) the driver does not bear out."""
    grown, shrunk = found["used_with"] - found["used_before"], found["used_with"] - found["used_after"]
    total, torch_total = found["total"], found["torch_total"]
    checks = {
        f"the driver has {total} bytes of memory, torch {torch_total}": (
            abs(total - torch_total) <= _SAME_TOTAL * total
        ),
        f"a tensor of {_TAKEN} bytes raised what the driver says is in use by {grown}": (
            _TAKEN - _MIB <= grown <= _TAKEN + _BESIDE
        ),
        f"the allocator gave back {shrunk} of {_TAKEN} bytes": shrunk >= _TAKEN // 2,
        f"a tensor of {2 * _LEASED} bytes was allowed under a lease of {found['leased']}": (
            found["refused_beyond"]
        ),
    }
    return [problem for problem, holds in checks.items() if not holds]
