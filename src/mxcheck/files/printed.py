"""Text that others wrote, as people read it: what a terminal would obey, or cannot show, is escaped."""

from __future__ import annotations

from collections.abc import Sequence

#: The longest that is repeated of what is wrong with a file, in characters.
WORDS = 240
#: The longest refusal of a file: it may list what is allowed.
REFUSAL = 3000


def printable(text: str) -> str:
    """`text` with its lines and tabs, and with the escape of every other character that is not printable:
    control characters, marks that turn the direction of writing, halves of a surrogate pair."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else _escape(one) for one in text)


def one_line(text: str, most: int | None = None) -> str:
    """The same on one line; of a text longer than `most` characters the end is cut."""
    line = printable(" ".join(text.split()))
    return line if most is None or len(line) <= most else f"{line[: most - 1]}…"


def got(value: object, most: int = 40) -> str:
    """The beginning of a value's `repr`, on one line, whatever the value is."""
    try:
        return one_line(repr(value), most)
    except (ValueError, RecursionError):  # a number of too many digits; nested too deeply
        return type(value).__name__


def told(error: BaseException, most: int = WORDS) -> str:
    """What an error says, on one line; what is lacking where it is a name; its type where it says nothing."""
    if isinstance(error, KeyError) and error.args:
        return f"has no {got(error.args[0])}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OSError) and error.strerror:
        return one_line(error.strerror, most)
    return one_line(str(error), most) or type(error).__name__


def raised(error: BaseException) -> str:
    """The type of an error and the first line of what it says: code of others may raise anything."""
    said = str(error).strip().splitlines()[:1]
    return ": ".join([type(error).__name__, *(one_line(line, WORDS) for line in said)])


def some_of(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are; `none` where there are none."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(one_line(name, 70) for name in names[:most]) + more or "none"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
