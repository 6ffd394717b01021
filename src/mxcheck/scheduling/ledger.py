"""The host's ledger of leases by process, in one file that all runs share.

Every holder keeps a lock on its own file, which the kernel releases when the process dies in any way: the
next reader then removes its leases. Requests are served in order of arrival. Local disks only: locks on
network file systems are unreliable.
"""

from __future__ import annotations

import os
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mxcheck.files.printed import told
from mxcheck.files.write import WriteError
from mxcheck.scheduling.devices import Device, used_bytes
from mxcheck.scheduling.leases import Lease, Request, check, grant, others_hold
from mxcheck.scheduling.ledger_file import (
    LedgerError,
    State,
    Waiting,
    holder_name,
    read_state,
    write_state,
)

#: Seconds between two polls of a waiting process.
_SHORTEST_WAIT, _LONGEST_WAIT = 0.02, 0.1
#: Seconds to wait for devices without our leases.
_PATIENCE = 3600.0


def default_folder() -> Path:
    """Return a user's default ledger, where no option names one. Raises LedgerError where there is no
    temporary folder."""
    try:
        return Path(tempfile.gettempdir()) / f"mxcheck-{os.getuid()}"
    except OSError as error:
        raise LedgerError(
            f"{told(error)}: nowhere for the ledger of this host's runs; let TMPDIR name a folder that "
            f"can be written to, or name one with --mx-leases=DIR"
        ) from error


class Ledger:
    """One process's interface to the ledger in `folder`. `used` returns the memory in use by device.

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
        """Wait until the whole request can be granted, and take the lease.

        `waiting` is called with the reason at each refusal. Raises ValueError for a request that an idle host
        could not grant, and after more than `patience` seconds of waiting while no run of ours held any of
        the devices, since the wait might never end.
        """
        check(request, devices)
        names = {device.name for device in devices}
        holder = self._hold()
        with self._open() as state:
            ticket = state.next_ticket
            state.next_ticket += 1
            state.queue.append(Waiting(ticket=ticket, holder=holder, devices=tuple(sorted(names))))
        pause, since = _SHORTEST_WAIT, time.monotonic()
        try:
            while True:
                looked = time.monotonic()
                with self._open() as state:
                    before = [
                        one for one in state.queue if one.ticket < ticket and names.intersection(one.devices)
                    ]
                    if before:
                        answer: Lease | str = f"{len(before)} before it"
                    else:
                        answer = self._grant(state, request, devices, holder, min_free_ratio, prefer)
                    if isinstance(answer, Lease):
                        state.leases.append(answer)
                        state.queue = [one for one in state.queue if one.ticket != ticket]
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
                state.queue = [one for one in state.queue if one.ticket != ticket]
            raise

    def _grant(
        self,
        state: State,
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
            return answer  # refused by the ledger alone: no need to ask the driver
        used = self._used(devices)
        for device in devices:
            known[device.name] = others_hold(device, state.leases, used, known)
        state.others |= known
        return grant(
            request, devices, state.leases, known, holder=holder, min_free_ratio=min_free_ratio, prefer=prefer
        )

    def release(self, lease: Lease) -> None:
        """Release a lease; ignore one that is already released."""
        with self._open() as state:
            state.leases = [one for one in state.leases if one != lease]

    def leases(self) -> list[Lease]:
        """Return the leases of living processes."""
        with self._open() as state:
            return list(state.leases)

    def waiting(self) -> int:
        """Return the number of living processes that wait."""
        with self._open() as state:
            return len(state.queue)

    def check_usable(self) -> None:
        """Raise LedgerError where the ledger is unusable, before anything depends on it."""
        with self._open():
            pass

    def close(self) -> None:
        """Release all leases and remove this process from the ledger."""
        if self._holder is None or self._holder[0] != os.getpid():
            return
        _, name, lock = self._holder
        self._holder = None
        with self._open() as state:
            state.strike({name})
        lock.release()
        self._lock_file(name).unlink(missing_ok=True)

    def _hold(self) -> str:
        """Return this process's name in the ledger, with its lock held."""
        if self._holder is None or self._holder[0] != os.getpid():
            self._make_folder()
            name = holder_name(os.getpid(), uuid.uuid4().hex)
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
            found = self._folder.lstat()
        if self._folder != default_folder():
            return  # a named folder may be another's, or several users'
        whose = "is another user's" if found.st_uid != os.getuid() else ""
        whose = whose or ("is a link" if not stat.S_ISDIR(found.st_mode) else "")
        whose = whose or ("can be written to by other users" if found.st_mode & 0o022 else "")
        if whose:
            raise LedgerError(
                f"the ledger {self._folder} {whose} (uid {found.st_uid}, mode "
                f"{stat.filemode(found.st_mode)}); name one with --mx-leases=DIR"
            )

    @contextmanager
    def _open(self) -> Iterator[State]:
        """Yield the state, without the leases of dead processes; write it back if it has changed."""
        self._make_folder()
        with (
            _named_errors(self._folder),
            self._lock("ledger"),
        ):
            state = read_state(self._file)
            before = state.text()
            state.strike(self._dead(state))
            yield state
            if state.text() != before or not self._file.is_file():
                write_state(self._file, state)

    def _dead(self, state: State) -> set[str]:
        """Return the holders whose lock the kernel has released."""
        mine = self._holder[1] if self._holder is not None and self._holder[0] == os.getpid() else None
        names = {lease.holder for lease in state.leases} | {one.holder for one in state.queue}
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


@contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except WriteError as error:
        raise LedgerError(f"the ledger {folder}: {error}, or name another with --mx-leases=DIR") from error
    except OSError as error:
        if isinstance(error, Timeout):
            raise
        raise LedgerError(
            f"the ledger {folder} cannot be used ({type(error).__name__}: {error.strerror or error}); name a "
            f"directory on a local disk that you may write to, with --mx-leases=DIR or $MXCHECK_LEASES"
        ) from error
