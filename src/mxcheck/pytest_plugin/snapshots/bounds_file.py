"""Add a case's line to its model's `bounds.toml`, once."""

from __future__ import annotations

import os
import tempfile
import tomllib
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from mxcheck.files.write import write_whole
from mxcheck.gate.absolute_checks import HEAD, Absolute, bounds_lines, first_bounds
from mxcheck.gate.bounds_tables import bounds_path, read_bounds
from mxcheck.gate.record import Record


def add_bounds(record: Record, found: Absolute, folder: Path) -> None:
    """Add the line of a case that is accepted for the first time to the file in `folder`, the model's
    baselines, unless it has one. Existing lines are preserved. Other workers and other runs of this host may
    add theirs at the same time.

    Raises ValueError where the file cannot be read, where an appended line would belong to another section,
    and where the record has no KL.
    """
    path = bounds_path(folder).resolve()  # preserve a link
    with FileLock(_lock(path)):
        kept = read_bounds(folder).get("default", {})
        name = record.case.name
        if name in kept:
            return
        before = path.read_bytes().decode("utf-8-sig") if path.exists() else ""
        line = bounds_lines(record, first_bounds(record), found, today=datetime.now(tz=UTC).date())
        text = (before.rstrip() or HEAD.format(model=record.model).rstrip()) + "\n" + line
        if tomllib.loads(text).keys() != {*tomllib.loads(before), name}:
            raise ValueError(
                f"{path}: has sections, so that no line can be added at its end; write lines such as "
                f"`{line.strip().splitlines()[-1]}` before the first of them"
            )
        newline = "\r\n" if "\r\n" in before else "\n"
        write_whole(path, text.replace("\r\n", "\n").replace("\n", newline).encode())


def _lock(path: Path) -> Path:
    """Return the path of the lock, outside the repository and the same for all runs of this user."""
    name = sha256(str(path).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"mxcheck-{os.getuid()}-bounds-{name}.lock"
