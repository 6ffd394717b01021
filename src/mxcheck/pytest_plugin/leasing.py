"""One worker's lease: the host's resources for its model, while the model is resident."""

from __future__ import annotations

import faulthandler
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from mxcheck.extras import missing
from mxcheck.measure import on_device
from mxcheck.models.cards import GIB
from mxcheck.models.footprint import Footprint
from mxcheck.pytest_plugin.settings import Settings
from mxcheck.pytest_plugin.work import estimated
from mxcheck.scheduling.devices import CPU, Device, cpu_device, gpu_devices, gpus, visible
from mxcheck.scheduling.leases import Lease, Request
from mxcheck.scheduling.ledger import Ledger

#: Memory of a CUDA context, cuBLAS's workspace and the tensors of a small model.
_LEAST_OF_A_GPU = GIB


def host_devices(settings: Settings, *, on_gpu: bool) -> list[Device]:
    """Return the host's devices for the run: its visible GPUs, or its cores. Raises ValueError, in one line,
    for GPUs that cannot be distinguished."""
    if on_gpu and (found := visible(gpus())):
        return gpu_devices(found, workers_per_device=settings.workers_per_device)
    return [cpu_device(workers_per_device=settings.workers_per_device)]


def looks_for_gpus(settings: Settings) -> bool:
    """Return whether the run would use GPUs where present. Torch is not imported, since the controller does
    not: the version file identifies a CPU build."""
    return settings.device != "cpu" and not _torch_is_for_cpus()


def _torch_is_for_cpus() -> bool:
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        return True
    text = (Path(torch.origin).parent / "version.py").read_text(encoding="utf-8")
    return all(re.search(rf"^{kind}\b.*= None$", text, re.MULTILINE) for kind in ("cuda", "hip"))


def pin_visible_gpus(settings: Settings) -> None:
    """Make CUDA count the GPUs as we do, by setting their names before torch first looks for them, and only
    then. Without nvidia-ml-py nothing is leased, and CUDA's own count is as good."""
    if looks_for_gpus(settings) and missing("pynvml") is None and (found := visible(gpus())):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.uuid for gpu in found)


def threads() -> int:
    """Return the threads of a worker's torch: OMP_NUM_THREADS if it is a number, else one."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(named)) if named.isdecimal() else 1


def request_for(
    label: str, known: Footprint | None, devices: list[Device], *, on_gpu: bool, twice: bool = False
) -> Request:
    """Return the request for a model. An unknown model, before it is loaded, gets a device for itself.

    `twice`: another process measures the same model meanwhile (the noise of a new baseline).
    Raises ValueError where no number of these devices could hold it.
    """
    slots = 1 if on_gpu else min(threads(), devices[0].slots)
    if known is None:
        return Request(what=label, slots=slots)
    times = 2 if twice else 1
    if not on_gpu:
        return Request(what=label, slots=slots, bytes_each=times * known.bytes_needed)
    try:
        count = known.devices(min(device.total_bytes for device in devices) // times)
    except ValueError as error:
        raise ValueError(f"{label} {error}") from error
    return Request(
        what=label, devices=count, bytes_each=times * max(_LEAST_OF_A_GPU, known.bytes_per_device(count))
    )


class Leasing:
    """Acquire and release leases. `tell` receives the waiting model with a short reason; `twice` as in
    `request_for`."""

    def __init__(
        self, config: pytest.Config, settings: Settings, *, tell: Callable[[str, str], None], twice: bool
    ) -> None:
        self._config = config
        self._settings = settings
        self._tell = tell
        self._twice = twice
        self._ledger = Ledger(settings.leases)
        self._lease: Lease | None = None
        self._been_on: set[str] = set()
        #: Total waiting time in seconds.
        self.waited = 0.0

    @property
    def lease(self) -> Lease | None:
        """This worker's current lease."""
        return self._lease

    @property
    def names(self) -> list[str]:
        """The devices of the lease, by their names in the ledger: UUIDs of GPUs."""
        return [] if self._lease is None else list(self._lease.bytes_of)

    def pin(self) -> None:
        """Make CUDA count the GPUs as the host does."""
        pin_visible_gpus(self._settings)

    def can_give_more(self, label: str) -> bool:
        """Return whether whole devices exceed the lease of `take`. False for a model with unknown needs: it
        has whole devices from the start."""
        return estimated(self._settings, label) is not None

    def take(self, label: str, *, device: str, whole: bool) -> dict[int, int]:
        """Wait for a model's request, or for the same number of whole devices, and select them in torch.
        Return the bytes of the lease by index of its device. Raises ValueError, in one line, for a model that
        is larger than the host, and for an unusable ledger."""
        on_gpu = device != CPU
        devices = host_devices(self._settings, on_gpu=on_gpu)
        if on_gpu and devices[0].name == CPU:
            devices = on_device.torch_devices(workers_per_device=self._settings.workers_per_device)
        known = estimated(self._settings, label)
        request = request_for(label, known, devices, on_gpu=on_gpu, twice=self._twice)
        if whole:
            request = replace(request, bytes_each=None)
        lease = self._acquire(request, devices)
        leased = [device for device in devices if device.name in lease.bytes_of]
        on_device.use(device, lease, leased)
        return {device.index: lease.bytes_of[device.name] for device in leased}

    def _acquire(self, request: Request, devices: list[Device]) -> Lease:
        assert self._lease is None, "one lease at a time"
        began = time.monotonic()
        with _no_hang(self._config):
            lease = self._ledger.acquire(
                request,
                devices,
                min_free_ratio=self._settings.min_free_ratio,
                prefer=self._been_on,
                waiting=self._waits(request.what),
            )
        self.waited += time.monotonic() - began
        self._lease = lease
        self._been_on |= lease.bytes_of.keys()
        return lease

    def _waits(self, label: str) -> Callable[[str], None]:
        """Return a callback that reports the reason, and repeats it once a second."""
        last = 0.0

        def wait(why: str) -> None:
            nonlocal last
            if time.monotonic() - last > 1:
                last = time.monotonic()
                self._tell(label, why)

        return wait

    def give_back(self) -> None:
        """Release the lease, if any."""
        if self._lease is not None:
            self._ledger.release(self._lease)
        self._lease = None

    def close(self) -> None:
        """Release the lease and leave the ledger."""
        self._lease = None
        self._ledger.close()


@contextmanager
def _no_hang(config: pytest.Config) -> Iterator[None]:
    """Pause faulthandler's timeout while waiting for a lease; restart it afterwards."""
    there = config.pluginmanager.has_plugin("faulthandler")
    timeout = float(config.getini("faulthandler_timeout") or 0.0) if there else 0.0
    if timeout <= 0:
        yield
        return
    from _pytest.faulthandler import fault_handler_stderr_fd_key

    faulthandler.cancel_dump_traceback_later()
    try:
        yield
    finally:
        faulthandler.dump_traceback_later(
            timeout,
            file=config.stash[fault_handler_stderr_fd_key],
            exit=bool(config.getini("faulthandler_exit_on_timeout")),
        )
