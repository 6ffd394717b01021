"""Where the commands print."""

from __future__ import annotations

from rich.console import Console


def console(at_least: int = 0) -> Console:
    """Wide enough that no figure is folded where the output is no terminal, and never narrower than asked."""
    found = Console(highlight=False)
    width = found.width if found.is_terminal else 160
    return (
        found
        if found.is_terminal and width >= at_least
        else Console(highlight=False, width=max(width, at_least))
    )
