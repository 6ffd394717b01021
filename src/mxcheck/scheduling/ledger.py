"""The host's ledger: which process holds what, in one file that all runs share.

Every holder keeps a lock on a file of its own, which the kernel drops when the process dies: however it died,
whoever looks next strikes out what it held. Requests are served in the order in which they came. Local disks
only: locks on network file systems are not to be relied on.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mxcheck.scheduling.devices import Device, used_bytes
from mxcheck.scheduling.leases import Lease, Request, check, grant, others_hold

_VERSION = 1
#: Seconds between two looks of somebody who waits.
_SHORTEST_WAIT, _LONGEST_WAIT = 0.02, 0.1
#: Seconds to wait for devices on which nobody of ours is.
_PATIENCE = 3600.0


class LedgerError(ValueError):
    """A ledger that cannot be used. The message is one line and names the file."""


def default_folder() -> Path:
    """A user's ledger, where no option names one."""
    return Path(tempfile.gettempdir()) / f"mxcheck-{os.getuid()}"


@dataclass(slots=True, kw_only=True)
class _State:
    """The file's contents. `queue`: tickets in the order in which they came; `others`: bytes that processes
    outside the ledger held on a device when it was last free of ours."""

    next_ticket: int = 1
    leases: list[Lease] = field(default_factory=list)
    queue: list[dict[str, Any]] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)


class Ledger:
    """One process's door to the ledger in `folder`. `used` tells the memory in use by device.

    Every method raises LedgerError where the folder or its file cannot be used.
    """

    def __init__(
        self, folder: Path, *, used: Callable[[Sequence[Device]], Mapping[str, int]] = used_bytes
    ) -> None:
        self._folder = folder
        self._used = used
        self._holder: tuple[int, str, FileLock] | None = (
            None  # of this process, not of the one it was forked from
        )

    @property
    def _file(self) -> Path:
        return self._folder / "leases.json"

    def acquire(
        self,
        request: Request,
        devices: Sequence[Device],
        *,
        min_free_ratio: float = 0.0,
        prefer: Collection[str] = (),
        waiting: Callable[[str], None] = lambda _: None,
        patience: float = _PATIENCE,
    ) -> Lease:
        """Wait until everything that is asked for is there, and take it.

        `waiting` is called with the reason each time it is not. Raises ValueError for what the host could not
        give if it were idle, and when it was waited for longer than `patience` seconds while no run of ours
        held any of the devices: then nobody knows whether it ever comes.
        """
        check(request, devices)
        names = {device.name for device in devices}
        holder = self._hold()
        with self._open() as state:
            ticket = state.next_ticket
            state.next_ticket += 1
            state.queue.append({"ticket": ticket, "holder": holder, "devices": sorted(names)})
        pause, since = _SHORTEST_WAIT, time.monotonic()
        try:
            while True:
                looked = time.monotonic()
                with self._open() as state:
                    before = [
                        one for one in state.queue if one["ticket"] < ticket and names & set(one["devices"])
                    ]
                    if before:
                        answer: Lease | str = f"{len(before)} before it"
                    else:
                        answer = self._grant(state, request, devices, holder, min_free_ratio, prefer)
                    if isinstance(answer, Lease):
                        state.leases.append(answer)
                        state.queue = [one for one in state.queue if one["ticket"] != ticket]
                        return answer
                    if any(names & lease.bytes_of.keys() for lease in state.leases):
                        since = looked
                if looked - since > patience:
                    raise ValueError(
                        f"{request.what} waited {patience / 60:.0f} min for what no run of mxcheck holds: "
                        f"{answer}; free it, or lower --mx-min-free-ratio or --mx-batch-size"
                    )
                waiting(answer)
                time.sleep(pause)
                pause = min(_LONGEST_WAIT, pause * 1.5)
        except BaseException:
            with self._open() as state:
                state.queue = [one for one in state.queue if one["ticket"] != ticket]
            raise

    def _grant(
        self,
        state: _State,
        request: Request,
        devices: Sequence[Device],
        holder: str,
        min_free_ratio: float,
        prefer: Collection[str],
    ) -> Lease | str:
        known = {device.name: state.others.get(device.name, 0) for device in devices}
        answer = grant(
            request, devices, state.leases, {}, holder=holder, min_free_ratio=min_free_ratio, prefer=prefer
        )
        if isinstance(answer, str):
            return answer  # not even by the ledger: no need to ask the driver
        used = self._used(devices)
        for device in devices:
            known[device.name] = others_hold(device, state.leases, used, known)
        state.others |= known
        return grant(
            request, devices, state.leases, known, holder=holder, min_free_ratio=min_free_ratio, prefer=prefer
        )

    def release(self, lease: Lease) -> None:
        """Give a lease back; one that is gone already is nothing to complain of."""
        with self._open() as state:
            state.leases = [one for one in state.leases if one != lease]

    def leases(self) -> list[Lease]:
        """What is held by processes that live."""
        with self._open() as state:
            return list(state.leases)

    def waiting(self) -> int:
        """How many living processes wait."""
        with self._open() as state:
            return len(state.queue)

    def check_usable(self) -> None:
        """Raises LedgerError where it is not, before anybody depends on it."""
        with self._open():
            pass

    def close(self) -> None:
        """Give everything back and leave no trace."""
        if self._holder is None or self._holder[0] != os.getpid():
            return
        _, name, lock = self._holder
        self._holder = None
        with self._open() as state:
            _strike(state, {name})
        lock.release()
        self._lock_file(name).unlink(missing_ok=True)

    def _hold(self) -> str:
        """This process's name in the ledger, locked."""
        if self._holder is None or self._holder[0] != os.getpid():
            self._make_folder()
            name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
            lock = self._lock(f"holder-{name}")
            with _named_errors(self._folder):
                lock.acquire(blocking=False)
            self._holder = (os.getpid(), name, lock)
        return self._holder[1]

    def _lock_file(self, name: str) -> Path:
        return self._folder / f"holder-{name}.lock"

    def _lock(self, name: str) -> FileLock:
        # Never a soft lock, which outlives its process.
        return FileLock(
            self._folder / f"{name}.lock",
            thread_local=False,
            fallback_to_soft=False,
            poll_interval=_SHORTEST_WAIT / 4,
        )

    def _make_folder(self) -> None:
        with _named_errors(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = self._folder.stat().st_uid
        if self._folder == default_folder() and owner != os.getuid():
            raise LedgerError(
                f"the ledger {self._folder} is another user's (uid {owner}); name one with --mx-leases=DIR"
            )

    @contextmanager
    def _open(self) -> Iterator[_State]:
        """The state, without what the dead held; written back if it has changed."""
        self._make_folder()
        with (
            _named_errors(self._folder),
            self._lock("ledger"),
        ):
            state = self._read()
            before = _text(state)
            _strike(state, self._dead(state))
            yield state
            if (text := _text(state)) != before or not self._file.is_file():
                new = self._file.with_suffix(".new")
                new.write_text(text, encoding="utf-8")
                new.replace(self._file)

    def _read(self) -> _State:
        if not self._file.exists():
            return _State()
        try:
            data = json.loads(self._file.read_text(encoding="utf-8"))
            if data.pop("version") != _VERSION:
                raise ValueError("another version")
            return _State(**{**data, "leases": [Lease(**one) for one in data["leases"]]})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise LedgerError(
                f"the ledger {self._file} is corrupt ({type(error).__name__}: {error}); when no run of "
                f"mxcheck is under way on this host, delete it"
            ) from error

    def _dead(self, state: _State) -> set[str]:
        """Holders whose lock the kernel has dropped."""
        mine = self._holder[1] if self._holder is not None and self._holder[0] == os.getpid() else None
        names = {lease.holder for lease in state.leases} | {one["holder"] for one in state.queue}
        dead = set()
        for name in names - {mine}:
            lock = self._lock(f"holder-{name}")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            lock.release()
            self._lock_file(name).unlink(missing_ok=True)
            dead.add(name)
        return dead


def _strike(state: _State, holders: Collection[str]) -> None:
    state.leases = [lease for lease in state.leases if lease.holder not in holders]
    state.queue = [one for one in state.queue if one["holder"] not in holders]


def _text(state: _State) -> str:
    return json.dumps({"version": _VERSION, **asdict(state)}, sort_keys=True, indent=1)


@contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, Timeout):
            raise
        raise LedgerError(
            f"the ledger {folder} cannot be used ({type(error).__name__}: {error.strerror or error}); name a "
            f"directory on a local disk that you may write to, with --mx-leases=DIR or $MXCHECK_LEASES"
        ) from error
