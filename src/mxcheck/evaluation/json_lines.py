"""Read the documents of a local .jsonl or .jsonl.zst, one per line, only as far as needed.

`datasets` reads such a file in chunks as long as its longest line, however large a few compressed bytes
become, and its errors name neither file nor row; so these files are read here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mxcheck.extras import named

__all__ = ["DOCUMENT_BYTES", "json_lines"]

#: Most bytes of a line of a .jsonl or .jsonl.zst, decompressed (five times War and Peace), and of consecutive
#: blank lines. Fixed: a longer document can be split, or given as a .txt file, which needs no bound because
#: it is not compressed.
DOCUMENT_BYTES = 2**24

#: Compressed bytes per read: Zstandard expands a byte to at most 32,768, so a piece gives at most 32 MiB.
_PIECE = 2**10
#: Longest history of a frame; the library refuses longer ones. `zstd --long=27` needs this much.
_WINDOW = 2**27

_BLANK = re.compile(rb"\s*")


def json_lines(path: Path) -> Iterator[str]:
    """Yield the column `text` of each line, in order. A byte-order mark before a line is not part of its
    text.

    Raises ValueError, in one line without the file's name: a line that is not a JSON object with a string
    `text`, or is longer than `DOCUMENT_BYTES`; data that is not Zstandard, or ends inside of a frame;
    zstandard is not installed.
    """
    with path.open("rb") as file:
        pieces = _decompressed(file) if path.name.endswith(".zst") else iter(lambda: file.read(2**20), b"")
        for row, line in enumerate(_lines(pieces), 1):
            yield _text(line, row)


def _decompressed(file: IO[bytes]) -> Iterator[bytes]:
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise named(error, "a file compressed with zstd") from None
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
    """Yield the nonblank lines, without leading blanks."""
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
    except ValueError as error:  # includes UTF-8 errors
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
