"""Where the commands print."""

from __future__ import annotations

from mxcheck.reporting.screen import Screen


def console(at_least: int = 0) -> Screen:
    """Wide enough that no figure is folded where the output is no terminal, and never narrower than asked."""
    found = Screen()
    width = found.width if found.is_terminal else 160
    return found if found.is_terminal and width >= at_least else Screen(width=max(width, at_least))
