"""Accepted records on disk: one small sealed JSON file for each case, written atomically."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mxcheck.files import plain_data
from mxcheck.files.plain_data import MALFORMED, DataError, json_data
from mxcheck.files.printed import RefusedFileError, got, told
from mxcheck.gate.case import Case
from mxcheck.gate.figures import check_figures
from mxcheck.gate.record import FORMAT_VERSION, Record, record_from_dict
from mxcheck.gate.shipped import in_force


class BaselineError(RefusedFileError):
    """A baseline file that cannot be used. The message is one printable line and names the file."""


def _canonical(data: dict[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


def seal_of(data: dict[str, Any]) -> str:
    """Return the hash over everything in a baseline except the seal."""
    return hashlib.sha256(_canonical(data).encode()).hexdigest()


def encode(record: Record) -> str:
    """Serialize a record: sorted keys, one list of numbers on each line, trailing newline.

    The seal hashes everything else. It is no signature: it detects edits by hand and bad merges, which could
    otherwise widen a tolerance (the stored noise) without changing a compared figure.
    """
    data: dict[str, Any] = {"format_version": FORMAT_VERSION, **record.as_dict()}
    return _layout({**data, "seal": seal_of(data)})


def _layout(data: dict[str, Any]) -> str:
    return _broken(data, "", levels=4) + "\n"


def _broken(value: Any, indent: str, *, levels: int) -> str:
    """Serialize a table with one key on each line while it holds tables, down to `levels`; all else on one
    line."""
    tables = isinstance(value, dict) and (not indent or any(isinstance(one, dict) for one in value.values()))
    if not value or not isinstance(value, dict) or (not tables and len(indent) > 1) or levels == 0:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    inner = ",\n".join(
        f"{indent} {json.dumps(name)}: {_broken(value[name], f'{indent} ', levels=levels - 1)}"
        for name in sorted(value)
    )
    return f"{{\n{inner}\n{indent}}}"


#: How to restore a damaged baseline file.
_RESTORE = "restore it from version control, or accept anew with --snapshot-update"


def parsed(text: str, *, where: str) -> dict[str, Any]:
    """Parse a baseline's text as JSON. Raises BaselineError, naming `where`."""
    try:
        data = json_data(text)
    except DataError as error:
        raise BaselineError(f"corrupt baseline {where}: {error}; {_RESTORE}") from error
    return data if isinstance(data, dict) else {"format_version": type(data).__name__}


def unseal(data: dict[str, Any], *, where: str) -> None:
    """Remove the seal. Raises BaselineError, naming `where`, if it does not match `data`."""
    seal = data.pop("seal", None)
    try:
        expected = seal_of(data)
    except ValueError as error:  # NaN, which JSON does not allow
        raise BaselineError(f"corrupt baseline {where}: {error}; {_RESTORE}") from error
    if seal != expected:
        raise BaselineError(
            f"baseline {where} was changed by hand or by a merge: its contents do not bear its seal; "
            f"{_RESTORE}"
        )


def decode(text: str, *, where: str) -> Record:
    """Decode a baseline's text. Raises BaselineError, naming `where`, if it is corrupt, of another format
    version, has a seal that does not match, or contradicts itself."""
    data = parsed(text, where=where)
    if data.get("format_version") != FORMAT_VERSION:
        raise BaselineError(
            f"baseline {where} has format version {got(data.get('format_version'))}, this mxcheck reads "
            f"{FORMAT_VERSION}; accept anew with --snapshot-update"
        )
    unseal(data, where=where)
    data.pop("format_version")
    try:
        record = record_from_dict(data)
        check_figures(record)
    except MALFORMED as error:
        raise BaselineError(
            f"corrupt baseline {where}: {told(error)}; accept anew with --snapshot-update"
        ) from error
    return record


def read_text(path: Path) -> str:
    """Return the text of a baseline. Raises FileNotFoundError where nothing is at `path`, BaselineError where
    something other than a readable text file is."""
    try:
        return plain_data.read_text(path)
    except DataError as error:
        raise BaselineError(f"corrupt baseline {path}: {error}; {_RESTORE}") from error


def read(path: Path) -> Record:
    """Read one baseline. Raises FileNotFoundError or BaselineError."""
    return decode(read_text(path), where=str(path))


def states_path(folder: Path, weights: str) -> Path:
    """Return the path of the reference states of a model with this weights fingerprint, beside its
    baselines."""
    return folder / f"states-{weights[:8]}.safetensors"


def baseline_paths(root: Path, case: Case, device_class: str) -> tuple[Path, Path]:
    """Return the path from which a case's baseline is read, and the path to which a new one is written.

    Read: this device class's override if present, else the common file, in the model's folder in force
        (`shipped`). Written: below `root`, to the common file by the CPU, to an override by any other device
        class.
    """
    common = root / case.baseline
    override = common.with_name(f"{common.stem}@{device_class}.json")
    read_from = [in_force(root, path.relative_to(root)) for path in (override, common)]
    there = [path for path in read_from if path.is_file() or path.is_symlink()]
    return (
        there[0] if there else common,
        common if device_class == "cpu" and not override.is_file() else override,
    )
