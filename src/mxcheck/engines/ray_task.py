"""One shard of a run, on a node of a Ray cluster. It is sent there by value and needs the standard library
alone: a node without mxcheck has to be able to say so."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: Bytes of pytest's output that are sent back.
_TAIL = 4000


def complaint(directory: str, version: str) -> str:
    """Why this node cannot run a shard of mxcheck `version` in `directory`; empty if it can."""
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
    the shard's file, or None where pytest wrote none; `tail`: the end of what it printed; `seconds`; `node`:
    its id.

    pytest is a process of its own, as in a run by hand, and ends with this task: killed where the task is
    cancelled, and by the kernel where this process dies (`dies_with_parent`).
    """
    import ray

    context = ray.get_runtime_context()
    result: dict[str, object] = {"node": context.get_node_id()}
    run = context.get_job_id()  # whatever the node's own environment says
    if words := complaint(directory, version):
        return {**result, "complaint": words}
    # Of the session's, which Ray's own administration clears: a worker that is killed leaves it behind.
    session = Path(context.get_temp_dir()) / context.get_session_name()
    folder = Path(tempfile.mkdtemp(prefix="mxcheck-shard-", dir=session if session.is_dir() else None))
    command = [sys.executable, "-m", "pytest", "-p", "mxcheck.engines.dies_with_parent", *arguments]
    # One worker of xdist: a case that kills its process costs itself, not the task.
    # One word each: from a word of its own that is a directory pytest would find its root.
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
                start_new_session=True,  # so that all of it can be killed at once
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
