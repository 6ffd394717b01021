"""The plan of a run: its models, and the options that an engine needs. Written by the plugin
`mxcheck.pytest_plugin.xdist.plan_writer`, read where models are assigned to machines. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mxcheck.files.plain_data import MALFORMED, read_json
from mxcheck.files.printed import one_line, told
from mxcheck.models.zoo.footprint import Footprint

#: Environment variable with the path of the output file.
PLAN_FILE = "MXCHECK_PLAN_FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """One model of the run: `--mx-shard=shard/N`, where N is the number of models.

    Attributes:
        label: its name in ids.
        shard: index of its part of the run; the costliest model is first.
        cases: the ids of its selected cases (`-k` may leave none).
        footprint: its estimate; that of an unknown model where nothing is known before loading.
    """

    label: str
    shard: int
    cases: tuple[str, ...]
    footprint: Footprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run: its models, costliest first, and the options that an engine needs.

    `shard` and `report` are empty where no option sets them; `report` is absolute.
    """

    models: tuple[PlannedModel, ...]
    device: str
    report: str
    shard: str
    updates: bool


def read_plan(path: Path) -> Plan:
    """Read the plan of a file. Raises ValueError, in one line, for anything else."""
    try:
        data = read_json(path)
        models = tuple(
            PlannedModel(**{**one, "cases": tuple(one["cases"]), "footprint": Footprint(**one["footprint"])})
            for one in data["models"]
        )
        return Plan(**{**data, "models": models})
    except MALFORMED as error:
        raise ValueError(one_line(f"{path} is no plan of a run ({told(error)}); run it again")) from error
