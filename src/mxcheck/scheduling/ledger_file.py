"""The ledger's file: its contents, and checks on reading it. Every user of the shared folder can write it,
and a holder's name is also the name of a file in the folder."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mxcheck.files.plain_data import MALFORMED, read_json
from mxcheck.files.printed import RefusedFileError, got, told
from mxcheck.files.write import PART, write_whole
from mxcheck.scheduling.leases import Lease

_VERSION = 1
#: Largest file that is read: every run of a host holds a few leases.
_MOST_BYTES = 2**24
#: Process id and a random word, as `holder_name` writes them, so that a name cannot lead out of the folder.
_HOLDER = re.compile(r"[0-9]{1,20}-[0-9a-f]{8}")


class LedgerError(RefusedFileError, ValueError):
    """A ledger that cannot be used. The message is one printable line and names the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A waiting process, in the order of tickets, and its requested devices."""

    ticket: int
    holder: str
    devices: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class State:
    """The file's contents. `queue` is in the order in which tickets arrived; `others`: bytes that processes
    outside the ledger held on a device when it last had none of our leases."""

    next_ticket: int = 1
    leases: list[Lease] = field(default_factory=list)
    queue: list[Waiting] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)

    def strike(self, holders: Collection[str]) -> None:
        """Remove the leases and queue entries of these holders."""
        self.leases = [lease for lease in self.leases if lease.holder not in holders]
        self.queue = [one for one in self.queue if one.holder not in holders]

    def text(self) -> str:
        """Return the file's text."""
        return json.dumps({"version": _VERSION, **asdict(self)}, sort_keys=True, indent=1)


def holder_name(process: int, word: str) -> str:
    """Return a process's name in the ledger. `word` has at least eight hexadecimal digits."""
    return f"{process}-{word[:8]}"


def read_state(path: Path) -> State:
    """Read the state from a file; an empty state where there is no file. Raises LedgerError for anything
    else."""
    try:
        if path.is_symlink():
            raise ValueError("it is a link")
        return _state(read_json(path, most=_MOST_BYTES))
    except FileNotFoundError:
        return State()
    except MALFORMED as error:
        raise LedgerError(
            f"the ledger {path} is corrupt ({told(error)}); when no run of mxcheck is under way on this "
            f"host, delete it"
        ) from error


def write_state(path: Path, state: State) -> None:
    """Write the file atomically: concurrent readers see the old one. The caller holds the ledger's lock, so a
    partial file beside it belongs to a killed process."""
    for part in path.parent.glob(f".{path.name}.*{PART}"):
        if part.is_file() or part.is_symlink():
            part.unlink(missing_ok=True)
    write_whole(path, state.text().encode(), durable=False)


def _state(data: Any) -> State:
    table = _table("the ledger", data, ("version", *(one.name for one in fields(State))))
    if table["version"] != _VERSION:
        raise ValueError(f"version {got(table['version'])}, this mxcheck has {_VERSION}")
    return State(
        next_ticket=_count("next_ticket", table["next_ticket"]),
        leases=[_lease(one) for one in _list("leases", table["leases"])],
        queue=[_waiting(one) for one in _list("queue", table["queue"])],
        others=dict(_counts("others", table["others"])),
    )


def _lease(data: Any) -> Lease:
    table = _table("a lease", data, tuple(one.name for one in fields(Lease)))
    lease = Lease(
        holder=_holder(table["holder"]),
        what=_text("what", table["what"]),
        bytes_of=dict(_counts("bytes_of", table["bytes_of"])),
        slots_of=dict(_counts("slots_of", table["slots_of"])),
    )
    if lease.bytes_of.keys() != lease.slots_of.keys():
        raise ValueError(f"a lease of {got(lease.what)} has bytes and slots of different devices")
    return lease


def _waiting(data: Any) -> Waiting:
    table = _table("the queue", data, tuple(one.name for one in fields(Waiting)))
    return Waiting(
        ticket=_count("ticket", table["ticket"]),
        holder=_holder(table["holder"]),
        devices=tuple(_text("a device", one) for one in _list("devices", table["devices"])),
    )


def _holder(value: Any) -> str:
    if not isinstance(value, str) or not _HOLDER.fullmatch(value):
        raise ValueError(f"a holder is called {got(value)}; allowed: a process, '-' and eight hex digits")
    return value


def _table(what: str, data: Any, names: Collection[str]) -> dict[str, Any]:
    if not isinstance(data, dict) or data.keys() != set(names):
        raise ValueError(f"{what} must be a table of {', '.join(names)}, got {got(data)}")
    return data


def _list(what: str, data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise ValueError(f"{what} must be a list, got {got(data)}")
    return data


def _counts(what: str, data: Any) -> Iterator[tuple[str, int]]:
    if not isinstance(data, Mapping):
        raise ValueError(f"{what} must be a table of numbers, got {got(data)}")
    for name, number in data.items():
        yield _text("a device", name), _count(what, number)


def _count(what: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{what} must be a whole number of 0 or more, got {got(value)}")
    return value


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} must be text, got {got(value)}")
    return value
