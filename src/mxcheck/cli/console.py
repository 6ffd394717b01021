"""The console of the commands."""

from __future__ import annotations

from mxcheck.reporting.screen import Screen


def console(at_least: int = 0) -> Screen:
    """Return a console that is wide enough to fold no figure where the output is no terminal, and at least
    `at_least` wide."""
    found = Screen()
    width = found.width if found.is_terminal else 160
    return found if found.is_terminal and width >= at_least else Screen(width=max(width, at_least))
