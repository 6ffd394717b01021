"""The JSON file of one shard for `mxcheck merge`. Uses only records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mxcheck.files.plain_data import MALFORMED, DataError, read_json
from mxcheck.files.printed import RefusedFileError, got, told
from mxcheck.gate.case import Case
from mxcheck.gate.result import CaseResult, case_from_dict, check_green, result_from_dict
from mxcheck.reporting.table import lines_below, results_table

#: Version of the layout, and of the names in ids. A file of another version is refused.
FORMAT_VERSION = 5

#: Longest file that is read: half a megabyte for each case.
_MOST_BYTES = 2**30


class ShardError(RefusedFileError, ValueError):
    """A shard's file that cannot be used. The message is one printable line and names the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The basis of a shard's verdicts, which must be equal for all shards of a run.

    `commit` is that of pytest's root directory, or says that there is none; `changes` is a digest of the
    tracked files that differ from the commit, or empty. `sources` and `baselines` are digests of the
    package's files and of the accepted records at the start of the run; `selection` holds options that may
    exclude cases, such as `-k`, or is empty; `arguments` holds what is collected; `options` those that affect
    a verdict and are no part of a case's name. `run` is the name that the starter of the shards gave all of
    them, or empty.
    """

    mxcheck: str
    commit: str
    changes: str
    sources: str
    baselines: str
    selection: str
    arguments: str
    options: str
    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRun:
    """The `index`-th of `count` parts of a run, as its controller saw it end.

    `cases` are those of the whole run, in the table's order; `part` the ids of this shard's cases, `selected`
    those that remain after the basis' `selection`. `results` are the controller's, `messages` those of the
    red ones, by id; `failures` the failed tests that are no cases, by node id. `exit_status` is pytest's.
    """

    index: int
    count: int
    basis: Basis
    cases: tuple[Case, ...]
    part: tuple[str, ...]
    selected: tuple[str, ...]
    results: tuple[CaseResult, ...]
    messages: Mapping[str, str]
    failures: Mapping[str, str]
    exit_status: int

    @property
    def name(self) -> str:
        return f"{self.index}/{self.count}"


def file_name(index: int, count: int) -> str:
    return f"shard-{index}-of-{count}.json"


def find(folder: Path) -> list[Path]:
    """Return the shards' files anywhere below a folder: CI unpacks each artefact into a folder of its own."""
    return sorted(folder.rglob("shard-*-of-*.json"))


def encode(shard: ShardRun) -> str:
    """Return the file's text. Numbers keep every bit; NaN and infinities are written in the form of Python's
    json."""
    data = {field.name: getattr(shard, field.name) for field in fields(shard)}
    data |= {
        "basis": asdict(shard.basis),
        "cases": [asdict(case) for case in shard.cases],
        "results": [result.as_dict() for result in shard.results],
    }
    return json.dumps({"format_version": FORMAT_VERSION, **data}) + "\n"


def read(path: Path) -> ShardRun:
    """Read one shard's file. Raises ValueError, in one line, where it is corrupt or of another version."""
    try:
        data = read_json(path, most=_MOST_BYTES)
    except (FileNotFoundError, DataError) as error:
        raise _corrupt(path, told(error)) from error
    if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
        version = data.get("format_version") if isinstance(data, dict) else type(data).__name__
        raise ShardError(
            f"shard file {path} has format version {got(version)}, this mxcheck reads {FORMAT_VERSION}; "
            f"merge with the mxcheck that ran the shards"
        )
    try:
        shard = _from_dict(data)
        _check(shard)
    except MALFORMED as error:
        raise _corrupt(path, told(error)) from error
    return shard


def _corrupt(path: Path, words: str) -> ShardError:
    return ShardError(f"corrupt shard file {path}: {words}; fetch it again, or run this shard again")


def _from_dict(data: Mapping[str, Any]) -> ShardRun:
    for key, kind in _KINDS.items():
        if not isinstance(data[key], kind) or isinstance(data[key], bool):
            raise TypeError(f"{key} must be {kind.__name__}, got {got(data[key])}")
    for key, value in data["basis"].items():
        if not isinstance(value, str):
            raise TypeError(f"{key} of basis must be str, got {got(value)}")
    return ShardRun(
        index=data["index"],
        count=data["count"],
        basis=Basis(**data["basis"]),
        cases=tuple(map(case_from_dict, data["cases"])),
        part=tuple(data["part"]),
        selected=tuple(data["selected"]),
        results=tuple(map(result_from_dict, data["results"])),
        messages=data["messages"],
        failures=data["failures"],
        exit_status=data["exit_status"],
    )


_KINDS: Mapping[str, type] = {
    **dict.fromkeys(("index", "count", "exit_status"), int),
    **dict.fromkeys(("cases", "part", "selected", "results"), list),
    **dict.fromkeys(("basis", "messages", "failures"), dict),
}


def _check(shard: ShardRun) -> None:
    """Raise ValueError where a shard contradicts itself."""
    if not 1 <= shard.index <= shard.count:
        raise ValueError(f"it is shard {shard.name}")
    cases = [case.id for case in shard.cases]
    if shard.count > max(1, len(cases)):  # the search for missing shards counts up to it
        raise ValueError(f"it is one of {shard.count:,} of a run of {len(cases)} cases")
    for what, names, within in (
        ("cases", cases, cases),
        ("part", shard.part, cases),
        ("selected", shard.selected, shard.part),
        ("results", [result.case.id for result in shard.results], shard.selected),
        ("messages", list(shard.messages), shard.selected),
    ):
        if len(set(names)) != len(names):
            raise ValueError(f"{what} names a case twice")
        if strange := [name for name in names if name not in within]:
            raise ValueError(f"{what} has {got(strange[0])}, which is none of its cases")
    for result in shard.results:
        if result.case not in shard.cases:
            raise ValueError(f"the result of {result.case.id} is one of another case of that name")
        check_green(result)
        results_table([result])  # raises where the table could not show it,
        lines_below([result])  # or the lines below it could not
    for name, message in {**shard.messages, **shard.failures}.items():
        if not isinstance(message, str):
            raise TypeError(f"the message of {name} is {got(message)}")
