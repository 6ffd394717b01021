"""Compile `casts.hpp` once a machine, and load it. Torch-free; nothing happens before the first cast.

The library lies in the user's cache under a name that tells its source, the compiler, the flags and the
processor. SHA-256 of its bytes is appended, which loading ignores: a file that was cut off would end the
process.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from threading import Lock

from filelock import FileLock, Timeout

#: Set to 0, it leaves every cast to the eager kernel, and compiles nothing; 1 is as if it were not set.
SWITCH = "MXCHECK_COMPILED"
OFF = f"{SWITCH}=0 switches it off"
COMPILERS = ("c++", "g++", "clang++")
#: Nobody reads the exception flags of the floating-point unit; a compiler that keeps them vectorizes less.
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-trapping-math"),
    *("-shared", "-fPIC", "-pthread"),
)
#: A process that loads a library and casts zeros into codes and into values, by a plan of zeros.
TRIAL = """
import ctypes, sys
cast, n = ctypes.CDLL(sys.argv[1]).mx_cast, ctypes.c_int64(4096)
plan, x, codes, values, scale = (ctypes.create_string_buffer(16384) for _ in range(5))
for results in ((codes, None), (None, values)):
    cast(plan, x, None, ctypes.c_int64(1), n, ctypes.c_int64(1), 0, *results, scale, None, 1)
"""
#: Seconds for a compiler, which takes two.
_LIMIT = 60
#: Seconds for which a failure is not tried again, by any process: each of many workers would wait as long.
_REMEMBERED = 600

_LOADED: list[ctypes.CDLL | str] = []  # at most one: the library, or why there is none
_LOADING = Lock()
if hasattr(os, "register_at_fork"):  # a thread that compiles is not in the child, and would never release it
    os.register_at_fork(after_in_child=lambda: globals().update(_LOADING=Lock()))

#: Says what a new library computes wrongly; empty where nothing.
Check = Callable[[ctypes.CDLL], str]


class NoLibraryError(Exception):
    """There is no compiled library here. The message says why, in one line, whatever a compiler printed."""

    def __init__(self, why: str) -> None:
        shown = "".join(one if one.isprintable() else " " for one in why)
        super().__init__(" ".join(shown.split())[:400])


def is_off() -> bool:
    """Return whether `SWITCH` leaves every cast to the eager kernel. Read anew at each cast.

    Raises:
        ValueError: it is neither 0 nor 1.
    """
    asked = os.environ.get(SWITCH, "1")
    if asked not in ("0", "1"):
        raise ValueError(f"{SWITCH} must be 0 or 1, or not be set; got {asked!r}")
    return asked == "0"


@contextmanager
def switched_off() -> Iterator[None]:
    """Leave every cast of this process and of its children to the eager kernel, within the context."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def compiler() -> list[str]:
    """Return the command of the compiler: `$CXX`, or the first of `COMPILERS` on the path.

    Raises:
        NoLibraryError: there is none.
    """
    asked = os.environ.get("CXX", "")
    try:
        named = shlex.split(asked)
    except ValueError as error:
        raise NoLibraryError(f"CXX={asked!r} cannot be read: {error}") from error
    found = [one for name in (named[:1] or COMPILERS) if (one := shutil.which(name)) is not None]
    if not found:
        raise NoLibraryError(
            f"no C++ compiler: CXX={shlex.join(named)} is not on the path"
            if named
            else f"no C++ compiler: none of {', '.join(COMPILERS)} is on the path; install one, or set CXX"
        )
    return [found[0], *named[1:]]


def missing() -> str | None:
    """Return why the compiled casts cannot be called here, or None. Compiles nothing."""
    if is_off():
        return OFF
    if _LOADED:
        return _LOADED[0] if isinstance(_LOADED[0], str) else None
    try:
        compiler()
    except NoLibraryError as error:
        return str(error)
    return None


def library(check: Check) -> ctypes.CDLL | str:
    """Return the compiled casts, or why there are none; so also where they are switched off."""
    return OFF if is_off() else loaded(check)


def loaded(check: Check) -> ctypes.CDLL | str:
    """As `library`, whatever the switch says. The first call of a process loads them, and the first of a
    machine compiles them; where that fails, it logs the reason, once.

    Args:
        check: called with a library that was compiled just now.
    """
    if not _LOADED:
        with _LOADING:
            if not _LOADED:
                try:
                    _LOADED.append(_load(check))
                except NoLibraryError as error:
                    _LOADED.append(str(error))
                    logging.getLogger("mxcheck").warning(
                        "mxcheck casts by its slower kernel, eager: %s; %s=0 silences this", error, SWITCH
                    )
    return _LOADED[0]


def _load(check: Check) -> ctypes.CDLL:
    source, command = files(__package__).joinpath("casts.hpp").read_bytes(), compiler()
    try:
        folder = _folder()
        asked = (source, command, FLAGS, _processor())
        failure = folder / f"failure-{_key(asked)}.txt"
        with _remembered(failure):
            path = folder / f"casts-{_key((*asked, _output([*command, '--version'])))}.so"
            if not _is_whole(path):
                # As long as another may take that gets the lock first.
                with FileLock(path.with_suffix(".lock"), timeout=2 * _LIMIT):
                    _raise_remembered(failure)
                    if not _is_whole(path):
                        _compile(source, command, path, check)
            return ctypes.CDLL(str(path))
    except Timeout as error:
        raise NoLibraryError(f"another process has held {error.lock_file} for {2 * _LIMIT} s") from error
    except OSError as error:
        raise NoLibraryError(f"the compiled casts cannot be kept or loaded: {error}") from error


def _key(asked: tuple[object, ...]) -> str:
    return sha256(repr(asked).encode()).hexdigest()[:32]


@contextmanager
def _remembered(failure: Path) -> Iterator[None]:
    """Write why the body fails into a file, and for some minutes fail at once for that reason."""
    _raise_remembered(failure)
    try:
        yield
    except (NoLibraryError, OSError) as error:
        if not isinstance(error, (Timeout, _KnownError)):
            failure.write_text(str(error), encoding="utf-8", errors="replace")
        raise


class _KnownError(NoLibraryError):
    """It failed some minutes ago."""


def _raise_remembered(failure: Path) -> None:
    if failure.is_file() and 0 <= time.time() - failure.stat().st_mtime < _REMEMBERED:
        why = failure.read_text(encoding="utf-8", errors="replace")
        raise _KnownError(f"{why} (this was so at the last try; without {failure} it is tried again)")


def _compile(source: bytes, command: list[str], path: Path, check: Check) -> None:
    """Compile, check, and put the library in its place."""
    # On NFS a library that this process has loaded stays until it ends, and its folder with it.
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix="compiling-", ignore_cleanup_errors=True
    ) as folder:
        text, made, sealed = (Path(folder) / name for name in ("casts.cpp", "casts.so", "sealed.so"))
        text.write_bytes(source)
        _output([*command, *FLAGS, str(text), "-o", str(made)])
        if sys.executable:  # what loads may end its process: a sanitizer's library, an unknown instruction
            try:
                _output([sys.executable, "-I", "-c", TRIAL, str(made)])
            except NoLibraryError as error:
                raise NoLibraryError(
                    f"what {shlex.join(command)} compiles cannot be loaded and called: {error}"
                ) from error
        compiled = ctypes.CDLL(str(made))
        try:
            wrong = check(compiled)
        except Exception as error:  # noqa: BLE001  (whatever it is, it is told, and eager casts as well)
            wrong = f"its check ends with {type(error).__name__}: {error}"
        if wrong:
            raise NoLibraryError(f"what {shlex.join(command)} compiles is wrong: {wrong}")
        data = made.read_bytes()
        # A file of its own: this process has loaded the other.
        sealed.write_bytes(data + sha256(data).digest())
        sealed.chmod(0o600)  # whatever the umask: see `_is_whole`
        sealed.replace(path)


def _output(command: list[str]) -> str:
    """Return what a command prints. Raises NoLibraryError where it fails."""
    try:
        run = subprocess.Popen(  # noqa: S603  (the user's compiler)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise NoLibraryError(f"{command[0]} cannot be run: {error}") from error
    with run:
        try:
            printed, complaints = run.communicate(timeout=_LIMIT)
        except BaseException as error:
            os.killpg(run.pid, signal.SIGKILL)  # a compiler is a driver, and others do its work
            if isinstance(error, subprocess.TimeoutExpired):
                raise NoLibraryError(f"{command[0]} has not ended within {_LIMIT} s") from error
            raise
    if run.returncode:
        words = next((line for line in complaints.splitlines() if "error" in line.lower()), complaints)
        raise NoLibraryError(f"{command[0]} ended with {run.returncode}: {words[:200]}")
    return printed


def _folder() -> Path:
    """Return the folder of compiled libraries, which nobody else may write to.

    Raises:
        NoLibraryError: somebody else owns it or the folder above it, or may write there; there is no home.
        OSError: it cannot be made.
    """
    if not hasattr(os, "getuid"):
        raise NoLibraryError("the compiled casts need a POSIX system")
    try:
        # A relative folder is to be ignored: XDG Base Directory Specification, "Basics".
        named = Path(os.environ.get("XDG_CACHE_HOME", ""))
        cache = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise NoLibraryError(f"no folder to keep the compiled casts in: {error} Set HOME.") from error
    folder = cache / "mxcheck" / "casts"
    cache.mkdir(parents=True, exist_ok=True)
    for one in (folder.parent, folder):
        one.mkdir(mode=0o700, exist_ok=True)
        if not (_is_mine(one.lstat()) and _is_mine(one.stat())):
            raise NoLibraryError(f"{one} is not yours alone to write to: others could put code there")
    return folder


def _is_mine(status: os.stat_result) -> bool:
    """Return whether this user owns a file, and nobody else may write to it. A link's own mode says
    nothing."""
    return status.st_uid == os.getuid() and (stat.S_ISLNK(status.st_mode) or not status.st_mode & 0o022)


def _is_whole(path: Path) -> bool:
    """Return whether a library is there, all of it, as this user wrote it."""
    if not path.is_file() or path.is_symlink() or not _is_mine(path.stat()):
        return False
    data = path.read_bytes()
    return sha256(data[:-32]).digest() == data[-32:]


def _processor() -> str:
    """Return what `-march=native` depends on: the model and the features of the first processor."""
    information = Path("/proc/cpuinfo")
    if not information.is_file():
        return f"{platform.machine()} {platform.processor()}"
    first = information.read_text().partition("\n\n")[0].splitlines()
    names = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    return platform.machine() + "".join(line for line in first if line.startswith(names))
