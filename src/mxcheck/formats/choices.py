"""The one way to refuse an unknown name: what it was, what is allowed, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from mxcheck.files.printed import got

#: Of a name that is not allowed, so much is compared and shown.
_LONGEST = 160


def choose(kind: str, value: str, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`, else raise the ValueError of `unknown`."""
    names = list(allowed)
    if value in names:
        return value
    raise unknown(kind, value, names)


def unknown(kind: str, value: object, allowed: Iterable[str]) -> ValueError:
    """The error for a name that is not allowed, in one line with the nearest match, capitals aside."""
    names = list(allowed)
    folded = {name.casefold(): name for name in reversed(names)}
    near = difflib.get_close_matches(str(value)[:_LONGEST].casefold(), folded, n=1, cutoff=0.5)
    hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
    return ValueError(f"unknown {kind} {got(value, _LONGEST)}; allowed: {', '.join(names)}{hint}")
