"""Write a file whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mxcheck.files.printed import one_line, told

#: Suffix of a file while it is written: a run that is killed meanwhile leaves one.
PART = ".part"


class WriteError(ValueError):
    """A file that cannot be written. The message is one printable line and names the file. The old file is
    unchanged."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            one_line(
                f"{path} cannot be written: {told(error)}; what was there is unchanged; make room, or let it "
                f"be written to, and run this again"
            )
        )


def write_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write so that a reader, or a run that dies, sees the old file or the new one, never a part. Makes
    missing folders. Unless `durable`, a host that loses power may lose it.

    Raises WriteError where the system refuses.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp makes it private; other users of the repository read it
        Path(temporary).replace(path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WriteError(path, error) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write text in the same way, in UTF-8."""
    write_whole(path, text.encode())
