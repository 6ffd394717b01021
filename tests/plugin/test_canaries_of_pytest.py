"""What mxcheck works around in pytest, xdist and syrupy.

A red test here is good news with work in it: an upgrade changed what our code has a reason to avoid, and the
reason has to be looked at again.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest


def run(folder: Path, *arguments: str) -> str:
    """pytest with xdist and syrupy alone."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    words = ("-p", "no:cacheprovider", "-p", "xdist", "-p", "syrupy", *arguments)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=folder,
        env={**inherited, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return done.stdout + done.stderr


_GROUPS = """
import os, pytest

@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("group", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in "ab"])
def test_grouped(number, group):
    with open("ran", "a") as file:
        file.write(f"{group} {os.getpid()}\\n")
"""


def test_loadgroup_does_not_group(tmp_path: Path) -> None:
    """Why `ModelScheduling` is no LoadGroupScheduling (pytest-dev/pytest-xdist#1386): with this pytest the
    group is no longer part of the node id that the controller sees. Of a, a, b, b each worker gets every
    other one before any has run, unless groups count."""
    (tmp_path / "test_groups.py").write_text(_GROUPS)
    output = run(tmp_path, "-n", "2", "--dist", "loadgroup")
    assert "4 passed" in output, output
    workers = defaultdict(set)
    for line in (tmp_path / "ran").read_text().splitlines():
        group, worker = line.split()
        workers[group].add(worker)
    assert {len(found) for found in workers.values()} == {2}, (
        "each group ran on one worker: xdist groups again"
    )


_SCOPES = """
import os, pytest

class TestA:
    @pytest.mark.parametrize("number", range(4))
    def test_a(self, number):
        if number == 2:
            os._exit(1)

class TestB:
    @pytest.mark.parametrize("number", range(4))
    def test_b(self, number):
        pass
"""


def test_loadscope_runs_again_what_crashed(tmp_path: Path) -> None:
    """Why it is no LoadScopeScheduling (pytest-dev/pytest-xdist#1323, #1378): what killed a worker is handed
    to the next one, until none may be started any more."""
    (tmp_path / "test_scopes.py").write_text(_SCOPES)
    output = run(tmp_path, "-n", "2", "--dist", "loadscope", "--max-worker-restart", "2")
    crashed = output.count("crashed while running 'test_scopes.py::TestA::test_a[2]'")
    assert crashed > 1, f"one crash cost one case, as it should:\n{output}"
    assert "maximum crashed workers reached" in output


_SNAPSHOTS = """
import pytest

@pytest.mark.parametrize("name", ["one", "two"])
def test_stored(name, snapshot):
    if name == "two" and BROKEN:
        raise RuntimeError("before its assertion")
    assert snapshot == name
"""


@pytest.mark.parametrize("plugin_words", [(), ("-n", "2")], ids=["alone", "workers"])
def test_syrupy_deletes_what_a_failed_test_needs(tmp_path: Path, plugin_words: tuple[str, ...]) -> None:
    """Why our extension discovers and deletes nothing: syrupy takes a snapshot that a test did not come to
    for an unused one."""
    test = tmp_path / "test_snapshots.py"
    stored = tmp_path / "__snapshots__" / "test_snapshots.ambr"
    test.write_text(_SNAPSHOTS.replace("BROKEN", "False"))
    run(tmp_path, "--snapshot-update")
    assert "test_stored[two]" in stored.read_text()
    test.write_text(_SNAPSHOTS.replace("BROKEN", "True"))
    run(tmp_path, "--snapshot-update", *plugin_words)
    assert "test_stored[one]" in stored.read_text()
    assert "test_stored[two]" not in stored.read_text(), "syrupy keeps it now"
