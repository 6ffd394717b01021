"""A run's settings, as plain data: the same in controller and workers. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mxcheck.conformance.cases.narrowing import Narrowing
from mxcheck.gate.case import Case
from mxcheck.run.earlier_run import Durations
from mxcheck.run.measurement_settings import Measuring
from mxcheck.scheduling.split_models import Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Measuring):
    """A run's settings: plain data, the same in controller and workers."""

    own: tuple[str, ...]  # names of the user's recipes, whether they run or not
    left_out: tuple[str, ...]  # precisions whose library is not installed, where none was named
    scale_rule: str
    rounding: str
    block_size: int
    kernels: tuple[str, ...]  # as named; empty: each suite's default
    level: str
    narrowing: Narrowing  # of the kernel suite
    microxcaling: str
    report: Path | None
    min_free_ratio: float
    workers_per_device: int
    leases: Path
    shard: Shard | None  # None: the whole run
    whole: tuple[Case, ...]  # the cases of all shards
    durations: Durations  # of an earlier run
    bounds: str | None
    recentre: bool
    measure: bool
    layers: bool
    cost: bool
    wide: bool
    debug: bool

    @property
    def cases(self) -> tuple[Case, ...]:
        return tuple(self.recipes)
