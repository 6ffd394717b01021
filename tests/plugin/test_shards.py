"""Shards through the real pytest: what each leaves, and that joined they are the run that was not split."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from gate_project import Project, Run
from passing_gate import PASSING

from mxcheck.distributed.shard_file import ShardRun, read

MODELS = ("--mx-models", "ref-llama,ref-neo")
RUN = (*MODELS, "--mx-precision", "fp32,mxfp8_e4m3", "--mx-tier", "A")
FIRST, SECOND = "ref-neo", "ref-llama"  # ref-neo has the costlier attention, and goes first


def shard(project: Project, name: str, *arguments: str) -> Run:
    index = name.partition("/")[0]
    return project.gate("--mx-shard", name, "--mx-report", f"reports/{index}", *arguments)


def left(project: Project, name: str) -> ShardRun:
    index, _, count = name.partition("/")
    return read(project.directory / "reports" / index / f"shard-{index}-of-{count}.json")


def merge(project: Project, *arguments: str) -> tuple[int, str]:
    done = project.run("-m", "mxcheck.cli", "merge", "reports", *arguments)
    return done.returncode, done.stdout + done.stderr


def table(output: str) -> str:
    lines = output[output.index("mxcheck: accuracy\n") :].splitlines()
    return "\n".join(
        lines[
            : next(number for number, line in enumerate(lines) if line.endswith("accepted")) + 1
        ]  # of the caption
    )


def same(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what may differ from run to run."""
    aside = ("seconds", "load_seconds", "worker", "cost")
    return [{key: value for key, value in row.items() if key not in aside} for row in rows]


def test_joined_they_are_the_whole_run(accepted: Project) -> None:
    """One of them with workers: the same table, letter by letter, and the same rows, bit for bit."""
    whole = accepted.gate(*RUN, "--mx-report", "whole")
    assert whole.code == 0, whole.output
    assert [path.name for path in (accepted.directory / "whole").iterdir()] == ["accuracy.json"]
    runs = [shard(accepted, "1/2", *RUN, "-n", "1"), shard(accepted, "2/2", *RUN)]
    assert [run.code for run in runs] == [0, 0], runs[0].output + runs[1].output
    assert "mxcheck: shard 2/2 written to " in runs[1].output
    assert [set(run.rows) & set(whole.rows) for run in runs] == [set(run.rows) for run in runs]
    assert all(row.startswith(f"{FIRST}-") for row in runs[0].rows)
    code, output = merge(accepted, "--json", "merged.json")
    assert code == 0, output
    assert table(output) == table(whole.output)
    assert "mxcheck merge: green: 4 cases: 4 pass; 2 shards; " in output
    joined = json.loads((accepted.directory / "merged.json").read_text())
    by_id = {row["id"]: row for row in joined}
    assert same(joined) == same([whole.rows[name] for name in by_id])
    assert set(by_id) == set(whole.rows)
    # Another machine has other baselines: no verdict.
    (accepted.baselines / "ref-moe" / "fp32.json").unlink()
    assert shard(accepted, "2/2", *RUN, "-k", "no_such_case").code == 5
    code, output = merge(accepted)
    assert code == 2
    assert "mxcheck: shards of different accepted baselines: " in output


def test_what_is_red_in_one_shard_is_red_joined(accepted: Project) -> None:
    """A damaged baseline: its case is red, so is an ordering that reads it; with -x the next never ran."""
    path = accepted.baselines / SECOND / "fp32.json"
    path.write_text(path.read_text().replace('"kl": ', '"kl": 1'))
    other = accepted.baselines / SECOND / "mxfp8_e4m3-B.json"
    other.write_text("{}")
    assert shard(accepted, "1/2", *RUN, "-k", "test_accuracy").code == 0
    assert shard(accepted, "2/2", *RUN, "-k", "test_accuracy", "-x").code == 1
    code, output = merge(accepted)
    assert code == 1, output
    assert "mxcheck merge: red: 4 cases: 2 pass, 1 FAIL corrupt, 1 NOT RUN; 2 shards; " in output
    assert f"{SECOND}-fp32: " in output
    assert "was changed by hand or by a merge" in output
    assert f"{SECOND}-mxfp8_e4m3-A: NOT RUN in shard 2/2, which did not say why" in output
    shutil.rmtree(accepted.directory / "reports")
    assert shard(accepted, "1/2", *RUN, "-k", "test_ordering").code == 0
    assert shard(accepted, "2/2", *RUN, "-k", "test_ordering", "-n", "1").code == 1
    code, output = merge(accepted)
    assert code == 1
    assert "test_ordering[ref-llama-mxfp8_e4m3-A-below-mxfp8_e4m3-B]\n" in output
    assert "no case was selected in any shard (-k test_ordering)" in output


@pytest.mark.parametrize("workers", ["0", "1"])
def test_what_cannot_be_collected_is_red_joined(accepted: Project, workers: str) -> None:
    (accepted.directory / "test_broken.py").write_text("import no_such_module\n")
    words = (*RUN, "-n", workers, "-k", "no_such_case", "--continue-on-collection-errors", "test_broken.py")
    assert shard(accepted, "1/1", *words).code != 0
    (failure,) = left(accepted, "1/1").failures.items()
    assert failure[0].endswith("test_broken.py")
    assert "No module named 'no_such_module'" in failure[1]
    assert merge(accepted)[0] == 1


#: As `make nightly` has them, but for the seconds.
HANG = ("-o", "faulthandler_timeout=2", "-o", "faulthandler_exit_on_timeout=true")


@pytest.mark.parametrize("death", ["os._exit(7)", "time.sleep(600)"], ids=["dies", "hangs"])
def test_a_worker_that_dies_or_hangs_is_red_joined(accepted: Project, death: str) -> None:
    plugin = accepted.directory / "deadly.py"
    plugin.write_text(f"import os, time\ndef pytest_runtest_call():\n    {death}\n")
    words = (*RUN, "-k", "ref-neo-fp32", "-n", "1", "-p", "deadly", *(HANG if "sleep" in death else ()))
    run = shard(accepted, "1/1", *words)
    assert run.code == 1, run.output
    assert ("Timeout (" in run.output) == ("sleep" in death)
    code, output = merge(accepted)
    assert code == 1
    assert "mxcheck merge: red: 1 case: 1 CRASH; 3 not selected; 1 shard; " in output
    assert "crashed while running" in output
    assert left(accepted, "1/1").failures == {}
    if "sleep" in death:  # without workers nothing outlives it
        assert shard(accepted, "1/1", *words, "-n", "0").code == 1
        code, output = merge(accepted)
        assert code == 2
        assert "no shard file" in output


@pytest.mark.parametrize("selection", [(), ("-k", "ref-neo")], ids=["all", "-k"])
def test_a_shard_whose_workers_all_die_at_their_start_is_red_joined(
    accepted: Project, selection: tuple[str, ...]
) -> None:
    """xdist gives up and pytest says 'no tests ran', as where `-k` leaves a part nothing."""
    words = (*MODELS, "--mx-precision", "fp32", *selection)
    conftest = accepted.directory / "conftest.py"
    conftest.write_text(
        "import os\ndef pytest_sessionstart():\n    'PYTEST_XDIST_WORKER' in os.environ and os._exit(7)\n"
    )
    run = shard(accepted, "2/2", *words, "-n", "1")
    assert run.code == 5, run.output
    assert left(accepted, "2/2").selected == ()
    conftest.write_text(PASSING)
    assert shard(accepted, "1/2", *words).code == 0
    code, output = merge(accepted)
    assert code == 1, output
    assert "shard 2/2: collection\nno collection has ended, so nothing ran: " in output


def test_a_part_that_a_conftest_empties_is_red_joined(accepted: Project) -> None:
    words = (*MODELS, "--mx-precision", "fp32")
    (accepted.directory / "conftest.py").write_text(PASSING)
    assert shard(accepted, "1/2", *words).code == 0
    (accepted.directory / "conftest.py").write_text(
        "def pytest_collection_modifyitems(items):\n    items.clear()\n"
    )
    assert shard(accepted, "2/2", *words, "-n", "1").code == 5
    code, output = merge(accepted)
    assert code == 1, output
    assert "shard 2/2: 1 of the 1 cases of its part were not selected" in output


def test_shards_asked_for_other_tests_are_no_run_of_the_same(accepted: Project) -> None:
    words = (*MODELS, "--mx-precision", "fp32")
    (accepted.directory / "conftest.py").write_text(PASSING)
    assert shard(accepted, "1/2", *words).code == 0
    (accepted.directory / "test_other.py").write_text("def test_other(): ...\n")
    for other, what in (
        (("--deselect", "mxcheck.suite.models"), "-k, -m and other selection"),
        (("test_other.py",), "paths to collect"),
    ):
        run = shard(accepted, "2/2", *words, *other)
        assert run.code == 0, run.output
        code, output = merge(accepted)
        assert code == 2
        assert f"mxcheck: shards of different {what}: " in output


def test_a_run_that_dies_leaves_no_file_of_an_earlier_one(accepted: Project) -> None:
    conftest = accepted.directory / "conftest.py"
    conftest.write_text(PASSING)
    arguments = (*RUN, "-k", "ref-llama-fp32")
    for name in ("1/2", "2/2"):  # the first has no such case
        assert shard(accepted, name, *arguments).code in (0, 5)
    code, output = merge(accepted)
    assert code == 0, output
    assert "mxcheck merge: green: 1 case: 1 pass; 3 not selected; 2 shards; " in output
    conftest.write_text("import os\ndef pytest_collection_finish():\n    os._exit(9)\n")
    assert shard(accepted, "2/2", *arguments).code == 9
    code, output = merge(accepted)
    assert code == 2
    assert "mxcheck: missing in or below reports: shard-2-of-2.json " in output


def test_other_bounds_or_another_cast_are_no_run_of_the_same(accepted: Project) -> None:
    """They are no part of a case's name, and decide its verdict."""
    (accepted.directory / "mine.toml").write_text("[default]\nfp8_e4m3-A = { kl = 1.0 }\n")
    nothing = (*RUN, "-k", "no_such_case")
    assert shard(accepted, "1/2", *nothing).code == 5
    for other in (("--mx-bounds", "mine.toml"), ("--mx-kernel", "torchao"), ("--snapshot-update",)):
        assert shard(accepted, "2/2", *nothing, *other).code == 5
        code, output = merge(accepted)
        assert code == 2, output
        assert "shards of different options: kernel auto; device auto; " in output


def test_a_git_that_fails_is_told_in_one_line(accepted: Project) -> None:
    (accepted.directory / ".git").write_text("gitdir: /not/there\n")
    run = shard(accepted, "1/2", *RUN)
    assert run.code == 4
    assert "\nERROR: mxcheck: git does not say what is checked out in " in f"\n{run.output}"
    assert "Traceback" not in run.output


def test_looking_leaves_nothing(accepted: Project) -> None:
    run = shard(accepted, "1/2", *RUN, "--collect-only", "-q")
    assert run.code == 0, run.output
    assert FIRST in run.output
    assert SECOND not in run.output
    assert not (accepted.directory / "reports").exists()
