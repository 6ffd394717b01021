"""Requirements and conflicts of a run: syrupy, which stores baselines, and assertions are needed; some
plugins conflict."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from mxcheck.gate.update import Update


def asked_update(config: pytest.Config, *, recentre: bool = False, measure: bool = False) -> Update:
    """Return the update that syrupy's options ask for."""
    return Update(
        changed=bool(config.getoption("update_snapshots", False)),
        missing=bool(config.getoption("update_new_snapshots_only", False)),
        recentre=recentre,
        measure=measure,
    )


def is_update(config: pytest.Config) -> bool:
    """Return whether the run accepts baselines: then a second process measures each model as well."""
    return asked_update(config).is_update


def require_syrupy(config: pytest.Config) -> None:
    """Raise ValueError, in one line, where syrupy is disabled."""
    if not config.pluginmanager.has_plugin("syrupy"):
        raise ValueError(
            "baselines are stored by pytest's plugin syrupy, which this run does not load (-p no:syrupy, or "
            "autoloading of plugins is off); load it with -p syrupy"
        )


def require_assertions(config: pytest.Config) -> None:
    """Raise ValueError, in one line, where the suites' assertions would not be executed: under `python -O`
    only those that pytest has rewritten are."""
    if not __debug__ and config.getoption("assertmode") != "rewrite":
        raise ValueError(
            "under python -O (PYTHONOPTIMIZE) and --assert=plain no assertion is executed, so every "
            "test passes; drop either"
        )


def require_docstrings() -> None:
    """Raise ValueError, in one line, under `python -OO`: transformers builds classes from docstrings."""
    if sys.flags.optimize > 1:
        raise ValueError(
            "transformers cannot be imported under python -OO (PYTHONOPTIMIZE=2), which leaves out "
            "docstrings; use PYTHONOPTIMIZE=1, or none"
        )


def refuse_repeats(config: pytest.Config) -> None:
    """Raise ValueError, in one line, where pytest-repeat would add numbers to the names of cases, by which
    results, baselines and `-k` identify them."""
    if config.pluginmanager.has_plugin("repeat") and (config.getoption("count", 1) or 1) > 1:
        raise ValueError(
            "pytest-repeat (--count) renames cases, so they have no baseline; leave it out and repeat the run"
        )


def refuse_pytest_snapshot(manager: pytest.PytestPluginManager) -> None:
    """Refuse a run with both pytest-snapshot and syrupy: they define the same option and fixture, so pytest
    cannot start. Raised before the second is loaded, if ours is loaded before it: pytest loads plugins in no
    order.

    Raises pytest.UsageError, in one line.
    """
    clashes = not any(map(manager.is_blocked, ("syrupy", "snapshot"))) and find_spec("pytest_snapshot")
    if clashes and "PYTEST_DISABLE_PLUGIN_AUTOLOAD" not in os.environ:
        raise pytest.UsageError(
            "mxcheck: pytest-snapshot and syrupy, which stores mxcheck's baselines, both define "
            "--snapshot-update; leave one out, here or by addopts of the ini file: -p no:snapshot, or "
            "-p no:syrupy in runs without mxcheck's models"
        )


def check_snapshot(snapshot: Any) -> None:
    """Raise ValueError, in one line, where the fixture belongs to another plugin or a conftest."""
    from syrupy.assertion import SnapshotAssertion

    if not isinstance(snapshot, SnapshotAssertion):
        raise ValueError(
            f"the fixture `snapshot` is not syrupy's but a {type(snapshot).__module__}."
            f"{type(snapshot).__qualname__}: leave its plugin out (-p no:NAME), or rename it if it is yours"
        )
