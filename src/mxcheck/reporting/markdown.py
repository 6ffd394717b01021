"""Markdown output. Foreign text is escaped: it creates no heading, link, image, table or tag."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mxcheck.files.printed import one_line, printable

_IN_A_LINE = re.compile(r"([\\`<\[|&])")
_IN_A_CELL = re.compile(r"([\\<\[|&])")
_AT_THE_START = re.compile(r"^([#+>=~*_-]|\d+[.)])")
#: Text that Markdown links automatically. A backslash, which is not shown, before its mark prevents that.
_BARE_LINK = re.compile(r"(?i)(?<![a-z0-9])(?:(?:https?|ftp):(?=//)|www\.(?=\w)|[\w.+-]+@(?=[\w-]+\.))")
_CODE = re.compile(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)")


def words(text: str) -> str:
    """Escape text within a line, or after the mark of a heading or of a list."""
    line = _unlinked(_IN_A_LINE.sub(r"\\\1", one_line(text)))
    return _AT_THE_START.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", line)


def code(text: str) -> str:
    """Format text as code within a line or a cell."""
    return f"`{one_line(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def cell(text: str) -> str:
    """Format a cell of a table, preserving code in it."""
    line, shown, end = _IN_A_CELL.sub(r"\\\1", one_line(text)), "", 0
    for code_in_it in _CODE.finditer(line):
        shown += _unlinked(line[end : code_in_it.start()]) + code_in_it[0]
        end = code_in_it.end()
    return shown + _unlinked(line[end:])


def _unlinked(line: str) -> str:
    return _BARE_LINK.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", line)


def fenced(text: str) -> list[str]:
    """Format lines as a code block."""
    shown = printable(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return [f"{fence}text", shown, fence]


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[bool]) -> list[str]:
    """Return the lines of a table. `right` says for each column whether it is right-aligned. Cells are
    Markdown already: `cell` or `code`."""
    return [
        f"| {' | '.join(columns)} |",
        f"|{'|'.join('--:' if one else '---' for one in right)}|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
