"""Plan a run without running it, for an engine that spreads its models over machines.

A plugin for `pytest --collect-only -p mxcheck.pytest_plugin.xdist.plan_writer`: the project's own pytest
reads the options, with its ini file, presets and conftest, so the cases cannot differ. Does not import torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from mxcheck.distributed.run_plan import PLAN_FILE, Plan, PlannedModel
from mxcheck.gate.case import Case
from mxcheck.pytest_plugin.options.neighbours import is_update
from mxcheck.pytest_plugin.options.read_settings import settings
from mxcheck.pytest_plugin.xdist.placement_plan import selected_cases
from mxcheck.run.cost import UNKNOWN, estimated, expected_seconds
from mxcheck.run.settings import Settings
from mxcheck.scheduling.split_models import split


def make_plan(settings: Settings, selected: Sequence[Case], *, updates: bool) -> Plan:
    """Plan a run with these selected cases."""
    known = {label: estimated(settings, label) for label in settings.models}
    costs = expected_seconds(settings)
    models = tuple(
        PlannedModel(
            label=label,
            shard=shard,
            cases=tuple(case.id for case in selected if case.model == label),
            footprint=known[label] or UNKNOWN,
        )
        # as `--mx-shard=i/N` splits it: each part is one model
        for shard, (label,) in enumerate(split(costs, len(costs)), start=1)
    )
    return Plan(
        models=models,
        device=settings.device,
        report=str(settings.report or ""),
        shard=str(settings.shard or ""),
        updates=updates,
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """End without a plan where the command line names nothing to collect: pytest's default collection
    contains other tests, and only pytest can distinguish a path from an option's value."""
    return None if config.args_source is pytest.Config.ArgsSource.ARGS else 0


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the plan."""
    config = session.config
    selected = dict.fromkeys(selected_cases(config, [item.nodeid for item in session.items]))
    found = make_plan(settings(config), list(selected), updates=is_update(config))
    Path(os.environ[PLAN_FILE]).write_text(json.dumps(asdict(found)), encoding="utf-8")
