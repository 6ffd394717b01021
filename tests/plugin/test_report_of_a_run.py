"""What a run writes and says of itself where something is in the way."""

from __future__ import annotations

import json

from gate_project import Project
from passing_gate import PASSING

ONE = ("--mx-models=ref-llama", "--mx-precision=mxfp8_e4m3", "--mx-tier=B", "-k", "test_accuracy")


def test_a_report_that_cannot_be_written_is_red_and_its_links_are_left_alone(project: Project) -> None:
    report, precious = project.directory / "report", project.directory / "precious"
    (project.directory / "conftest.py").write_text(PASSING)
    (report / "accuracy.json").mkdir(parents=True)
    precious.write_text("precious")
    run = project.gate(*ONE, f"--mx-report={report}")
    assert run.code == 1, run.output
    (line,) = [line for line in run.output.splitlines() if line.startswith("mxcheck: red: ")]
    assert "accuracy.json cannot be written: " in line
    assert "Traceback" not in run.output
    assert "1 passed" in run.output
    (report / "accuracy.json").rmdir()
    (report / "accuracy.json").symlink_to(precious)
    # beside it: a screen that has no letters for the table's rules shows its lines all the same
    run = project.gate(*ONE, f"--mx-report={report}", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert run.code == 0, run.output
    (row,) = [line for line in run.output.splitlines() if line.startswith(" ref-llama  mxfp8_e4m3")]
    assert row.endswith("pass")
    assert precious.read_text() == "precious"
    assert not (report / "accuracy.json").is_symlink()


def test_the_rows_of_red_cases_are_kept(accepted: Project) -> None:
    """Of two cases one has lost its baseline."""
    report = accepted.directory / "report"
    (accepted.directory / "baselines" / "ref-llama" / "mxint8-B.json").unlink()
    words = (
        "--mx-models=ref-llama",
        "--mx-precision=mxfp8_e4m3,mxint8",
        "--mx-tier=B",
        "-k",
        "test_accuracy",
    )
    run = accepted.gate(*words, f"--mx-report={report}")
    assert run.code == 1, run.output
    rows = json.loads((report / "accuracy.json").read_text())
    assert {row["case"]["precision"] for row in rows} == {"mxfp8_e4m3", "mxint8"}


def test_the_file_of_a_shard_that_is_a_folder_is_one_line(accepted: Project) -> None:
    report = accepted.directory / "report"
    (report / "shard-1-of-1.json").mkdir(parents=True)
    run = accepted.gate(*ONE, f"--mx-report={report}", "--mx-shard=1/1")
    assert run.code == 4, run.output
    assert "shard-1-of-1.json cannot be written: " in run.output
    assert "Traceback" not in run.output
    assert "INTERNALERROR" not in run.output


def test_a_case_that_is_red_as_a_mark_expects_says_so(project: Project) -> None:
    """Such a run compared something: it is no run in which all was skipped."""
    (project.directory / "conftest.py").write_text(PASSING)
    (project.directory / "expects.py").write_text(
        "import pytest\n"
        "def pytest_collection_modifyitems(items):\n"
        "    for item in items:\n"
        "        item.add_marker(pytest.mark.xfail(reason='a known fault'))\n"
        "@pytest.hookimpl(wrapper=True)\n"
        "def pytest_runtest_call(item):\n"
        "    yield\n"
        "    pytest.fail('of the project')\n"
    )
    path = str(project.directory)
    run = project.gate(*ONE, "-p", "expects", PYTHONPATH=f"{project.source}:{path}")
    assert run.code == 0, run.output
    assert "red, as its xfail mark says (a known fault)" in run.output
    assert "nothing was compared" not in run.output
