"""The one way to refuse an unknown name: the name, the allowed ones, and the nearest match."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from mxcheck.files.printed import got

#: Most characters of a refused name that are compared and shown.
_LONGEST = 160
_NONE: Mapping[str, str] = MappingProxyType({})


def choose(kind: str, value: str, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`, else raise the ValueError of `unknown`."""
    names = list(allowed)
    if value in names:
        return value
    raise unknown(kind, value, names)


def unknown(kind: str, value: object, allowed: Iterable[str], also: Mapping[str, str] = _NONE) -> ValueError:
    """Return the error for a name that is not allowed, in one line with the nearest match, ignoring case.
    `also` are other names of what is allowed, matched but not listed: each with the name to suggest for
    it."""
    names = list(allowed)
    folded = {name.casefold(): name for name in reversed(names)}
    folded = {**{name.casefold(): to for name, to in also.items()}, **folded}
    near = difflib.get_close_matches(str(value)[:_LONGEST].casefold(), folded, n=1, cutoff=0.5)
    hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
    return ValueError(f"unknown {kind} {got(value, _LONGEST)}; allowed: {', '.join(names)}{hint}")


def misspelt(kind: str, value: str, known: Collection[str]) -> ValueError | None:
    """Return the error for a name that nearly matches a known one; None for one that may belong to somebody
    else. Names that differ in their numbers are other names."""
    alike = [name for name in known if _numbers(name) == _numbers(value)]
    if not difflib.get_close_matches(value[:_LONGEST].casefold(), map(str.casefold, alike), n=1, cutoff=0.8):
        return None
    return unknown(kind, value, known)


def _numbers(name: str) -> list[str]:
    return re.findall("[0-9]+", name)
