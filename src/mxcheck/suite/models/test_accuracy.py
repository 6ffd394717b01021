"""The model suite: quantize and measure every case of the ladder, and compare it with its accepted
baseline."""

from __future__ import annotations

from collections.abc import Callable

from mxcheck.gate.case import Case


def test_accuracy(mx_case: Case, mx_gate: Callable[[Case], None]) -> None:
    """Check the six steps of the gate: inputs, reference, conversion, casts, bounds, drift."""
    mx_gate(mx_case)
