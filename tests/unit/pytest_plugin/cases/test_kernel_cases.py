"""Which kernels a run tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from mxcheck.kernels import registry
from mxcheck.pytest_plugin.cases.kernel_cases import chosen
from mxcheck.run.settings import Settings

#: What find_spec returns of a package that is installed.
THERE = SimpleNamespace(submodule_search_locations=[])


def asked(*kernels: str) -> Settings:
    return cast(Settings, SimpleNamespace(kernels=kernels))


def test_what_cannot_cast_everywhere_is_tested_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU may well have Triton; and where it has not, nobody has missed it."""
    for found in (THERE, None):
        monkeypatch.setattr(registry, "find_spec", lambda _, found=found: found)
        present, missing = chosen(asked())
        names = {one.name for one in (*present, *(one for one, _ in missing))}
        assert "eager" in names
        assert "torchao" in names
        assert not {"triton", "triton_values"} & names
    with pytest.raises(ValueError, match="--mx-kernel=triton: triton is not installed"):
        chosen(asked("triton"))
    monkeypatch.setattr(registry, "find_spec", lambda _: THERE)
    assert [one.name for one in chosen(asked("triton"))[0]] == ["triton"]


def test_auto_is_tested_where_it_is_named() -> None:
    """It calls kernels that are tested themselves."""
    present, missing = chosen(asked())
    assert "auto" not in {one.name for one in (*present, *(one for one, _ in missing))}
    assert [one.name for one in chosen(asked("auto"))[0]] == ["auto"]
    with pytest.raises(ValueError, match=r"'Auto'; allowed: auto, eager, .*; did you mean 'auto'\?"):
        chosen(asked("Auto"))
