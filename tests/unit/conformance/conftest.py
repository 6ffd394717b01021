"""What the tests of this room share."""

from __future__ import annotations

import pytest

from mxcheck.conformance import cell_run


@pytest.fixture
def edges_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell without whole matrices and batches, which `test_matrices.py` has: for faults that edges show."""
    for others in ("matrices", "in_batches"):
        monkeypatch.setattr(cell_run, others, lambda *_, **__: iter(()))
