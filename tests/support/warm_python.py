"""Starts of Python that have torch and transformers already: importing them takes most of a small gate run.

A process imports them, computes nothing, and forks for each start. What it starts has its own working
directory, environment, `sys.path` and output, and ends by itself, as a fresh interpreter. `sys.executable` of
such a start is `_LAUNCHER`, so that what it starts itself, xdist's workers and the children that measure the
noise, is forked too. What libraries read when they are imported decides who forks: a start whose instruction
sets or threads differ is forked from a process of that environment, and any other difference starts afresh.
The seed of string hashes is the first process's too, which an interpreter reads only at its start
(PYTHONHASHSEED): each test process has first processes with random seeds of their own. A test that compares
seeds starts fresh interpreters.
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from importlib import import_module, invalidate_caches
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

_IMPORTS = (
    # pytest and what it needs: all of it but the plugins, which it imports itself to rewrite their assertions
    *("pytest", "execnet", "filelock", "rich.console", "rich.live", "rich.table"),
    *("numpy", "torch", "safetensors.torch", "transformers.modeling_utils"),
    *(f"transformers.models.{name}.modeling_{name}" for name in ("llama", "gpt_neo", "mixtral")),
)
#: As `mxcheck.measure.passive_threads` loads torch, which it does not do where torch is loaded.
_PASSIVE = {"OMP_WAIT_POLICY": "passive"}
#: Read when the libraries are imported. A run that is to reach a hub sets these itself, and starts afresh.
_OFFLINE = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
_OWN = {**_PASSIVE, **_OFFLINE, "CUDA_VISIBLE_DEVICES": ""}
#: Names of what is read when Python starts or a library is imported.
_READ_AT_IMPORT = (
    *("ATEN_", "CUBLAS", "CUDA_", "MKL_", "OMP_", "ONEDNN_", "TORCH_"),
    *("HF_", "LD_", "MALLOC_", "TRANSFORMERS_"),
    *("PYTHONHASHSEED", "PYTHONOPTIMIZE", "PYTHONSTARTUP", "PYTHONWARNINGS"),
)
#: Those for which a process of its own is worth while: instruction sets and threads.
FORKED_ELSEWHERE = (
    *("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA"),
    "OMP_NUM_THREADS",
)
_LARGEST = 1 << 20  # bytes of a start's description

#: Stands for the interpreter. It has its start forked, waits for it and ends as that did; a start that cannot
#: be forked it makes itself.
_LAUNCHER = """\
#!{python} -IS
import json, os, signal, socket, sys
words, environment = sys.argv[1:], dict(os.environ)
read = {{name: value for name, value in environment.items() if name.startswith({prefixes!r})}}
paths = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
while words[:1] == ["-u"]:  # a fork's output is flushed when it ends, and xdist's worker flushes what it says
    del words[0]
if (
    any(value != {own!r}.get(name) for name, value in read.items() if name not in {elsewhere!r})
    or any(os.path.exists(os.path.join(folder, "sitecustomize.py")) for folder in paths)
    or words[:1] not in (["-m"], ["-c"], ["-B"])
):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
order = json.dumps({{"words": words, "folder": os.getcwd(), "environment": environment}})
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({address!r})
    socket.send_fds(server, [order.encode()], [0, 1, 2])
    os.close(0), os.close(1), os.close(2)
    code = int(server.recv(99) or -signal.SIGKILL)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@cache
def _server() -> tuple[socket.socket, Path]:
    """The socket of the process that has imported them, one for this process, with which it ends; and what
    stands for the interpreter."""
    folder = Path(tempfile.mkdtemp(prefix="warm-python-"))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    launcher = folder / "python"
    words: dict[str, Any] = {"prefixes": _READ_AT_IMPORT, "elsewhere": FORKED_ELSEWHERE, "own": _OWN}
    launcher.write_text(
        _LAUNCHER.format(python=sys.executable, address=str(folder / "socket"), **words), encoding="utf-8"
    )
    launcher.chmod(0o700)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "PYTHONPATH", *_READ_AT_IMPORT))
    }
    process, control = _start_server({**kept, **_OWN}, launcher, listener)
    owner = os.getpid()

    def end() -> None:
        if os.getpid() != owner:  # a fork of it
            return
        control.close()
        process.wait()
        shutil.rmtree(folder)

    atexit.register(end)
    return control, launcher


def _start_server(
    environment: Mapping[str, str], launcher: Path, listener: socket.socket | None = None
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A process that imports and forks, and the socket by which it is told of starts and, closed, ends."""
    control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    passed = () if listener is None else (listener.fileno(),)
    with its, ExitStack() as stack:
        if listener is not None:
            stack.enter_context(listener)
        words = [sys.executable, __file__, str(launcher), *map(str, passed)]
        process = subprocess.Popen(words, env=environment, stdin=its, pass_fds=passed)
    return process, control


def warm_interpreter() -> Path:
    """A program that starts Python as `sys.executable` does, and has them already."""
    return _server()[1]


def run_warm(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], output: Path
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE …`, or `-c CODE …`, in `folder`; it prints into two files in `output`."""
    order = {"words": list(arguments), "folder": str(folder), "environment": dict(environment)}
    files = [output / name for name in ("stdout", "stderr")]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs, ExitStack() as stack:
            nothing = stack.enter_context(Path(os.devnull).open("rb"))
            opened = [stack.enter_context(file.open("wb")) for file in files]
            streams = [nothing.fileno(), *(file.fileno() for file in opened)]
            socket.send_fds(_server()[0], [json.dumps(order).encode()], [*streams, theirs.fileno()])
        answer = ours.recv(99)
    assert answer, "the process that forks has died"
    printed, complained = (file.read_text(errors="replace") for file in files)
    return subprocess.CompletedProcess([sys.executable, *arguments], int(answer), printed, complained)


class _Server:
    """Forks for each start that it is told of."""

    def __init__(self, launcher: Path, listener: socket.socket | None) -> None:
        self.launcher = launcher
        self.path = sys.path[1:]  # without this file's folder
        self.control = socket.socket(fileno=os.dup(0))
        self.listener = listener
        #: By process, its file descriptor and the connection by which its end is told.
        self.running: dict[int, tuple[int, socket.socket]] = {}
        #: By instruction sets and threads, the socket of a server of their own.
        self.others: dict[str, socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        for source in filter(None, (self.control, listener)):
            self.selector.register(source, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until the control socket is closed."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.control:
                    order, fds, *_ = socket.recv_fds(self.control, _LARGEST, 4)
                    if not order:
                        for pid in self.running:
                            os.kill(pid, signal.SIGKILL)
                        return
                    self.start(order, fds[:3], socket.socket(fileno=fds[3]))
                elif key.fileobj is self.listener:
                    connection, _ = self.listener.accept()
                    order, fds, *_ = socket.recv_fds(connection, _LARGEST, 3)
                    self.start(order, fds, connection)
                elif key.data in self.running:
                    self.ended(key.data, killed=key.fileobj is self.running[key.data][1])

    def start(self, order: bytes, fds: Sequence[int], connection: socket.socket) -> None:
        """Fork, or have it forked by the process of its instruction sets and threads."""
        fields = json.loads(order)
        sets = {name: fields["environment"].get(name) for name in FORKED_ELSEWHERE}
        if any(sets[name] != os.environ.get(name) for name in sets):
            named = json.dumps(sets)
            if named not in self.others:
                kept = {name: value for name, value in os.environ.items() if name not in sets}
                own = {name: value for name, value in sets.items() if value is not None}
                _, self.others[named] = _start_server({**kept, **own}, self.launcher)
            socket.send_fds(self.others[named], [order], [*fds, connection.fileno()])
            connection.close()
        elif pid := os.fork():
            self.running[pid] = (process := os.pidfd_open(pid), connection)
            for source in (process, connection):
                self.selector.register(source, selectors.EVENT_READ, pid)
        else:
            _become(fds, launcher=self.launcher, path=self.path, close=self.close, **fields)
        for fd in fds:
            os.close(fd)

    def ended(self, pid: int, *, killed: bool) -> None:
        """Tell of a process that ended; end one whose launcher was killed."""
        process, connection = self.running.pop(pid)
        if killed:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        for source in (process, connection):
            self.selector.unregister(source)
        with connection, suppress(BrokenPipeError):
            connection.send(str(os.waitstatus_to_exitcode(status)).encode())
        os.close(process)

    def close(self) -> None:
        """What a fork must not keep open."""
        self.selector.close()
        for process, connection in self.running.values():
            os.close(process)
            connection.close()
        for source in filter(None, (self.control, self.listener, *self.others.values())):
            source.close()


def _become(
    fds: Sequence[int],
    *,
    launcher: Path,
    path: list[str],
    close: Any,
    words: list[str],
    folder: str,
    environment: dict[str, str],
) -> None:
    """In the fork: become `python -m MODULE …`, as far as a running interpreter can, and end."""
    leave, code = os._exit, 1
    try:
        close()
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
            os.close(fd)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        sys.executable = str(launcher)
        sys.dont_write_bytecode = words[0] == "-B" or bool(environment.get("PYTHONDONTWRITEBYTECODE"))
        kind, what, *more = words[1:] if words[0] == "-B" else words
        first = folder if kind == "-m" else ""
        sys.path[:] = [first, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *path]
        invalidate_caches()
        sys.argv = [what if kind == "-m" else "-c", *more]
        code = _run(kind, what)
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        raise
    finally:  # without taking apart all that was imported, which costs as much as a short run
        leave(code)


def _run(kind: str, what: str) -> int:
    """Run a module (`-m`) or code (`-c`); return the exit code."""
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.modules["__main__"] = main = ModuleType("__main__")
            exec(what, main.__dict__)  # noqa: S102  (as `python -c` does)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)  # noqa: T201  (as Python does)
        return 1
    except BaseException:  # noqa: BLE001  (as Python does)
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


def _main() -> None:
    launcher, *listeners = sys.argv[1:]
    logging.disable()  # what they tell of themselves
    for name in _IMPORTS:
        import_module(name)
    logging.disable(logging.NOTSET)
    plugins = {plugin.module.partition(".")[0] for plugin in entry_points(group="pytest11")}
    for name in [name for name in sys.modules if name.partition(".")[0] in plugins]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()  # else each collection of a fork looks through, and copies, all that is imported here
    listener = socket.socket(fileno=int(listeners[0])) if listeners else None
    _Server(Path(launcher), listener).serve()
    os._exit(0)


if __name__ == "__main__":
    _main()
