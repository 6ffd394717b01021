"""Accepted records on disk: one small JSON a case, sealed, written atomically."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from mxcheck.gate.case import Case
from mxcheck.gate.record import FORMAT_VERSION, Record, record_from_dict


class BaselineError(Exception):
    """A baseline file that cannot be used. The message is one line and names the file."""


def _canonical(data: dict[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def seal_of(data: dict[str, Any]) -> str:
    """The hash over everything in a baseline but the seal."""
    return hashlib.sha256(_canonical(data).encode()).hexdigest()


def encode(record: Record) -> str:
    """The file's text: sorted keys, one list of numbers a line, trailing newline.

    The seal is a hash over everything else. It is no signature: it catches edits by hand and bad merges,
    which could otherwise widen a tolerance (the stored noise) without moving anything that is compared.
    """
    data: dict[str, Any] = {"format_version": FORMAT_VERSION, **record.as_dict()}
    return _layout({**data, "seal": seal_of(data)})


def _layout(data: dict[str, Any]) -> str:
    return _broken(data, "", levels=4) + "\n"


def _broken(value: Any, indent: str, *, levels: int) -> str:
    """Tables a line a key, as long as they hold tables and to so many levels; all else on one line."""
    tables = isinstance(value, dict) and (not indent or any(isinstance(one, dict) for one in value.values()))
    if not value or not isinstance(value, dict) or (not tables and len(indent) > 1) or levels == 0:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    inner = ",\n".join(
        f"{indent} {json.dumps(name)}: {_broken(value[name], f'{indent} ', levels=levels - 1)}"
        for name in sorted(value)
    )
    return f"{{\n{inner}\n{indent}}}"


def decode(text: str, *, where: str) -> Record:
    """Read a baseline's text. Raises BaselineError, naming `where`, if it is corrupt, of another format
    version, or does not bear its seal.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise BaselineError(
            f"corrupt baseline {where}: not JSON ({error}); restore it from version control, "
            f"or accept anew with --snapshot-update"
        ) from error
    if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
        got = data.get("format_version") if isinstance(data, dict) else type(data).__name__
        raise BaselineError(
            f"baseline {where} has format version {got!r}, this mxcheck reads {FORMAT_VERSION}; "
            f"accept anew with --snapshot-update"
        )
    seal = data.pop("seal", None)
    try:
        expected = seal_of(data)
    except ValueError as error:
        raise BaselineError(
            f"corrupt baseline {where}: {error}; restore it from version control, "
            f"or accept anew with --snapshot-update"
        ) from error
    if seal != expected:
        raise BaselineError(
            f"baseline {where} was changed by hand or by a merge: its contents do not bear its seal; "
            f"restore it from version control, or accept anew with --snapshot-update"
        )
    data.pop("format_version")
    try:
        return record_from_dict(data)
    except (ValueError, TypeError) as error:
        raise BaselineError(
            f"corrupt baseline {where}: {error}; accept anew with --snapshot-update"
        ) from error


def read(path: Path) -> Record:
    """Read one baseline. Raises FileNotFoundError or BaselineError."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BaselineError(
            f"corrupt baseline {path}: not UTF-8 text; restore it from version control, "
            f"or accept anew with --snapshot-update"
        ) from error
    return decode(text, where=str(path))


def baseline_paths(root: Path, case: Case, device_class: str) -> tuple[Path, Path]:
    """Where a case's baseline is read, and where a new one is written.

    Read: this device class's override where there is one, else the common file. Written: the common file is
    the CPU's, any other device class writes its own override.
    """
    common = root / case.baseline
    override = common.with_name(f"{common.stem}@{device_class}.json")
    return (
        override if override.is_file() else common,
        common if device_class == "cpu" and not override.is_file() else override,
    )


def write_text(path: Path, text: str) -> None:
    """Write so that a reader, or a run that dies, sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp makes it private; a baseline is a file of the repository
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
