"""The ledger's file: processes that share it, wait in line, and die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mxcheck.scheduling.devices import Device
from mxcheck.scheduling.leases import Request
from mxcheck.scheduling.ledger import Ledger, LedgerError, default_folder

GPUS = [Device(name=f"GPU-{n}", index=n, slots=1, total_bytes=80) for n in range(2)]
ONE, BOTH = Request(what="one", bytes_each=10), Request(what="both", devices=2, bytes_each=10)

#: Takes a lease, says so, and keeps it until it is told to go on, or killed.
_OTHER = """
import sys
from pathlib import Path
from mxcheck.scheduling.devices import Device
from mxcheck.scheduling.leases import Request
from mxcheck.scheduling.ledger import Ledger
gpus = [Device(name=f"GPU-{n}", index=n, slots=1, total_bytes=80) for n in range(2)]
ledger = Ledger(Path(sys.argv[1]), used=lambda _: {})
print("asks", flush=True)
lease = ledger.acquire(Request(what="other", devices=int(sys.argv[2]), bytes_each=10), gpus)
print("has", *sorted(lease.bytes_of), flush=True)
sys.stdin.readline()
ledger.close()
"""

Other = Callable[[int], subprocess.Popen[str]]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path, used=lambda _: {})
    yield made
    made.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Other]:
    """Starts other processes that ask for so many devices."""
    with ExitStack() as stack:

        def start(devices: int) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", _OTHER, str(tmp_path), str(devices)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert heard(process) == "asks"
            return process

        yield start


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def waiting(ledger: Ledger, count: int) -> None:
    """Until so many wait: a process that asks is in the queue a moment later."""
    limit = time.monotonic() + 300
    while ledger.waiting() < count:
        assert time.monotonic() < limit, f"{ledger.waiting()} of {count} wait"
        time.sleep(0.01)


def test_what_is_taken_is_not_given_twice(ledger: Ledger, other: Other) -> None:
    process = other(2)
    assert heard(process) == "has GPU-0 GPU-1"
    reasons = []

    def note(reason: str) -> None:
        reasons.append(reason)
        if len(reasons) == 3:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    lease = ledger.acquire(ONE, GPUS, waiting=note)
    assert sorted(lease.bytes_of) == ["GPU-0"]
    assert set(reasons) == {"device 0 is taken; device 1 is taken"}
    assert len(reasons) >= 3


def test_the_kernel_gives_back_what_the_dead_held(ledger: Ledger, other: Other) -> None:
    process = other(2)
    assert heard(process) == "has GPU-0 GPU-1"
    assert [lease.what for lease in ledger.leases()] == ["other"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert ledger.leases() == []
    ledger.acquire(BOTH, GPUS)


def test_one_that_dies_waiting_is_struck_out(ledger: Ledger, other: Other) -> None:
    lease = ledger.acquire(BOTH, GPUS)
    process = other(1)
    waiting(ledger, 1)
    process.kill()
    process.wait()
    assert ledger.waiting() == 0
    ledger.release(lease)


def test_first_come_first_served(ledger: Ledger, other: Other) -> None:
    """Who asks for two is not passed by those that ask for one, or it would wait for ever."""
    lease = ledger.acquire(ONE, GPUS)
    wide = other(2)
    waiting(ledger, 1)
    narrow = other(1)  # GPU-1 is free
    waiting(ledger, 2)
    time.sleep(0.6)  # longer than anybody waits between two looks
    assert ledger.waiting() == 2
    ledger.release(lease)
    assert heard(wide) == "has GPU-0 GPU-1"
    assert ledger.waiting() == 1
    wide.communicate("\n")
    assert heard(narrow) == "has GPU-0"


def test_other_devices_are_another_line(ledger: Ledger, other: Other) -> None:
    lease = ledger.acquire(ONE, GPUS[:1])
    process = other(2)
    waiting(ledger, 1)
    ledger.acquire(ONE, [Device(name="cpu", index=0, slots=1, total_bytes=99)])
    ledger.release(lease)
    assert heard(process) == "has GPU-0 GPU-1"


def test_memory_is_read_when_it_is_granted(tmp_path: Path) -> None:
    used = {"GPU-0": 75, "GPU-1": 0}
    ledger = Ledger(tmp_path, used=lambda _: used)
    assert sorted(ledger.acquire(ONE, GPUS).bytes_of) == ["GPU-1"]
    used["GPU-1"] = 10
    looks = 0

    def note(reason: str) -> None:
        nonlocal looks
        looks += 1
        assert "0.0 of 0.0 GiB is free on device 0" in reason
        used["GPU-0"] = 60  # somebody else's process ended

    assert sorted(ledger.acquire(ONE, GPUS, waiting=note).bytes_of) == ["GPU-0"]
    assert looks == 1
    ledger.close()
    assert json.loads((tmp_path / "leases.json").read_text())["others"] == {"GPU-0": 60, "GPU-1": 0}


def test_the_driver_is_not_asked_while_the_ledger_is_full(tmp_path: Path) -> None:
    asked = []
    ledger = Ledger(tmp_path, used=lambda devices: asked.append(len(devices)) or {})
    lease = ledger.acquire(BOTH, GPUS)
    assert asked == [2]
    with pytest.raises(KeyboardInterrupt):
        ledger.acquire(ONE, GPUS, waiting=_interrupt)
    assert asked == [2]
    assert ledger.waiting() == 0, "who gives up leaves the line"
    ledger.release(lease)
    ledger.close()


def test_nobody_waits_for_ever_for_others(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, used=lambda devices: {device.name: 70 for device in devices})
    whole = Request(what="large", bytes_each=60)
    message = r"^large waited 0 min for what no run of mxcheck holds: 0\.0 of 0\.0 GiB is free on device 0; "
    with pytest.raises(ValueError, match=message):
        ledger.acquire(whole, GPUS, patience=0.2)
    assert ledger.waiting() == 0
    # While one of ours is on them, it will end.
    other = Ledger(tmp_path, used=lambda _: {})
    lease = other.acquire(BOTH, GPUS)
    looks = 0

    def release_in_the_end(_: str) -> None:
        nonlocal looks
        looks += 1
        if looks == 5:
            other.release(lease)

    with pytest.raises(ValueError, match=message):
        ledger.acquire(whole, GPUS, patience=0.0, waiting=release_in_the_end)
    assert looks == 5
    ledger.close()
    other.close()


def _interrupt(_: str) -> None:
    raise KeyboardInterrupt


def test_a_closed_ledger_leaves_no_trace(ledger: Ledger, tmp_path: Path) -> None:
    ledger.acquire(ONE, GPUS)
    ledger.close()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("holder")) == []
    assert json.loads((tmp_path / "leases.json").read_text())["leases"] == []


_FORKS = """
import gc, os, sys
from pathlib import Path
from mxcheck.scheduling.devices import Device
from mxcheck.scheduling.leases import Request
from mxcheck.scheduling.ledger import Ledger
gpus = [Device(name=f"GPU-{n}", index=n, slots=1, total_bytes=80) for n in range(2)]
ledger = Ledger(Path(sys.argv[1]), used=lambda _: {})
mine = ledger.acquire(Request(what="mine", bytes_each=10), gpus)
child = os.fork()
if not child:
    theirs = ledger.acquire(Request(what="theirs", bytes_each=10), gpus)
    assert theirs.holder != mine.holder
    del ledger
    gc.collect()
    sys.exit()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("has", flush=True)
sys.stdin.readline()
"""


def test_a_forked_child_is_another_holder(ledger: Ledger, tmp_path: Path) -> None:
    """And takes nothing of its parent's with it when it ends."""
    with subprocess.Popen(
        [sys.executable, "-c", _FORKS, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert heard(process) == "has"
        assert [lease.what for lease in ledger.leases()] == ["mine"]
        process.communicate("\n")
    assert ledger.leases() == []


def test_many_at_once(tmp_path: Path) -> None:
    """Threads stand for processes: each has a ledger of its own, and keeps a device until another has one."""
    most, now, lock = 0, 0, threading.Lock()
    meet = threading.Barrier(2, timeout=600)

    def use() -> None:
        nonlocal most, now
        ledger = Ledger(tmp_path, used=lambda _: {})
        lease = ledger.acquire(ONE, GPUS)
        with lock:
            now += 1
            most = max(most, now)
        meet.wait()
        time.sleep(0.02)  # for a third, whom a wrong ledger would let in, to be seen
        with lock:
            now -= 1
        ledger.release(lease)
        ledger.close()

    threads = [threading.Thread(target=use) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2}', '{"version": 1, "leases": [{}]}', "null", ""])
def test_a_corrupt_file(ledger: Ledger, tmp_path: Path, text: str) -> None:
    (tmp_path / "leases.json").write_text(text)
    with pytest.raises(
        LedgerError, match=r"leases.json is corrupt .* no run of mxcheck is under way .* delete it$"
    ):
        ledger.leases()
    assert (tmp_path / "leases.json").read_text() == text
    (tmp_path / "leases.json").unlink()


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        LedgerError, match=r"^the ledger .*below cannot be used \(NotADirectoryError: .*--mx-leases"
    ):
        Ledger(tmp_path / "file" / "below").check_usable()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LedgerError, match=r"cannot be used \(PermissionError: "):
        Ledger(tmp_path).check_usable()


def test_another_user_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("os.getuid", lambda: 4711)
    folder = default_folder()
    assert folder.name == "mxcheck-4711"
    with pytest.raises(
        LedgerError, match=r"is another user's \(uid \d+, mode drwx------\); name one with --mx-leases=DIR"
    ):
        Ledger(folder).check_usable()


def test_what_could_never_be_given_does_not_wait(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="needs 3 devices"):
        ledger.acquire(Request(what="wide", devices=3), GPUS)
    assert ledger.waiting() == 0


def test_what_a_killed_writer_left_goes(ledger: Ledger, tmp_path: Path) -> None:
    """Nobody else writes while the lock is held. What else lies there is not the ledger's."""
    outside = tmp_path.with_suffix(".outside")
    outside.touch()
    (tmp_path / ".leases.json.killed.part").write_text("{")
    (tmp_path / ".leases.json.link.part").symlink_to(outside)
    (tmp_path / ".leases.json.folder.part").mkdir()
    (tmp_path / ".other.json.x.part").touch()
    ledger.release(ledger.acquire(ONE, GPUS))
    assert {path.name for path in tmp_path.glob(".*")} == {".leases.json.folder.part", ".other.json.x.part"}
    assert outside.exists()
