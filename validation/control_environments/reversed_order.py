"""A pytest plugin that reverses the order of the tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Reverse the items."""
    items.reverse()
