"""A run's settings, read once, at the first use."""

from __future__ import annotations

import pytest

from mxcheck.pytest_plugin.settings import Settings, read_settings

_SETTINGS = pytest.StashKey[Settings]()


def settings(config: pytest.Config) -> Settings:
    """Return this run's settings. Raises pytest.UsageError, in one line, for invalid options."""
    if _SETTINGS not in config.stash:
        config.stash[_SETTINGS] = read_settings(config)
    return config.stash[_SETTINGS]
