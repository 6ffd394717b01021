"""The accepted baselines of the reference models, in the order that physics gives them. Reads files only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_ordering(mx_ordering: Any, mx_in_order: Callable[[Any], None]) -> None:
    """The step that should cost less does, by more than sampling can make it seem."""
    mx_in_order(mx_ordering)


def test_ordering_exception(mx_ordering_exception: Any, mx_in_order: Callable[[Any], None]) -> None:
    """A known exception stands: still reversed, or no worse than too close to call."""
    mx_in_order(mx_ordering_exception)
