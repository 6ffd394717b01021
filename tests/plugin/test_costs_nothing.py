"""The plugin lives in other people's pytest runs: no heavy import at collection, no network at all."""

from __future__ import annotations

import shutil
import sys

import pytest
from gate_project import ROOT, Project

HEAVY = ("torch", "numpy", "datasets", "transformers", "bitsandbytes", "transformer_engine")

#: Prints which heavy modules a process has loaded when it ends.
_SPY = f"""
import atexit, sys
atexit.register(lambda: print("LOADED", [name for name in {HEAVY!r} if name in sys.modules]))
"""


def loaded(project: Project, *arguments: str) -> str:
    """The line of the spy, which Python's own `sitecustomize` hook starts before anything else."""
    (project.source / "sitecustomize.py").write_text(_SPY)
    done = project.run(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [text for text in done.stdout.splitlines() if text.startswith("LOADED")]
    return line


USES = [
    ("-c", "import mxcheck, mxcheck.cli"),
    ("-m", "pytest", "--help"),
    ("-m", "pytest", "--collect-only", "-q", "--pyargs", "mxcheck.suite"),
    ("-m", "pytest", "--collect-only", "-q", "--mx-models", "ref-llama", "--pyargs", "mxcheck.suite.models"),
    (
        *("-m", "pytest", "--collect-only", "-q", "--pyargs", "mxcheck.suite.models"),
        *("--mx-report", "reports", "--mx-shard=1/2"),
    ),
    # The whole ladder, with everything that is asked of it by an option.
    (
        *("-m", "pytest", "--collect-only", "-q", "--pyargs", "mxcheck.suite.models"),
        *("--mx-attention", "--mx-global", "bf16", "--mx-dtype", "bf16", "--mx-metrics", "my_casts:metric"),
        *("--mx-models", "ref-llama,tinystories-33M,some/model", "--mx-datasets", "pile,wikitext"),
        "--mx-preset=full",
    ),
    ("-m", "pytest", "-q", "test_theirs.py"),
    # The kernel suite, with everything that is asked of it by an option, and as this repository has it.
    (
        *("-m", "pytest", "--collect-only", "-q", "--mx-kernel", "my_casts:quantize,gfloat,torchao"),
        *("--mx-level", "full", "--mx-report", "reports", "--pyargs", "mxcheck.suite.kernels"),
    ),
    ("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / "kernels")),
]


@pytest.mark.parametrize("arguments", USES, ids=lambda words: words[-1].removeprefix(f"{ROOT}/"))
def test_loads_nothing_heavy(project: Project, arguments: tuple[str, ...]) -> None:
    (project.directory / "test_theirs.py").write_text("def test_theirs():\n    assert True\n")
    (project.directory / "my_casts.py").write_text("import torch\n\n\ndef quantize(x, spec): ...\n")
    assert loaded(project, *arguments) == "LOADED []"


@pytest.mark.parametrize("module", ["numpy", "torch"])
def test_the_test_above_can_fail(project: Project, module: str) -> None:
    path = project.source / "mxcheck/pytest_plugin/options/mx_options.py"
    path.write_text(path.read_text().replace("import pytest\n", f"import pytest\nimport {module}\n", 1))
    assert module in loaded(project, *USES[1])


@pytest.mark.parametrize("workers", ["0", "1"])
def test_other_peoples_runs_show_nothing_of_us(project: Project, workers: str) -> None:
    """Not even where a test of theirs has our test's name, and fails."""
    (project.directory / "test_theirs.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('model', ['resnet'])\n"
        "def test_accuracy(model):\n"
        "    assert not model\n"
    )
    run = project.pytest("test_theirs.py", "-n", workers)
    assert run.code == 1
    shown = run.output
    for path in (sys.prefix, ROOT, project.directory):  # a clone lies in a folder called mxcheck
        shown = shown.replace(str(path), "PATH")
    lines = [line for line in shown.splitlines() if not line.startswith(("plugins:", "rootdir:"))]
    assert "mxcheck" not in "\n".join(lines)


#: Refuses, and writes down, every connection and name look-up but those of local sockets.
_NO_NETWORK = """
import pathlib, socket
LOG = pathlib.Path(__file__).with_name("network.log")
def refuse(what):
    with LOG.open("a") as file:
        file.write(what + "\\n")
    raise OSError("network use: " + what)
connect, look_up = socket.socket.connect, socket.getaddrinfo
def guarded(self, address):
    return connect(self, address) if self.family == socket.AF_UNIX else refuse(f"connect {address}")
socket.socket.connect = guarded
socket.getaddrinfo = lambda *words, **more: refuse(f"look up {words[0]}")
"""


def test_no_network_request(accepted: Project) -> None:
    (accepted.source / "sitecustomize.py").write_text(_NO_NETWORK)
    log = accepted.source / "network.log"
    few = ("--mx-models", "ref-llama,wide-gpt2", "--mx-precision", "mxfp8_e4m3", "--mx-tier", "B")
    run = accepted.gate(*few, "-n", "2")
    assert (run.code, set(run.verdicts().values())) == (0, {"pass"}), run.output
    assert not log.exists(), log.read_text()
    # The guard guards: a hub id, which may use the network, is refused and written down.
    hub = ("--mx-models", "mxcheck-tests/no-such-model", "--mx-precision", "fp32")
    (accepted.baselines / "mxcheck-tests--no-such-model").mkdir()
    shutil.copy(
        accepted.source / "mxcheck/models/zoo/reference/ref-llama/tokens.safetensors",
        accepted.baselines / "mxcheck-tests--no-such-model",
    )
    run = accepted.gate(*hub)
    assert run.code == 1
    assert "model 'mxcheck-tests/no-such-model'" in run.output
    assert "is not complete in the hub cache" in run.output
    assert "look up huggingface.co" in log.read_text()
