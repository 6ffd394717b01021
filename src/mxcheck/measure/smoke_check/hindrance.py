"""Find why the smoke check cannot run though mxcheck is right: the temporary folder cannot be written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mxcheck.files.printed import one_line, told

#: Number of bytes above what any smoke check writes.
_BYTES = 1 << 18


def no_room() -> str:
    """Return why the temporary folder cannot be written, in one line; empty if it can. Called when a smoke
    check has failed."""
    where = "the temporary folder"
    try:
        where = f"{where} {tempfile.gettempdir()}"
        with tempfile.TemporaryDirectory(prefix="mxcheck-smoke-check-") as folder:
            (Path(folder) / "room").write_bytes(bytes(_BYTES))
    except OSError as error:
        return one_line(
            f"{where} cannot be written to: {told(error)}; make room, or name another folder by TMPDIR"
        )
    return ""
