"""What stands around a run: other plugins and Python's own options. One clear line, or it works."""

from __future__ import annotations

import pytest
from gate_project import Project

TABLES = ("--pyargs", "mxcheck.suite.kernels.test_code_tables")
FEW = ("--collect-only", "-q", "-k", "ref-llama-mxint8-B")


def test_without_syrupy(project: Project) -> None:
    """Only what stores baselines needs it."""
    run = project.gate("-p", "no:syrupy", *FEW)
    line = "mxcheck: baselines are stored by pytest's plugin syrupy, which this run does not load"
    assert run.output.count(line) == 1, run.output
    assert run.code == pytest.ExitCode.INTERRUPTED
    assert "Traceback" not in run.output
    run = project.pytest("-p", "no:syrupy", *TABLES, "-q", "--mx-kernel=eager")
    assert run.code == 0, run.output
    (project.directory / "test_theirs.py").write_text("def test_theirs():\n    pass\n")
    assert project.pytest("-p", "no:syrupy", "test_theirs.py").code == 0


def test_a_snapshot_that_is_not_syrupy_s(project: Project) -> None:
    conftest = project.directory / "conftest.py"
    conftest.write_text("import pytest\n@pytest.fixture\ndef snapshot():\n    return {}\n")
    run = project.gate("-k", "ref-llama-mxint8-B and test_accuracy", "--mx-models=ref-llama")
    assert run.code == 1, run.output
    assert "mxcheck: the fixture `snapshot` is not syrupy's but a builtins.dict: " in run.output
    assert "Traceback" not in run.output


def test_pytest_snapshot_is_refused(project: Project) -> None:
    """A distribution of its name that defines the same option, found before the others. `make surroundings`
    tries the published one."""
    (project.source / "pytest_snapshot.py").write_text(
        "def pytest_addoption(parser): parser.addoption('--snapshot-update', action='store_true')\n"
    )
    facts = project.source / "pytest_snapshot-0.9.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest-snapshot\nVersion: 0.9.0\n")
    (facts / "entry_points.txt").write_text("[pytest11]\nsnapshot = pytest_snapshot\n")
    run = project.gate("-p", "mxcheck", *FEW)
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.output
    assert "both define --snapshot-update; leave one out" in run.output
    assert "Traceback" not in run.output
    assert project.gate("-p", "mxcheck", "-p", "no:snapshot", *FEW).code == 0


@pytest.mark.parametrize("words", [("-n", "2"), ("-p", "no:xdist"), ("-p", "no:terminal", "-o", "addopts=")])
def test_listing_works(project: Project, words: tuple[str, ...]) -> None:
    (project.directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    few = [word for word in FEW if word != "-q" or "no:terminal" not in words]
    run = project.gate(*words, *few)
    assert run.code == 0, run.output
    assert ("test_accuracy[ref-llama-mxint8-B]" in run.output) is ("no:terminal" not in words)


def test_optimized_python(project: Project) -> None:
    """The suites' assertions are executed: pytest has rewritten them."""
    run = project.pytest(*TABLES, "-q", PYTHONOPTIMIZE="2")
    assert run.code == 0, run.output
    project.replace(
        "suite/kernels/test_code_tables.py", "assert len(values) == 256", "assert len(values) == 7"
    )
    run = project.pytest(*TABLES, "-q", PYTHONOPTIMIZE="2")
    assert run.code == 1, run.output


def test_transformers_needs_docstrings(project: Project) -> None:
    run = project.gate("--collect-only", "-q", PYTHONOPTIMIZE="2")
    assert run.code == pytest.ExitCode.INTERRUPTED, run.output
    assert "mxcheck: transformers cannot be imported under python -OO (PYTHONOPTIMIZE=2)" in run.output


def test_no_assertion_at_all(project: Project) -> None:
    for suite in ("models", "kernels.test_casts"):
        words = ("--pyargs", f"mxcheck.suite.{suite}", "--assert=plain", "--collect-only", "-q")
        run = project.pytest(*words, PYTHONOPTIMIZE="1")
        assert run.code == pytest.ExitCode.INTERRUPTED, run.output
        assert (
            "mxcheck: under python -O (PYTHONOPTIMIZE) and --assert=plain no assertion is exec" in run.output
        )
        assert project.pytest(*words).code == 0


def test_libraries_talk_of_themselves_elsewhere(project: Project) -> None:
    """transformers imports torchao, which cannot load its libraries for GPUs here."""
    done = project.run("-m", "mxcheck.cli", "sample", "ref-llama")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("mxcheck: ref-llama ships with its tokens")
