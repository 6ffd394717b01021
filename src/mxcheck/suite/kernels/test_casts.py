"""The kernel suite: compare every bit of a cast with the exact oracle, on inputs at the edges.

Where OCP MX v1.0 does not specify the result (zero blocks, the scale's clamps, NaN and Inf), the dialect is
the reference: see `mxcheck.formats.spec`. torch and numpy are imported inside the tests, so that collecting
this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("mx_usual_settings")


def test_conformance(mx_kernel_case: Any, mx_conformance: Callable[[Any], None]) -> None:
    """Check scales and codes, or values, of one kernel, format and rule."""
    mx_conformance(mx_kernel_case)
