"""Documents of a local .jsonl or .jsonl.zst, a line each, read as far as they are asked for.

`datasets` reads such a file in stretches as long as its longest line, whatever a few compressed bytes swell
to, and its errors tell of neither file nor row; so these are read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

__all__ = ["DOCUMENT_BYTES", "json_lines"]

#: A line of a .jsonl or .jsonl.zst has at most so many bytes, decompressed (five times War and Peace), and so
#: have blank lines in a row. Fixed: what is longer can be split, or be given as a .txt file, which has no
#: bound because nothing in it swells.
DOCUMENT_BYTES = 2**24

#: Zstandard turns a byte into 32,768 at most: a piece gives 32 MiB.
_PIECE = 2**10
#: A frame that needs a longer history is refused by the library. `zstd --long=27` needs that much.
_WINDOW = 2**27

_BLANK = re.compile(rb"\s*")


def json_lines(path: Path) -> Iterator[str]:
    """The column `text` of each line, in order. A byte-order mark before a line is none of its text.

    Raises ValueError, in one line without the file's name: a line that is no JSON object with a string
    `text`, or longer than `DOCUMENT_BYTES`; data that is not Zstandard's, or ends inside of a frame;
    zstandard is not installed.
    """
    with path.open("rb") as file:
        pieces = _decompressed(file) if path.name.endswith(".zst") else iter(lambda: file.read(2**20), b"")
        for row, line in enumerate(_lines(pieces), 1):
            yield _text(line, row)


def _decompressed(file: IO[bytes]) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise ValueError(
            "it is compressed with zstd, which needs a package: pip install zstandard"
        ) from error
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    frame = None
    while piece := file.read(_PIECE):
        while piece:
            frame = decompressor.decompressobj() if frame is None else frame
            try:
                yield frame.decompress(piece)
            except zstandard.ZstdError as error:
                raise ValueError(f"not readable as Zstandard: {error}") from error
            piece = b""
            if frame.eof:
                piece = frame.unused_data
                frame = None
    if frame is not None:
        raise ValueError("it ends inside of a compressed frame; restore it")


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The lines that are not blank, without blanks before them."""
    line, blank = bytearray(), 0
    for piece in pieces:
        start = 0
        while start < len(piece):
            if not line:
                blank -= start
                start = _BLANK.match(piece, start).end()  # type: ignore[union-attr]  # it may be empty
                blank += start
            end = piece.find(b"\n", start)
            line += piece[start:] if end < 0 else piece[start:end]
            _check_length(max(len(line), blank))
            start = len(piece) if end < 0 else end + 1
            if line:
                blank = 0
            if end >= 0 and line:
                yield bytes(line)
                line.clear()
    if line:
        yield bytes(line)


def _check_length(length: int) -> None:
    if length > DOCUMENT_BYTES:
        raise ValueError(
            f"a line, or a run of blank ones, is longer than {DOCUMENT_BYTES:,} bytes, the bound of a "
            f"document in .jsonl and .jsonl.zst; split it, or give the text as a .txt file, which has none"
        )


def _text(line: bytes, row: int) -> str:
    try:
        found: Any = json.loads(line.decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError(f"JSON parse error in row {row}: it is nested too deeply") from error
    except ValueError as error:  # of UTF-8 too
        raise ValueError(f"JSON parse error in row {row}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"row {row} must be an object with a column 'text', got {type(found).__name__}")
    if "text" not in found:
        columns = ", ".join(ascii(name)[1:-1] for name in found) or "none"
        raise ValueError(
            f"no column 'text', got {columns[:80]} in row {row}; name the column of documents so"
        )
    text = found["text"]
    if not isinstance(text, str):
        raise ValueError(f"the column 'text' must hold strings, got {type(text).__name__} in row {row}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text of row {row} is no Unicode text: {error.reason}") from error
    return text
