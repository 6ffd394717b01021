"""Integer products that are wrong on a machine: bitsandbytes would rest on them without a word."""

from __future__ import annotations

import pytest
import torch

from mxcheck.models.backends.backend import backend


def test_a_wrong_integer_product_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch._int_mm
    assert backend("bnb_int8").missing("cpu") is None
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: right(a, b) + (torch.arange(64) == 63))
    reason = backend("bnb_int8").missing("cpu")
    assert reason is not None
    assert reason.startswith("torch multiplies int8 matrices wrongly on this machine")
