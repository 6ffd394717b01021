"""Kinds of mismatch. Torch- and numpy-free."""

from __future__ import annotations

#: Values of an fp32-scaled format that differ in the last place: reported, but not wrong.
LAST_BIT = "last bit"
#: Kinds of mismatch, in the order of reports.
KINDS = ("error", "scale", "code", "value", "nan", "zero sign", LAST_BIT)
