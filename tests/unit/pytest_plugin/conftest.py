"""Runs as pytest itself reads them, without running anything."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mxcheck.pytest_plugin.options.read_settings import read_settings
from mxcheck.run.settings import Settings

Configure = Callable[..., pytest.Config]
Lay = Callable[..., Settings]


@pytest.fixture
def configure(pytester: pytest.Pytester) -> Configure:
    """pytest's configuration of a project with these lines in its pytest.ini and these words typed."""

    def configured(*words: str, ini: str = "") -> pytest.Config:
        pytester.makeini(f"[pytest]\n{ini}")
        return pytester.parseconfig(*words)

    return configured


@pytest.fixture
def lay(configure: Configure) -> Lay:
    """The settings of such a run: of ref-llama, where neither words nor ini name models."""

    def laid(*words: str, ini: str = "") -> Settings:
        named = "mx_models" in ini or any(word.startswith(("--mx-models", "--mx-preset")) for word in words)
        return read_settings(configure(*(() if named else ("--mx-models", "ref-llama")), *words, ini=ini))

    return laid
