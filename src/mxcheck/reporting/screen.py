"""The terminal. A string that is printed is text: neither a markup of rich nor anything that a terminal would
obey. What is to have a style is a `rich.text.Text`, or a row of a table."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from mxcheck.files.printed import printable


class Screen(Console):
    """A console of rich that escapes. Takes the same arguments."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Whatever is a string comes here: lines, cells, titles and captions."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """The program's to answer: rich would end it as a red run ends."""
        raise BrokenPipeError


def say(text: str = "", *, error: bool = False, end: str = "\n") -> None:
    """Print lines as wide as they are, to be copied from; `error`: to the standard error."""
    print(printable(text), file=sys.stderr if error else sys.stdout, end=end, flush=error)


def show(rendered: str) -> None:
    """Print what a `Screen` made, colours and all."""
    print(rendered, end="")  # noqa: T201
