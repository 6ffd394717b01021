"""The common style of the terminal's tables."""

from __future__ import annotations

from rich import box
from rich.table import Table


def titled_table(
    title: str, caption: str | None = None, *, title_style: str | None = None, padding: int = 1
) -> Table:
    """Return an empty table: title and caption to the left, a line under the head, `padding` between
    columns."""
    return Table(
        title=title,
        title_justify="left",
        title_style=title_style,
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, padding, 0, 0),
        pad_edge=False,
    )
