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
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from threading import Lock

from filelock import FileLock, Timeout

#: Set to 0, it leaves every cast to the eager kernel, and compiles nothing.
SWITCH = "MXCHECK_COMPILED"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC", "-pthread")
#: Seconds for a compiler, which takes two; and for another process that compiles.
_LIMIT = 300

_LOADED: list[ctypes.CDLL | str] = []  # at most one: the library, or why there is none
_LOADING = Lock()

#: Says what a new library computes wrongly; empty where nothing.
Check = Callable[[ctypes.CDLL], str]


class NoLibraryError(Exception):
    """There is no compiled library here. The message says why, in one line."""


def is_off() -> bool:
    """Return whether the compiled casts are switched off."""
    return os.environ.get(SWITCH) == "0"


@contextmanager
def switched_off() -> Iterator[None]:
    """Leave every cast of this process and of its children to the eager kernel, within the context."""
    before, loaded = os.environ.get(SWITCH), [*_LOADED]
    os.environ[SWITCH] = "0"
    _LOADED[:] = [f"{SWITCH}=0 switches it off"]
    try:
        yield
    finally:
        _LOADED[:] = loaded
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def compiler() -> list[str]:
    """Return the command of the compiler: `$CXX`, or the first of `COMPILERS` on the path.

    Raises:
        NoLibraryError: there is none.
    """
    named = shlex.split(os.environ.get("CXX", ""))
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
        return f"{SWITCH}=0 switches it off"
    if _LOADED:
        return _LOADED[0] if isinstance(_LOADED[0], str) else None
    try:
        compiler()
    except NoLibraryError as error:
        return str(error)
    return None


def library(check: Check) -> ctypes.CDLL | str:
    """Return the compiled casts, or why there are none. The first call of a process loads them, and the
    first of a machine compiles them; where that fails, it logs the reason, once.

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
                    if not is_off():
                        logging.getLogger("mxcheck").warning(
                            "mxcheck casts by its slower kernel, eager: %s; %s=0 silences this", error, SWITCH
                        )
    return _LOADED[0]


def _load(check: Check) -> ctypes.CDLL:
    if is_off():
        raise NoLibraryError(f"{SWITCH}=0 switches it off")
    source, command = files(__package__).joinpath("casts.hpp").read_bytes(), compiler()
    version = _output([*command, "--version"])
    key = sha256(repr((source, command, version, FLAGS, _processor())).encode()).hexdigest()[:32]
    try:
        path = _folder() / f"casts-{key}.so"
        if _is_whole(path):
            return ctypes.CDLL(str(path))
        with FileLock(path.with_suffix(".lock"), timeout=_LIMIT):
            if not _is_whole(path):
                _compile(source, command, path, check)
        return ctypes.CDLL(str(path))
    except Timeout as error:
        raise NoLibraryError(f"another process has held {error.lock_file} for {_LIMIT} s") from error
    except OSError as error:
        raise NoLibraryError(f"the compiled casts cannot be kept or loaded: {error}") from error


def _compile(source: bytes, command: list[str], path: Path, check: Check) -> None:
    """Compile, check, and put the library in its place."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="compiling-") as folder:
        text, made, sealed = (Path(folder) / name for name in ("casts.cpp", "casts.so", "sealed.so"))
        text.write_bytes(source)
        _output([*command, *FLAGS, str(text), "-o", str(made)])
        if wrong := check(ctypes.CDLL(str(made))):
            raise NoLibraryError(f"what {shlex.join(command)} compiles is wrong: {wrong}")
        data = made.read_bytes()
        sealed.write_bytes(
            data + sha256(data).digest()
        )  # a file of its own: this process has loaded the other
        sealed.replace(path)


def _output(command: list[str]) -> str:
    """Return what a command prints. Raises NoLibraryError where it fails."""
    try:
        run = subprocess.run(  # noqa: S603  (the user's compiler)
            command, capture_output=True, text=True, errors="replace", timeout=_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoLibraryError(f"the compiler cannot be run: {error}") from error
    if run.returncode:
        words = next((line for line in run.stderr.splitlines() if "error" in line), run.stderr.strip()[:200])
        raise NoLibraryError(f"{command[0]} ended with {run.returncode}: {words}")
    return run.stdout


def _folder() -> Path:
    """Return the folder of compiled libraries, which nobody else may write to.

    Raises:
        NoLibraryError: somebody else owns it, or may.
        OSError: it cannot be made.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(cache) / "mxcheck" / "casts"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise NoLibraryError(f"{folder} is not yours alone to write to: others could put code there")
    return folder


def _is_whole(path: Path) -> bool:
    if not path.is_file():
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
