"""The progress of a sensitivity run, in a folder, so that it can be stopped at any time and resumed."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from mxcheck.distributed.provenance import folder_digest
from mxcheck.files.plain_data import read_json, read_text
from mxcheck.files.printed import got, one_line, told
from validation import sources_digest

_log = logging.getLogger(__name__)

_IDENTITY = "identity.json"
_LOCK = "lock"
_CLOCK = "seconds"
#: Files of a run, besides its identity.
_FOLDERS = ("results", "logs", "accepted", "project", "scratch")

Identity = Mapping[str, str]


def identity(baselines: Path) -> Identity:
    """Return the basis of finished results: mxcheck with its data, the baselines of the full gate, and the
    libraries and instructions that compute."""
    import torch

    settings = ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
    return {
        "sources": sources_digest(),
        "baselines": folder_digest(baselines),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
        "instructions": " ".join(
            [torch.backends.cpu.get_cpu_capability(), *(os.environ.get(name, "") for name in settings)]
        ).strip(),
    }


def check_unchanged(before: Identity, now: Identity) -> None:
    """Raise ValueError where something was edited during the run: children would see different sources."""
    if before != now:
        raise ValueError(
            f"other {', '.join(_changed(before, now))} than when the run began: nothing may be edited "
            f"meanwhile; run it again"
        )


def _changed(before: Identity, now: Identity) -> list[str]:
    return [name for name in {**before, **now} if before.get(name) != now.get(name)]


@contextmanager
def locked_state(folder: Path, now: Identity) -> Iterator[Path]:
    """Yield the folder, locked against other runs and cleared of another identity's results.

    Raises:
        ValueError: another run has locked it; it is no folder of a sensitivity run, or it is damaged.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not _is_ours(folder):
        raise ValueError(f"{folder} is not the state of a sensitivity run; name an empty or a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            _start_over_unless(folder, now)
            with _clock(folder):
                yield folder
    except Timeout:
        raise ValueError(
            f"another sensitivity run is using {folder}; wait for it, or name another folder"
        ) from None


def seconds_spent(folder: Path) -> float:
    """Return the wall time of all runs that used this state, including stopped ones."""
    clock = folder / _CLOCK
    try:
        seconds = float(read_text(clock, most=100))
    except FileNotFoundError:
        return 0.0
    except ValueError as error:
        raise _damaged(clock, error, folder) from error
    if not 0 <= seconds < math.inf:
        raise _damaged(clock, ValueError(f"no number of seconds: {seconds}"), folder)
    return seconds


def _damaged(path: Path, error: BaseException, folder: Path) -> ValueError:
    return ValueError(one_line(f"{path} is damaged ({told(error)}); delete {folder} to start over"))


@contextmanager
def _clock(folder: Path) -> Iterator[None]:
    before, began = seconds_spent(folder), time.monotonic()
    try:
        yield
    finally:
        (folder / _CLOCK).write_text(f"{before + time.monotonic() - began:.1f}\n", "utf-8")


def _is_ours(folder: Path) -> bool:
    return (folder / _IDENTITY).is_file() or [path.name for path in folder.iterdir()] == [_LOCK]


def _start_over_unless(folder: Path, now: Identity) -> None:
    path = folder / _IDENTITY
    if path.is_file():
        try:
            before = read_json(path)
            if not isinstance(before, dict):
                raise ValueError(f"its identity must be a table, got {got(before)}")
        except ValueError as error:
            raise _damaged(path, error, folder) from error
        if before == now:
            return
        _log.warning("mxcheck: %s is of other %s: starting over", folder, ", ".join(_changed(before, now)))
        (folder / _CLOCK).unlink(missing_ok=True)
        for name in _FOLDERS:
            if (folder / name).exists():
                shutil.rmtree(folder / name)
    new = path.with_name(f"{_IDENTITY}.new")
    new.write_text(json.dumps(now, indent=1) + "\n", "utf-8")
    new.replace(path)
