"""Read JSON and TOML from any author as plain data, or refuse them in one line.

The reader of each kind of file checks its contents. Checked here, for all kinds: a regular file of bounded
size, UTF-8, no name twice in a table, text that can be written again, numbers that a float can hold, and no
more levels than a recursive function can follow.
"""

from __future__ import annotations

import json
import stat
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mxcheck.files.printed import got, told

__all__ = ["MALFORMED", "DataError", "json_data", "read_json", "read_text", "read_toml", "toml_data"]

#: Most bytes of a file, unless its kind says otherwise.
MOST_BYTES = 2**28
#: Most bytes of a TOML file, which people write, and most dots. The parser's time is quadratic in the parts
#: of a key.
TOML_BYTES, TOML_DOTS = 2**22, 1000
#: Deepest nesting of a file. A record has seven levels.
LEVELS = 64

#: Errors that plain data of the wrong shape raises when it is taken apart; one place turns them into the
#: refusal of its file.
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


class DataError(ValueError):
    """A file that cannot be read. The message is one printable line, without the file's name."""


def read_text(path: Path, *, most: int = MOST_BYTES, encoding: str = "utf-8") -> str:
    """Return the text of a regular file. Raises FileNotFoundError where nothing, not even a link, is at
    `path`, and DataError for anything that is not readable text."""
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # reading a pipe would block
            raise DataError("it is a directory" if stat.S_ISDIR(mode) else "it is no regular file")
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise DataError(f"it is longer than {most:,} bytes")
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text") from error
    except FileNotFoundError as error:
        if path.is_symlink():
            raise DataError("it is a dangling link") from error
        raise
    except OSError as error:
        raise DataError(f"cannot be read: {told(error)}") from error


def json_data(text: str | bytes, *, twice: bool = False) -> Any:
    """Return the data of a JSON text. NaN and infinities, as Python writes them, are numbers. `twice` allows
    a name to stand twice in a table, where the last counts. Raises DataError."""
    hook = None if twice else _once
    try:
        data = json.loads(text, object_pairs_hook=hook)
        _check(data)
        if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]
            json.dumps(data, ensure_ascii=False).encode()
    except DataError:
        raise
    except UnicodeEncodeError as error:
        raise DataError("it holds half a character (a lone surrogate)") from error
    except (ValueError, RecursionError) as error:  # includes UTF-8 errors
        raise DataError(f"not JSON ({told(error, 120)})") from error
    return data


def read_json(path: Path, *, most: int = MOST_BYTES) -> Any:
    """Return the data of a JSON file. Raises as `json_data`, and FileNotFoundError as `read_text` does."""
    return json_data(read_text(path, most=most))


def toml_data(text: str) -> dict[str, Any]:
    """Return the table of a TOML text. Raises DataError."""
    if any(line.count(".") > TOML_DOTS for line in text.splitlines()):
        raise DataError(f"it has a line with more than {TOML_DOTS:,} dots, which is not read")
    try:
        data = tomllib.loads(text)
        _check(data)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"not TOML ({told(error, 120)})") from error
    return data


def read_toml(path: Path) -> dict[str, Any]:
    """Return the table of a TOML file, which may begin with a byte-order mark. Raises FileNotFoundError as
    `read_text` does."""
    return toml_data(read_text(path, most=TOML_BYTES, encoding="utf-8-sig"))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        again = next(name for name, count in counts.items() if count > 1)
        raise DataError(f"{got(again)} stands twice in a table")
    return table


def _check(data: Any) -> None:
    """Refuse data nested too deeply, and integers that no float holds: printing one can fail."""
    level = [data]
    for _ in range(LEVELS):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif type(value) is int and value.bit_length() > 1023:
                raise DataError("it holds a whole number of more than 307 digits")
        if not inner:
            return
        level = inner
    raise DataError(f"it is nested too deeply: more than {LEVELS} levels")
