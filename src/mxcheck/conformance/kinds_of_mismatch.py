"""What a mismatch can be. Torch- and numpy-free."""

from __future__ import annotations

#: The values of an fp32-scaled format, in the last place: reported, and not wrong.
LAST_BIT = "last bit"
#: Kinds of mismatch, in the order in which they are told.
KINDS = ("error", "scale", "code", "value", "nan", "zero sign", LAST_BIT)
