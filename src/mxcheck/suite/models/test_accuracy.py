"""The model suite: every case of the ladder, quantized, measured, held against its accepted baseline."""

from __future__ import annotations

from collections.abc import Callable

from mxcheck.gate.case import Case


def test_accuracy(mx_case: Case, mx_gate: Callable[[Case], None]) -> None:
    """The six steps of the gate: inputs, reference, conversion, casts, bounds, drift."""
    mx_gate(mx_case)
