"""A path after a space moves pytest's root directory before our options are known: the run stops before it
reads or writes another project's files, and says what to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate_project import Project, Run

NARROW = ("--collect-only", "-q", "-k", "ref-llama-mxint8")
OF_THE_INI = ["ref-llama-mxint8-A", "ref-llama-mxint8-B"]  # whose tiers are A and B


@pytest.fixture
def elsewhere(project: Project) -> Path:
    """A folder beside the project, as a model's or a report's would be."""
    folder = project.directory.parent / "elsewhere"
    folder.mkdir()
    (folder / "text.toml").write_text("")
    return folder


def everything(project: Project) -> list[Path]:
    return sorted(
        path
        for path in project.directory.parent.rglob("*")
        if not {"__pycache__", "source"} & set(path.parts)
    )


def collected(run: Run) -> list[str]:
    assert run.code == 0, run.output
    ids = [line.partition("[")[2].rstrip("]") for line in run.output.splitlines() if "::test_acc" in line]
    return [name for name in ids if name.startswith("ref-llama")]


@pytest.mark.parametrize(
    ("option", "name"),
    [
        *[(f"--mx-{option}", "") for option in ("models", "report", "leases")],
        ("--mx-bounds", "text.toml"),
        ("--benchmark-storage", ""),  # another plugin's: the same of the model suite
    ],
)
def test_a_path_elsewhere(project: Project, elsewhere: Path, option: str, name: str) -> None:
    path = elsewhere / name
    before = everything(project)
    run = project.gate(option, str(path), *NARROW)
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.output
    (line,) = run.output.strip().splitlines()
    assert line == (
        f"ERROR: mxcheck: pytest collects from a path that follows a space, and looks for the "
        f"project in {project.directory.parent} and not in {project.directory}; write {option}={path}"
    )
    assert everything(project) == before


def test_a_test_of_a_path(project: Project, elsewhere: Path) -> None:
    """pytest looks for the part before the colons."""
    run = project.gate("--mx-report", f"{elsewhere}::x", *NARROW)
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.output
    assert run.output.strip().endswith(f"; write --mx-report={elsewhere}::x")


def test_the_second_value_of_an_option(project: Project, elsewhere: Path) -> None:
    """Which has no form with a `=`: what to write instead works."""
    (project.source / "pairs.py").write_text(
        "def pytest_addoption(parser): parser.addoption('--pair', nargs=2)\n"
    )
    words = ("-p", "pairs", "--pair", "one", str(elsewhere), *NARROW)
    run = project.gate(*words)
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.output
    fixed = (f"--rootdir={project.directory}", "-c", f"{project.directory}/pytest.ini")
    assert run.output.strip().endswith(f"; beside {elsewhere} write {' '.join(fixed)}")
    assert collected(project.gate(*words, *fixed)) == OF_THE_INI


def test_several_and_from_the_environment(project: Project, elsewhere: Path) -> None:
    words = ("--mx-report", str(elsewhere), *NARROW)
    run = project.gate(*words, PYTEST_ADDOPTS=f"--mx-leases {elsewhere}")
    assert run.code == pytest.ExitCode.USAGE_ERROR, run.output
    assert f"; write --mx-leases={elsewhere} --mx-report={elsewhere}\n" in run.output


def test_no_complaint_where_nothing_moves(project: Project, elsewhere: Path) -> None:
    (project.directory / "reports").mkdir()
    for words in (
        ("--mx-report", "reports"),  # within the project
        (f"--mx-report={elsewhere}",),
        ("--mx-report", str(elsewhere), "--rootdir", ".", "-c", "pytest.ini"),
        ("--mx-report", "../to-be-made"),
    ):
        assert collected(project.gate(*words, *NARROW)) == OF_THE_INI, words


def test_other_people_s_runs_are_theirs(project: Project, elsewhere: Path) -> None:
    (project.directory / "test_theirs.py").write_text("def test_theirs():\n    pass\n")
    run = project.pytest("--benchmark-storage", str(elsewhere))
    assert run.code == 0, run.output
    assert f"rootdir: {project.directory.parent}" in run.output
