"""The real sensitivity run on one fault of the catalogue for each way to be caught, and on one that is none.

`make sensitivity` puts all of them under the same suites. Here the full gate, which survivors are taken to,
is one case.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from gate_project import ROOT, WITH_VALIDATION

#: Faults, and of each whether the kernel suite must see it (None: it concerns no format), and steps of the
#: model suite that must fail (None: it must see nothing).
CAUGHT: dict[str, tuple[bool | None, set[str] | None]] = {
    "scale_one_up": (True, {"4", "6"}),
    "columnwise_from_rowwise": (True, None),
    "experts_skipped": (None, {"3"}),
    "tokens_cut_short": (None, {"1"}),
    "kl_reversed": (None, {"2", "6"}),
    "drift_in_one_direction": (None, None),
}

_RUN = """
import json, sys
from dataclasses import asdict, replace
from pathlib import Path
from validation.faults.catalogued import catalogue
from validation.faults.fault import Fault, rewrite
from validation.faults.fault_place import returned
from validation.sensitivity.sensitivity_run import run

state, baselines, *names = sys.argv[1:]
harmless = Fault(
    name="harmless",
    group="gate",
    what="Nothing is wrong.",
    source="made up",
    changes=rewrite("mxcheck.gate.statistics:rms", returned(), to="1.0 * it"),
    formats=("fp8_e4m3",),
    precisions=("mxfp8_e4m3",),
)
found = run(
    [*(replace(catalogue()[name], precisions=("mxfp8_e4m3",)) for name in names), harmless],
    state=Path(state),
    baselines=Path(baselines),
    full_gate=[
        *("--pyargs", "mxcheck.suite.models", "--mx-device", "cpu", "--mx-tier", "B"),
        *("--mx-models", "ref-llama", "--mx-precision", "mxfp8_e4m3"),
    ],
    progress=lambda name, done, total: print(f"{done} of {total}: {name}", file=sys.stderr, flush=True),
)
print(json.dumps({one.name: {**asdict(one), "stage": one.stage} for one in found}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished run: what it found, by name, and where it kept it."""

    found: dict[str, Any]
    state: Path
    progress: list[str]


def _run(state: Path) -> Finished:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(state), str(ROOT / "baselines"), *CAUGHT],
        env={
            **inherited,
            "PYTHONPATH": WITH_VALIDATION,
            "OMP_NUM_THREADS": "1",
            "CI": "1",
        },  # a run of ours may accept under CI too
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    progress = re.findall(r"^\d+ of \d+: (.*)$", done.stderr, flags=re.MULTILINE)
    return Finished(found=json.loads(done.stdout.splitlines()[-1]), state=state, progress=progress)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Finished:
    """One run for all workers of pytest-xdist: it takes minutes."""
    base = tmp_path_factory.getbasetemp()
    shared = base / "sensitivity" if worker_id == "master" else base.parent / "sensitivity"
    with FileLock(f"{shared}.lock"):
        kept = shared / "finished.json"
        if not kept.is_file():
            made = _run(shared / "state")
            kept.write_text(json.dumps({"found": made.found, "progress": made.progress}), encoding="utf-8")
    return Finished(state=shared / "state", **json.loads(kept.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", CAUGHT)
def test_is_caught_where_it_should_be(finished: Finished, name: str) -> None:
    kernels, steps = CAUGHT[name]
    one = finished.found[name]
    assert one["kernels"]["caught"] == bool(kernels)
    assert one["models"]["caught"] == (steps is not None), one["models"]
    assert set(one["models"]["steps"]) >= (steps or set())
    assert one["stage"] == ("own tests" if name == "drift_in_one_direction" else "reduced")


def test_what_changes_nothing_survives_everything(finished: Finished) -> None:
    one = finished.found["harmless"]
    assert one["stage"] == "never"
    assert not one["kernels"]["caught"]
    assert one["models"] == {"caught": False, "without_digests": False, "cases": [0, 13], "steps": []}
    assert one["full"]["cases"] == [0, 1], "it was taken to the full gate"
    assert [one[alone] for alone in ("bounds", "drift")] == [
        {"seen": False, "margin": one["bounds"]["margin"]},
        {"seen": False, "margin": 0.0},
    ]


def test_without_a_fault_everything_is_green(finished: Finished) -> None:
    runs = list((finished.state / "results" / "healthy").iterdir())
    assert len(runs) == 2, "the kernel suite, and the model suite, all of whose faults have the same options"
    for path in runs:
        result = json.loads(path.read_text())
        assert (result["ended"], result["exit_code"]) == ("finished", 0)
        assert result["results"] or result["cells"]


def test_drift_alone_is_told_from_the_digests(finished: Finished) -> None:
    """A scale one off moves losses by far more than any machine's noise; other kernels' bits move nothing."""
    assert finished.found["scale_one_up"]["drift_elsewhere"]["margin"] > 1
    assert finished.found["columnwise_from_rowwise"]["drift"] == {"seen": False, "margin": 0.0}


def test_the_same_run_again_does_nothing_but_judge(finished: Finished) -> None:
    again = _run(finished.state)
    assert again.found == finished.found
    assert set(again.progress) == {"finished before"}
    assert set(finished.progress) > {"starting", "models harmless", "kernels harmless", "full harmless"}
