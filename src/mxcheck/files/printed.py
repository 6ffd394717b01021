"""Print text that others wrote: escape what a terminal would obey or cannot show."""

from __future__ import annotations

from collections.abc import Sequence

#: Most characters that are quoted from what is wrong with a file.
WORDS = 240
#: Most characters of a file's refusal: it may list what is allowed.
REFUSAL = 3000


def printable(text: str) -> str:
    """Return `text` with line breaks and tabs kept, and every other unprintable character escaped: control
    characters, marks that change the direction of writing, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else _escape(one) for one in text)


def one_line(text: str, most: int | None = None) -> str:
    """Return the same on one line; cut a text longer than `most` characters at the end."""
    line = printable(" ".join(text.split()))
    return line if most is None or len(line) <= most else f"{line[: most - 1]}…"


def got(value: object, most: int = 40) -> str:
    """Return the beginning of a value's `repr`, on one line, whatever the value is."""
    try:
        return one_line(repr(value), most)
    except (ValueError, RecursionError):  # too many digits, or nested too deeply
        return type(value).__name__


def told(error: BaseException, most: int = WORDS) -> str:
    """Return an error's message on one line; what is missing, if it is a name; its type, if it has no
    message."""
    if isinstance(error, KeyError) and error.args:
        return f"has no {got(error.args[0])}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OSError) and error.strerror:
        return one_line(error.strerror, most)
    return one_line(str(error), most) or type(error).__name__


def raised(error: BaseException) -> str:
    """Return the type of an error and the first line of its message: foreign code may raise anything."""
    said = str(error).strip().splitlines()[:1]
    return ": ".join([type(error).__name__, *(one_line(line, WORDS) for line in said)])


def some_of(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and the number of the others; `none` if there are none."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(one_line(name, 70) for name in names[:most]) + more or "none"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class RefusedFileError(Exception):
    """A file that cannot be used. The message is one printable line and names the file."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message, REFUSAL))
