"""Terminal output. Printed strings are plain text, without rich markup or terminal control characters. Styled
output is a `rich.text.Text`, or a row of a table."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from mxcheck.files.printed import printable


class Screen(Console):
    """A rich console that escapes. It takes the same arguments."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape every string: lines, cells, titles and captions."""
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """Leave a broken pipe to the program: rich would exit with the status of a red run."""
        raise BrokenPipeError


def say(text: str = "", *, error: bool = False, end: str = "\n") -> None:
    """Print lines unwrapped, for copying; `error`: to standard error."""
    print(printable(text), file=sys.stderr if error else sys.stdout, end=end, flush=error)


def show(rendered: str) -> None:
    """Print the output of a `Screen`, including colours."""
    print(rendered, end="")  # noqa: T201


def console(at_least: int = 0) -> Screen:
    """Return a console that is wide enough to fold no figure where the output is no terminal, and at least
    `at_least` wide."""
    found = Screen()
    width = found.width if found.is_terminal else 160
    return found if found.is_terminal and width >= at_least else Screen(width=max(width, at_least))
