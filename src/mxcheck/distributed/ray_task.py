"""Run one shard on a node of a Ray cluster. This module is sent by value and needs only the standard library:
a node without mxcheck must be able to report that."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: Maximum bytes of pytest's output that are sent back.
_TAIL = 4000


def complaint(directory: str, version: str) -> str:
    """Return why this node cannot run a shard of mxcheck `version` in `directory`; empty if it can."""
    if not Path(directory).is_dir():
        return (
            f"has no directory {directory}; every node has to see the project at this path (a shared file "
            f"system, or a checkout of its own)"
        )
    try:
        import mxcheck
    except ImportError as error:
        return f"cannot import mxcheck with {sys.executable}: {error}; install mxcheck {version} there"
    if mxcheck.__version__ != version:
        return f"has mxcheck {mxcheck.__version__}, and this machine has {version}; install the same"
    return ""


def run_shard(
    directory: str, version: str, arguments: list[str], count: int, index: int
) -> dict[str, object]:
    """Run pytest with `arguments` on the `index`-th of `count` shards. Returns plain types:

    `complaint`: why the node could not run it, else empty; `code`: pytest's exit code; `shard`: the text of
        the shard's file, or None where pytest wrote none; `tail`: the end of pytest's output; `seconds`;
        `node`: its id.

    pytest runs as a subprocess, as in a run by hand, and ends with this task: it is killed where the task is
    cancelled, and by the kernel where this process dies (`dies_with_parent`).
    """
    import ray

    context = ray.get_runtime_context()
    result: dict[str, object] = {"node": context.get_node_id()}
    run = context.get_job_id()  # overrides the node's environment
    if words := complaint(directory, version):
        return {**result, "complaint": words}
    # Within Ray's session, which Ray cleans up: a killed worker leaves it behind.
    session = Path(context.get_temp_dir()) / context.get_session_name()
    folder = Path(tempfile.mkdtemp(prefix="mxcheck-shard-", dir=session if session.is_dir() else None))
    command = [sys.executable, "-m", "pytest", "-p", "mxcheck.distributed.dies_with_parent", *arguments]
    # One xdist worker: a case that kills its process fails itself, not the task.
    # Each option is one word: pytest would search for its root from a separate word that is a directory.
    command += ["-n", "1", f"--mx-shard={index}/{count}", f"--mx-report={folder}"]
    started = time.monotonic()
    try:
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(  # noqa: S603  (pytest of this interpreter, no shell)
                command,
                cwd=directory,
                env={**os.environ, "MXCHECK_PARENT": str(os.getpid()), "MXCHECK_RUN": run},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # to kill the whole group at once
            )
            try:
                code = process.wait()
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        shard = folder / f"shard-{index}-of-{count}.json"
        return {
            **result,
            "complaint": "",
            "code": code,
            "shard": shard.read_text(encoding="utf-8") if shard.is_file() else None,
            "tail": (folder / "output").read_bytes()[-_TAIL:].decode("utf-8", "replace"),
            "seconds": time.monotonic() - started,
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
