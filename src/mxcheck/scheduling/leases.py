"""The rules that grant leases, on plain data. `ledger.py` keeps them in a file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mxcheck.scheduling.devices import CPU, Device

_GIB = 2**30
#: Share of a device by which a request may exceed its free memory if none of our leases is on it.
_SLACK = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request for resources, granted as a whole or not at all.

    Attributes:
        what: its purpose, for people.
        devices: number of devices.
        slots: slots on each: 1 on a GPU, threads on the CPU.
        bytes_each: memory on each; None: the whole device, without another of our leases.
    """

    what: str
    devices: int = 1
    slots: int = 1
    bytes_each: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A holder's resources: memory and slots of each device, by name."""

    holder: str
    what: str
    bytes_of: Mapping[str, int]
    slots_of: Mapping[str, int]


def check(request: Request, devices: Sequence[Device]) -> None:
    """Raise ValueError for a request that this host could not grant if it were idle."""
    if len(devices) < request.devices:
        raise ValueError(f"{request.what} needs {request.devices} devices, this host has {len(devices)}")
    wide = [device for device in devices if request.slots <= device.slots]
    if len(wide) < request.devices:
        most = max(device.slots for device in devices)
        raise ValueError(f"{request.what} needs {request.slots} threads, this host has {most}")
    needed = request.bytes_each or 0
    fitting = [device for device in wide if needed <= device.total_bytes]
    if len(fitting) < request.devices:
        sizes = ", ".join(f"{device.total_bytes / _GIB:.1f}" for device in devices)
        where = "this host has" if devices[0].name == CPU else "its devices have"
        each = f" on each of {request.devices} devices" if request.devices > 1 else ""
        raise ValueError(
            f"{request.what} needs about {needed / _GIB:.1f} GiB{each}, {where} {sizes} GiB; lower "
            f"--mx-batch-size or --mx-sequence-length, or run it on a larger one"
        )


def _lets_in(device: Device, missing: int) -> bool:
    """Return whether to grant a device, or a host, without our leases though its memory falls short.

    Estimates are no more exact than this; and the memory in use on an empty GPU may be the requester's own
    CUDA context. Waiting does not help on a host without GPUs: every desktop uses some of its memory.
    """
    return device.name == CPU or missing <= _SLACK * device.total_bytes


def others_hold(
    device: Device, leases: Collection[Lease], used: Mapping[str, int], seen: Mapping[str, int]
) -> int:
    """Estimate the bytes of a device that processes outside the ledger hold.

    Without our leases on it, that is all memory in use. With leases, their memory may not be allocated yet,
    so the last reading without leases remains valid, plus any use beyond all leases.
    """
    if device.name not in used:
        return seen.get(device.name, 0)
    leased = [lease.bytes_of[device.name] for lease in leases if device.name in lease.bytes_of]
    if not leased:
        return used[device.name]
    return max(seen.get(device.name, 0), used[device.name] - sum(leased))


def grant(
    request: Request,
    devices: Sequence[Device],
    leases: Collection[Lease],
    others: Mapping[str, int],
    *,
    holder: str,
    min_free_ratio: float = 0.0,
    prefer: Collection[str] = (),
) -> Lease | str:
    """Return the lease, or a short reason why it must wait.

    Args:
        request: the requested resources.
        devices: the available devices.
        leases: the leases of other holders.
        others: bytes that processes outside the ledger hold, by device.
        min_free_ratio: a GPU with a smaller share of free memory, outside our leases, is not used. This does
            not apply to a host's memory: every desktop uses some of it.
        prefer: devices that the holder has used: its CUDA context remains there.
    """
    fitting: list[tuple[tuple[bool, int, int, int], Device, int]] = []
    reasons = []
    for device in devices:
        slots = sum(lease.slots_of.get(device.name, 0) for lease in leases)
        leased = sum(lease.bytes_of.get(device.name, 0) for lease in leases)
        foreign = others.get(device.name, 0)
        left = device.total_bytes - foreign - leased
        wanted = left if request.bytes_each is None else request.bytes_each
        taken = device.slots if request.bytes_each is None else request.slots
        if device.name != CPU and device.total_bytes - foreign < min_free_ratio * device.total_bytes:
            reasons.append(
                f"others hold {foreign / _GIB:.1f} of {device.total_bytes / _GIB:.1f} GiB of device "
                f"{device.index}, and --mx-min-free-ratio is {min_free_ratio:g}"
            )
        elif slots + taken > device.slots:
            reasons.append(f"device {device.index} is taken")
        elif wanted > left and (slots or not _lets_in(device, wanted - left)):
            reasons.append(f"{left / _GIB:.1f} of {wanted / _GIB:.1f} GiB is free on device {device.index}")
        else:
            wanted = min(wanted, left) if device.name != CPU else wanted
            fitting.append(((device.name not in prefer, slots, leased, device.index), device, wanted))
    if len(fitting) < request.devices:
        return "; ".join(dict.fromkeys(reasons))
    fitting.sort(key=lambda one: one[0])
    chosen = [(device, wanted) for _, device, wanted in fitting[: request.devices]]
    return Lease(
        holder=holder,
        what=request.what,
        bytes_of={device.name: wanted for device, wanted in chosen},
        slots_of={
            device.name: device.slots if request.bytes_each is None else request.slots for device, _ in chosen
        },
    )
