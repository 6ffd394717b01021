"""The live display of a real run: a table on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gate_project import Project

#: Cases end when they have been seen on the display, or in the end without. A plugin, for a conftest's hooks
#: are for the items below it alone.
_SEEN = """
import pathlib, time
class Seen:
    def pytest_runtest_teardown(self, item):
        case = pathlib.Path("seen", item.callspec.params["mx_case"].id)
        end = time.monotonic() + 120
        while not case.exists() and time.monotonic() < end:
            time.sleep(0.02)
def pytest_configure(config):
    config.pluginmanager.register(Seen())
"""
FEW = (
    *("--mx-models", "ref-llama,ref-neo", "--mx-precision", "fp32,mxfp8_e4m3", "--mx-tier", "A"),
    *("--mx-max-samples", "16", "--mx-sequence-length", "32"),
)
LABEL = "+length32+samples16"


def on_a_terminal(project: Project, *arguments: str) -> str:
    """What a run writes to a terminal of its own; notes in `seen` which cases it showed, all batches done."""
    seen = project.directory / "seen"
    seen.mkdir()
    (project.directory / "conftest.py").write_text(_SEEN)
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider"),
            *("--pyargs", "mxcheck.suite.models", *FEW, *arguments),
        ],
        cwd=project.directory,
        env={
            **inherited,
            "PYTHONPATH": str(project.source),
            "MXCHECK_LEASES": str(project.directory / "leases"),
            "TERM": "xterm",
            "COLUMNS": "150",
        },
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's end of a terminal
            break
        if not part:
            break
        written += part
        for case in re.findall(
            r"^ (?:main|gw\d+) +(\S+) +2/2 ", bare(written.decode(errors="ignore")), re.MULTILINE
        ):
            (seen / case).touch()
    os.close(ours)
    process.wait()
    return written.decode()


def bare(text: str) -> str:
    """Without what moves the cursor and colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize("words", [("-n", "0"), ("-n", "2", "-v")], ids=["0", "2"])
def test_a_table_on_a_terminal(project: Project, words: tuple[str, ...]) -> None:
    output = on_a_terminal(project, *words)
    plain = bare(output)
    assert re.search(r"worker +case +batches +tokens/s +memory", plain), plain
    assert "of 4 cases" in plain
    names = {"0": {"main"}, "2": {"gw0", "gw1"}}[words[1]]
    assert names <= set(re.findall(r"^ (main|gw\d+) ", plain, re.MULTILINE)), plain
    assert {path.name for path in (project.directory / "seen").iterdir()} == {
        f"{model}-{name}{LABEL}" for model in ("ref-llama", "ref-neo") for name in ("fp32", "mxfp8_e4m3-A")
    }, plain
    # It is gone when the results come, and the cursor is there again.
    results = output[output.index("mxcheck: accuracy") :]
    assert "tokens/s" not in results
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
    assert "4 failed" in results  # nothing is accepted in this project
    if "-v" in words:
        _is_whole(output)


def _is_whole(output: str) -> None:
    """With -v pytest writes a line in pieces; above the table it is one line."""
    # What comes after the table is erased begins a line on the screen.
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", re.sub(r"\r|\x1b\[2K", "\n", output))
    for model in ("ref-llama", "ref-neo"):
        case = re.escape(f"test_accuracy.py::test_accuracy[{model}-fp32{LABEL}]")
        line = rf"^\[gw\d\] \[ *\d+%\] FAILED {case} *$"
        assert re.search(line, plain, re.MULTILINE), plain


def test_a_line_now_and_then_elsewhere(project: Project) -> None:
    project.replace("pytest_plugin/progress/live.py", "_PERIOD = 10.0", "_PERIOD = -1.0")
    project.replace("pytest_plugin/progress/live.py", "_LOOK = 0.5", "_LOOK = 0.01")
    # so that each step lasts for some looks, however fast the machine is
    for tell in ("channel.send(event)", '_show(display, "main", event)'):
        project.replace("pytest_plugin/progress/live.py", tell, f"({tell}, time.sleep(0.1))")
    # with two workers nothing is accepted yet; in one process all of it is
    for words in (("-n", "2"), ("--snapshot-update",)):
        run = project.gate(*FEW, *words)
        assert re.search(r"^mxcheck: 0 of 4 cases; (main|gw0|gw1) ref-", run.output, re.MULTILINE), run.output
        assert re.search(r"^mxcheck: [1-3] of 4 cases; about \d+ (s|min) left; ", run.output, re.MULTILINE), (
            run.output
        )
        assert re.search(r"\d/2 batches, [\d,]+ tokens/s, [\d,]+ MiB", run.output), run.output
        assert "mxcheck: 4 of 4 cases" not in run.output, "other tests may follow"
        for step in ("ref-neo-fp32.* starting", "ref-neo loading", "ref-neo-fp32.* converting"):
            assert re.search(rf"^mxcheck: .*(main|gw0|gw1) {step}", run.output, re.MULTILINE), run.output
    assert "; main ref-neo: noise of 2 cases" in run.output, run.output
    run = project.gate(*FEW, "-k", "ref-llama-fp32", "-q")
    assert "of 4 cases;" not in run.output


def test_other_peoples_runs_on_a_terminal_show_nothing(project: Project, tmp_path: Path) -> None:
    (project.directory / "test_theirs.py").write_text("def test_theirs():\n    assert True\n")
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_theirs.py"],
        cwd=project.directory,
        env={**os.environ, "PYTHONPATH": str(project.source), "MXCHECK_LEASES": str(tmp_path / "leases")},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        check=True,
    )
    os.close(theirs)
    output = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "tokens/s" not in output
    assert "\x1b[?25l" not in output
    assert not (tmp_path / "leases").exists(), "a run without models has nothing to lease"
