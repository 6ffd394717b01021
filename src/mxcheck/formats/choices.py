"""The one way to refuse an unknown name: what it was, what is allowed, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def choose(kind: str, value: str, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`, else raise a one-line ValueError with the nearest match."""
    names = list(allowed)
    if value in names:
        return value
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {kind} {value!r}; allowed: {', '.join(names)}{hint}")
