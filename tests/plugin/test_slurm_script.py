"""tools/slurm-shards.sh, run by bash with the variables that Slurm sets, from a spool as Slurm runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from checkout import MISSING, REASON, SMALL, Checkout, build_checkout
from gate_project import ROOT

SCRIPT = ROOT / "tools" / "slurm-shards.sh"
pytestmark = pytest.mark.skipif(bool(MISSING), reason=REASON)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return build_checkout(tmp_path)


def task(checkout: Checkout, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The script as slurmd starts it: a copy elsewhere, not started in the checkout."""
    spool = checkout.path.parent / "slurm_script"
    shutil.copy(SCRIPT, spool)
    here = {"SLURM_SUBMIT_DIR": str(checkout.path), "REPORTS": str(checkout.path.parent / "reports")}
    return checkout.bash(str(spool), *words, **{**here, **SMALL, **more})


def of_array(index: int, count: int) -> dict[str, str]:
    return {
        "SLURM_ARRAY_JOB_ID": "71",
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_ARRAY_TASK_COUNT": str(count),
    }


def test_an_array_and_its_merge(checkout: Checkout) -> None:
    reports = checkout.path.parent / "reports" / "71"
    for index in (1, 2):
        done = task(checkout, **of_array(index, 2))
        assert done.returncode == 0, done.stdout + done.stderr
    (reports / "summary.md").write_text("## mxcheck: red: of an earlier merge\n")
    done = task(checkout, "merge", "71")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mxcheck merge: green: 4 cases: 4 pass; 2 shards; commit " in done.stdout
    assert (reports / "summary.md").read_text().startswith("## mxcheck: green: 4 cases")
    assert len(json.loads((reports / "accuracy.json").read_text())) == 4
    # Alone a task is told of how many it is, and of which run. One that fails before it begins leaves none.
    alone = {**of_array(2, 1), "SHARDS": "2", "MXCHECK_RUN": "71", "SLURM_ARRAY_JOB_ID": "72"}
    done = task(checkout, **alone, PYTEST_ARGS="--no-such-option")
    assert done.returncode != 0
    assert "--mx-shard=2/2" in done.stdout
    done = task(checkout, "merge", "71")
    assert done.returncode != 0
    assert "missing in or below" in done.stderr
    assert (reports / "summary.md").read_text().startswith("## mxcheck: red: no verdict")
    # A second array has a folder of its own: none of its tasks ran, and none of the first stands for it.
    done = task(checkout, "merge", "72")
    assert done.returncode != 0
    assert "no shard file" in done.stderr or "is not a directory" in done.stderr


def test_a_shard_of_an_earlier_run_is_gone_though_the_new_one_never_began(checkout: Checkout) -> None:
    """And a folder's name may have a space."""
    report = checkout.path / "a report"
    report.mkdir()
    for name in ("shard-1-of-2.json", "shard-2-of-2.json"):
        (report / name).write_text("{}")
    words = f"cd '{checkout.path}' && make nightly SHARD=1/2 REPORT='a report' PYTEST_ARGS=--no-such-option"
    done = checkout.bash("-c", words, **{**SMALL, "PYTEST_ARGS": ""})
    assert "unrecognized arguments: --no-such-option" in done.stderr, done.stdout + done.stderr
    assert [path.name for path in report.iterdir()] == ["shard-2-of-2.json"]
    words = f"cd '{checkout.path}' && make merge REPORTS='a report' SUMMARY='a summary' JSON='a file'"
    done = checkout.bash("-c", words)
    assert "shard file a report/shard-2-of-2.json has format version None" in done.stderr
    assert "a report/shard-2-of-2.json" in (checkout.path / "a summary").read_text()


@pytest.mark.parametrize(
    ("words", "environment", "line"),
    [
        ((), {}, "this is no task of an array; submit with --array=1-N"),
        ((), of_array(0, 4), "task 0 of 4: submit with --array=1-N, or set SHARDS=N"),
        ((), of_array(3, 1), "task 3 of 1: submit with --array=1-N, or set SHARDS=N"),
        ((), {**of_array(1, 2), "REPORTS": ""}, "REPORTS is not set"),
        (("merge",), {"SLURM_SUBMIT_DIR": "/"}, "/ is no checkout of mxcheck; type sbatch in its root"),
        (("join",), {}, "unknown word 'join'"),
        (("merge",), {}, "merge of which run? name the array's job"),
        ((), {**of_array(1, 2), "VENV": "none"}, "mxcheck is not installed in this checkout"),
    ],
    ids=["no-array", "from-0", "one-of-some", "no-reports", "elsewhere", "word", "no-job", "not-installed"],
)
def test_bad_input(
    checkout: Checkout, words: tuple[str, ...], environment: dict[str, str], line: str
) -> None:
    done = task(checkout, *words, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    first, *usage = done.stderr.splitlines()
    assert first.startswith(f"slurm-shards.sh: {line}")
    assert any("--dependency=afterany:$job" in text for text in usage)
    assert done.stdout == ""


def test_bash_finds_no_fault_in_it() -> None:
    done = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert SCRIPT.stat().st_mode & 0o111
