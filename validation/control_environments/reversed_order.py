"""A pytest plugin: the tests in the opposite order."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Turn them round."""
    items.reverse()
