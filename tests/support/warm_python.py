"""Starts of Python that have torch and transformers already: importing them takes half of a small gate run.

One process imports them, computes nothing, and forks for each start. What it starts has its own working
directory, environment, `sys.path` and output, and ends by itself, as a fresh interpreter. What is read when a
library is imported, such as instruction sets, threads and the Hub's folders, is the first process's. So is
the seed of string hashes, which an interpreter reads only at its start (PYTHONHASHSEED): each test process
has a first process with a random seed of its own. A test that compares seeds starts fresh interpreters.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module, invalidate_caches
from importlib.metadata import entry_points
from pathlib import Path

_IMPORTS = (
    *("numpy", "torch", "safetensors.torch", "transformers.modeling_utils"),
    *(f"transformers.models.{name}.modeling_{name}" for name in ("llama", "gpt_neo", "mixtral")),
)
#: As `mxcheck.measure.passive_threads` loads torch, which it does not do where torch is loaded.
_PASSIVE = {"OMP_WAIT_POLICY": "passive"}
#: Read when the libraries are imported. A run that is to reach a hub sets these itself, and starts afresh.
_OFFLINE = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")


@cache
def _parent() -> subprocess.Popen[str]:
    """The process that has imported them, one for this process, with which it ends."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "PYTHONPATH", "HF_", "TRANSFORMERS_", "OMP_"))
    }
    parent = subprocess.Popen(
        [sys.executable, __file__],
        env={**kept, **_PASSIVE, **_OFFLINE, "CUDA_VISIBLE_DEVICES": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(parent.communicate)  # closes its input, at which it ends
    return parent


def run_warm(
    arguments: Sequence[str], *, folder: Path, environment: Mapping[str, str], output: Path
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE …` in `folder`; what it prints goes through two files below `output`."""
    parent = _parent()
    assert parent.stdin is not None
    assert parent.stdout is not None
    files = [str(output / name) for name in ("stdout", "stderr")]
    order = {"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}
    parent.stdin.write(json.dumps({**order, "files": files}) + "\n")
    parent.stdin.flush()
    code = int(parent.stdout.readline())
    printed, complained = (Path(file).read_text(errors="replace") for file in files)
    return subprocess.CompletedProcess([sys.executable, *arguments], code, printed, complained)


def _main() -> None:
    """Fork for each line of the input, and answer with the exit code."""
    logging.disable()  # what they tell of themselves
    for name in _IMPORTS:
        import_module(name)
    logging.disable(logging.NOTSET)
    plugins = {plugin.module.partition(".")[0] for plugin in entry_points(group="pytest11")}
    for name in [name for name in sys.modules if name.partition(".")[0] in plugins]:
        del sys.modules[name]  # pytest imports them itself, to rewrite their assertions
    path = sys.path[1:]  # without this file's folder
    while line := sys.stdin.readline():
        order = json.loads(line)
        if (child := os.fork()) == 0:
            _start(path=path, **order)
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201  (the answer)


def _start(
    *, path: list[str], arguments: list[str], folder: str, environment: dict[str, str], files: list[str]
) -> None:
    """In the child: become `python -m MODULE …`, as far as a running interpreter can."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    opened = [os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND) for file in files]
    for number, file in enumerate((nothing, *opened)):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *path]
    invalidate_caches()
    module, *words = arguments
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
