from __future__ import annotations

from collections.abc import Callable

import pytest
from sample_record import build_record

from mxcheck.gate.record import Record


@pytest.fixture
def make_record() -> Callable[..., Record]:
    return build_record
