"""Errors that a single cell cannot reveal: a cast that changes after thousands of calls, or with two threads.

torch and numpy are imported inside the test, so that collecting this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("mx_usual_settings")


def test_many_calls(mx_implementation: Any, mx_many_calls: Callable[[Any, str], None]) -> None:
    """Call `quantize` and `fake_quantize` repeatedly with one tiny tensor; with a tensor that torch splits
    over two threads; and from two Python threads."""
    mx_many_calls(mx_implementation, "quick")
