"""The resources of a node that a model's task demands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mxcheck.distributed.run_plan import PlannedModel
from mxcheck.models.zoo.cards import GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Cores, whole GPUs, and bytes of main memory; 0 bytes where the model's needs are unknown."""

    cpus: int
    gpus: int
    memory: int

    def __str__(self) -> str:
        parts = [f"{self.cpus} CPU"]
        parts += [f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}"] if self.gpus else []
        parts += [f"{self.memory / GIB:.1f} GiB of memory"] if self.memory else []
        return ", ".join(parts)

    def fits(self, resources: Mapping[str, float]) -> bool:
        """Return whether a node with `resources`, in Ray's names and units, can ever meet the demand."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return all(resources.get(name, 0) >= amount for name, amount in wanted.items())


def demand(model: PlannedModel, *, on_gpus: bool, device_bytes: int) -> Demand:
    """Return the demand of a model: one core, since a run is one worker with one thread; on GPUs as many of
    `device_bytes` as the model needs by its estimate, else its bytes. Raises ValueError, naming the model,
    where it cannot be split that far."""
    if not model.cases:
        # `-k` left nothing, which the task reports: on the other tasks' kind of device, or it would be
        # another run.
        return Demand(cpus=1, gpus=int(on_gpus), memory=0)
    if not on_gpus:
        return Demand(cpus=1, gpus=0, memory=model.footprint.bytes_needed)
    try:
        gpus = model.footprint.fitted(device_bytes, several=True).devices(device_bytes)
    except ValueError as error:
        raise ValueError(f"{model.label}: {error}; or say what the GPUs have with --device-gib") from error
    return Demand(cpus=1, gpus=gpus, memory=0)


def check_feasible(demands: Mapping[str, Demand], nodes: Iterable[Mapping[str, float]]) -> None:
    """Raise ValueError for the first model whose demand none of `nodes`, by their resources, can ever meet:
    Ray would wait for such a node for ever."""
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
