"""Accepting where the system does not let it: the reason is told, and what was there stays.

Disks are made real by mounting a small file system in memory, which only root may do; elsewhere the folder's
mode stands for a read-only one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sample_record import NOISE, build_record
from syrupy.assertion import SnapshotAssertion

from mxcheck.files.write import WriteError
from mxcheck.gate.baseline import encode
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.record import Record
from mxcheck.gate.update import Update
from mxcheck.measure.hold import error_of
from mxcheck.pytest_plugin.acceptance import settle

ACCEPTED = build_record()
MOVED = build_record(noise=None, sequence_losses=[loss - 1e-3 for loss in ACCEPTED.sequence_losses])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB with an accepted case on it."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode(errors='replace').strip()}")
    try:
        (folder / "case.json").write_text(encode(ACCEPTED))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder: Path) -> None:
    size = os.statvfs(folder)
    (folder / "a").write_bytes(b"")  # the folder's own room
    with (folder / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size.f_bavail * size.f_frsize)


def _make_read_only(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


def _accept(path: Path, record: Record, snapshot: SnapshotAssertion) -> None:
    settle(
        record,
        path=path,
        target=path,
        baseline_of=lambda _: path.with_name("absent.json"),
        bounds=Bounds(kl=1.0, rise=1.0),
        snapshot=SnapshotAssertion(
            session=snapshot.session,
            extension_class=snapshot.extension_class,
            test_location=snapshot.test_location,
            update_snapshots=True,
            update_new_snapshots_only=False,
        ),
        update=Update(changed=True),
        accept_command="pytest --snapshot-update",
        measure_noise=lambda: NOISE,
        keep_inputs=lambda: None,
        measure_absolute=lambda: pytest.fail("bounds are known"),
    )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(_fill, "No space left on device", id="full"),
        pytest.param(_make_read_only, "Read-only file system", id="read-only"),
    ],
)
def test_the_reason_is_told_and_nothing_is_lost(
    disk: Path,
    snapshot: SnapshotAssertion,
    spoil: Callable[[Path], None],
    words: str,
) -> None:
    path = disk / "case.json"
    before = path.read_bytes()
    spoil(disk)
    with pytest.raises(
        WriteError, match=f"case.json cannot be written: {words}; what was there is un"
    ) as caught:
        _accept(path, MOVED, snapshot)
    assert error_of(MOVED.case, str(caught.value)).word == "ERROR"  # what a case's test makes of a ValueError
    assert path.read_bytes() == before
    assert not list(disk.glob(".*.part"))


def test_a_folder_that_may_not_be_written_to(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    """A file where the model's folder should be, which stops root too."""
    (tmp_path / "model").write_text("")
    with pytest.raises(WriteError, match=r"case\.json cannot be written: (Not a directory|File exists)"):
        _accept(tmp_path / "model" / "case.json", replace(MOVED), snapshot)
