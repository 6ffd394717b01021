"""A run's settings, read once, by whoever is the first to need them."""

from __future__ import annotations

import pytest

from mxcheck.pytest_plugin.settings import Settings, read_settings

_SETTINGS = pytest.StashKey[Settings]()


def settings(config: pytest.Config) -> Settings:
    """This run's settings. Raises pytest.UsageError, in one line, for options that cannot be."""
    if _SETTINGS not in config.stash:
        config.stash[_SETTINGS] = read_settings(config)
    return config.stash[_SETTINGS]
