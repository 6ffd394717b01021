"""The kernel suite: every bit of a cast against the exact oracle, on inputs that sit on the edges.

Where OCP MX v1.0 is silent (zero blocks, the scale's clamps, NaN and Inf), the dialect is the reference: see
`mxcheck.formats.spec`. torch and numpy are imported inside the tests, so that collecting this file costs
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("mx_usual_settings")


def test_conformance(mx_kernel_case: Any, mx_conformance: Callable[[Any], None]) -> None:
    """Scales and codes, or values, of one implementation, format and rule."""
    mx_conformance(mx_kernel_case)
