"""What a model's task asks of a node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mxcheck.models.cards import GIB
from mxcheck.pytest_plugin.plan import PlannedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Cores, whole GPUs, and bytes of main memory; 0 bytes where nothing is known of the model."""

    cpus: int
    gpus: int
    memory: int

    def __str__(self) -> str:
        parts = [f"{self.cpus} CPU"]
        parts += [f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}"] if self.gpus else []
        parts += [f"{self.memory / GIB:.1f} GiB of memory"] if self.memory else []
        return ", ".join(parts)

    def fits(self, resources: Mapping[str, float]) -> bool:
        """Whether a node that has `resources`, as Ray names and counts them, can ever meet it."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return all(resources.get(name, 0) >= amount for name, amount in wanted.items())


def demand(model: PlannedModel, *, on_gpus: bool, device_bytes: int) -> Demand:
    """One core, as a run is one worker of one thread; on GPUs as many of `device_bytes` as the model needs by
    its estimate, else its bytes. Raises ValueError, by name, where it cannot be split so far."""
    if not model.cases:
        # `-k` left nothing, which the task says: on the others' kind of device, or it would be another run.
        return Demand(cpus=1, gpus=int(on_gpus), memory=0)
    if not on_gpus:
        return Demand(cpus=1, gpus=0, memory=model.footprint.bytes_needed)
    try:
        gpus = model.footprint.devices(device_bytes)
    except ValueError as error:
        raise ValueError(f"{model.label}: {error}; or say what the GPUs have with --device-gib") from error
    return Demand(cpus=1, gpus=gpus, memory=0)


def check_feasible(demands: Mapping[str, Demand], nodes: Iterable[Mapping[str, float]]) -> None:
    """Raises ValueError for the first model whose demand none of `nodes`, by their resources, can ever meet:
    Ray would wait for such a node without end."""
    there = list(nodes)
    for label, wanted in demands.items():
        if not any(map(wanted.fits, there)):
            names = ("CPU", "GPU", "memory")
            cpus, gpus, memory = (max((node.get(name, 0) for node in there), default=0) for name in names)
            raise ValueError(
                f"{label} needs {wanted} on one node, and no node of the cluster has that; the most that one "
                f"has: {cpus:g} CPU, {gpus:g} GPU, {memory / GIB:.1f} GiB of memory; add a node, or leave "
                f"the model out"
            )
