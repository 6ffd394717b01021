"""What a cell is too short for: a cast that changes after thousands of calls, or at two threads.

torch and numpy are imported inside the test, so that collecting this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("mx_usual_settings")


def test_many_calls(mx_implementation: Any, mx_many_calls: Callable[[Any, str], None]) -> None:
    """`quantize` and `fake_quantize` with one tiny tensor, again and again; a tensor that torch gives two
    threads to; two callers, each in a thread of Python."""
    mx_many_calls(mx_implementation, "quick")
