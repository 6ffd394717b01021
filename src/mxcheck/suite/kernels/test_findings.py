"""Known differences of published implementations: each still reproduces its counterexample, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.usefixtures("mx_usual_settings")


def test_finding_stands(mx_finding: Any, mx_reproduce: Callable[[Any], dict[str, Any]]) -> None:
    """Fail where a new version of the library gives other bits: check again, and update or delete the
    finding."""
    results = mx_reproduce(mx_finding)
    assert results == {key: mx_finding.counterexample[key] for key in results}
    assert any(key.endswith("_got") or key == "error" for key in results)
