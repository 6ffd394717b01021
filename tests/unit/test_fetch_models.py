"""tools/fetch_models.py: what it asks the hub for. (The hub itself is not asked here.)"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mxcheck.models.zoo.cards import CARDS

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with `asked`: what it asked the hub for."""
    spec = importlib.util.spec_from_file_location("fetch_models", REPOSITORY / "tools" / "fetch_models.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    asked: list[tuple[str, str]] = []

    def snapshot_download(name: str, *, revision: str, **patterns: Any) -> str:
        assert "*.bin" not in patterns["allow_patterns"]  # pickled
        asked.append((name, revision))
        return "cache"

    monkeypatch.setattr(module, "snapshot_download", snapshot_download)
    module.asked = asked  # type: ignore[attr-defined]
    return module


def test_models_are_fetched_at_the_revision_of_their_card(tool: ModuleType) -> None:
    card = CARDS["llama-3.1-8b"]
    tool.main(["llama-3.1-8b,ref-llama", "some/model"])
    assert tool.asked == [(card.hub_id, card.revision), ("some/model", "main")]


def test_an_unknown_name_is_one_line_and_fetches_nothing(tool: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"unknown model 'llama-3\.1'"):
        tool.main(["some/model,llama-3.1"])
    assert tool.asked == []


def test_no_name_is_nothing_to_do(tool: ModuleType) -> None:
    tool.main([])
    assert tool.asked == []
