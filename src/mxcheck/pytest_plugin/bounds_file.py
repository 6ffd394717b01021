"""A case's line in its model's `bounds.toml`, added once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from mxcheck.gate.absolute import HEAD, Absolute, bounds_lines, first_bounds
from mxcheck.gate.budget import bounds_path, read_bounds
from mxcheck.gate.record import Record
from mxcheck.gate.write import write_text


def add_bounds(record: Record, found: Absolute, folder: Path, *, shared: Path) -> None:
    """Add the line of a case that is accepted for the first time to the file in `folder`, the model's
    baselines, unless it has one. What people wrote there stays as it is. Other workers, which see the folder
    `shared`, add theirs at the same time.

    Raises ValueError where the file cannot be read, or the record has no KL.
    """
    path = bounds_path(folder)
    with FileLock(shared / f"bounds-{record.model}.lock"):
        if record.case.stage in read_bounds(folder).get("default", {}):
            return
        before = path.read_text(encoding="utf-8") if path.exists() else HEAD.format(model=record.model)
        line = bounds_lines(record, first_bounds(record), found, today=datetime.now(tz=UTC).date())
        write_text(path, before.rstrip("\n") + "\n" + line)
