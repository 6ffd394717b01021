"""The run's parts: children that end in every way, the state, the arguments, and the second judgement."""

from __future__ import annotations

import faulthandler
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from sample_record import NOISE, build_record

from mxcheck.gate.baseline import encode
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.case import Case
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.gate.verdict import Check
from validation.faults.fault import Fault, Setting
from validation.sensitivity.children import Job, in_children, read_result
from validation.sensitivity.judging import bounds_result, detection, drift_result, kernel_result, model_result
from validation.sensitivity.reduced_gate import accepting_gates, gate_of, kernel_arguments
from validation.sensitivity.sensitivity_run import run
from validation.sensitivity.sensitivity_state import check_unchanged, locked_state, seconds_spent
from validation.sensitivity.suite_run import SuiteRun

FAULT = Fault(
    name="one",
    group="gate",
    what="Wrong.",
    source="made up",
    changes=(Setting(target="mxcheck.gate.drift:NO_SUCH_NAME", value=float),),
)

#: One check of each step.
_OF_STEP = {1: "case", 2: "reference", 3: "bits", 4: "cast codes", 5: "KL bound", 6: "losses"}


def _result(outcome: Outcome, message: str = "", failures: tuple[Check, ...] = ()) -> CaseResult:
    """The end of a case that measured nothing, or nothing that is looked at."""
    case = Case(model="ref-llama", precision="mxfp8_e4m3", tier="B")
    return CaseResult(case=case, outcome=outcome, message=message, failures=failures)


def _red(*steps: int) -> CaseResult:
    failures = [Check(step=step, key=_OF_STEP[step], passed=False, message="") for step in steps]
    return _result(Outcome.FAILED, failures=tuple(failures))


def _digests(*keys: str) -> CaseResult:
    failures = [Check(step=4, key=key, passed=False, message="") for key in keys]
    return _result(Outcome.FAILED, failures=tuple(failures))


def _job(folder: Path, name: str, work: Callable[[], SuiteRun], limit: float = 60.0) -> Job:
    return Job(
        name=name, result=folder / "results" / name, log=folder / "logs" / name, limit=limit, work=work
    )


def _dies() -> SuiteRun:
    print("last words", flush=True)  # noqa: T201
    faulthandler.disable()  # pytest's, which the fork has from its parent, writes to this run's own output
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError("it is dead")


def _killed() -> SuiteRun:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it is dead")


def _raises() -> SuiteRun:
    raise KeyError("no such thing")


def _sleeps() -> SuiteRun:
    print("before it hangs", flush=True)  # noqa: T201
    subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"], check=False)
    raise AssertionError("stopped long before")


def _works() -> SuiteRun:
    print("of no interest")  # noqa: T201
    return SuiteRun(exit_code=1, results=[_red(4)], seconds=0.5)


def test_what_is_killed_from_outside_says_nothing_of_its_fault(tmp_path: Path) -> None:
    """As the kernel does where memory runs out: no result, so that it is tried again."""
    job = _job(tmp_path, "killed", _killed)
    with pytest.raises(ValueError, match=r"killed was killed from outside"):
        list(in_children([job], 1))
    assert not job.result.exists()


def test_no_child_is_lost(tmp_path: Path) -> None:
    def dies_unheard() -> SuiteRun:
        (tmp_path / "logs" / "dies_unheard").unlink()
        os._exit(3)

    jobs = [_job(tmp_path, work.__name__, work) for work in (_dies, dies_unheard, _raises, _works)]
    jobs.append(_job(tmp_path, "hangs", _sleeps, limit=1.0))
    results = {job.name: result for job, result in in_children(jobs, 2)}
    assert {name: result.ended for name, result in results.items()} == {
        "_dies": "crash",
        "dies_unheard": "crash",
        "_raises": "crash",
        "_works": "finished",
        "hangs": "hang",
    }
    assert all(result.red for result in results.values())
    assert results["_works"] == _works()
    assert results["_dies"].messages == ["last words"]
    assert results["dies_unheard"].messages == [""]
    assert "KeyError: 'no such thing'" in results["_raises"].messages[0]
    # It may have been killed before it came to say anything.
    assert results["hangs"].messages in (["before it hangs"], [""])
    for job in jobs:
        assert read_result(job.result) == results[job.name], "what a later run reads"


def test_stopping_stops_the_children(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def tells() -> SuiteRun:
        written = tmp_path / "pid.new"
        written.write_text(str(os.getpid()))
        written.replace(pid)
        return _sleeps()

    def ends_after() -> SuiteRun:
        while not pid.is_file():
            time.sleep(0.01)
        return SuiteRun()

    running = in_children([_job(tmp_path, "long", tells), _job(tmp_path, "short", ends_after)], 2)
    assert next(running)[0].name == "short"
    running.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert not (tmp_path / "results" / "long").exists()


def test_a_damaged_result_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{"ended": ')
    with pytest.raises(ValueError, match=r"one\.json is damaged"):
        read_result(path)


def test_state_goes_on_and_starts_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "state"
    for sources in ("a", "a"):
        with locked_state(folder, {"sources": sources, "torch": "2"}):
            (folder / "results").mkdir(exist_ok=True)
    assert (folder / "results").is_dir()
    assert not caplog.records
    with locked_state(folder, {"sources": "b", "torch": "2"}):
        assert not (folder / "results").exists()
    assert "is of other sources: starting over" in caplog.text


def test_wall_time_adds_up_until_it_starts_over(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert seconds_spent(folder) == 0
    with pytest.raises(KeyboardInterrupt), locked_state(folder, {"sources": "a"}):
        raise KeyboardInterrupt
    (folder / "seconds").write_text("100\n")
    with locked_state(folder, {"sources": "a"}):
        pass
    assert seconds_spent(folder) >= 100
    with locked_state(folder, {"sources": "b"}):
        pass
    assert seconds_spent(folder) < 100


def test_two_runs_do_not_share_a_state(tmp_path: Path) -> None:
    with (
        locked_state(tmp_path / "state", {}),
        pytest.raises(ValueError, match="another sensitivity run is using"),
        locked_state(tmp_path / "state", {}),
    ):
        pass


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    with pytest.raises(ValueError, match="is not the state of"), locked_state(tmp_path, {}):
        pass
    assert (tmp_path / "results").is_dir()


def test_a_damaged_identity_is_refused(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"), locked_state(tmp_path, {}):
        pass


def test_an_edit_during_a_run_is_refused() -> None:
    check_unchanged({"sources": "a", "torch": "2"}, {"sources": "a", "torch": "2"})
    with pytest.raises(ValueError, match="other sources than when the run began"):
        check_unchanged({"sources": "a", "torch": "2"}, {"sources": "b", "torch": "2"})


def test_a_fault_that_does_not_fit_stops_the_run_before_it_starts(tmp_path: Path) -> None:
    baselines = tmp_path / "baselines"
    baselines.mkdir()
    with pytest.raises(ValueError, match=r"fault one: mxcheck\.gate\.drift:NO_SUCH_NAME"):
        run([FAULT], state=tmp_path / "state", baselines=baselines)
    with pytest.raises(ValueError, match="no directory of baselines"):
        run([FAULT], state=tmp_path / "state", baselines=tmp_path / "none")


def test_baselines_are_accepted_once_for_all_faults_of_the_same_options() -> None:
    faults = [
        replace(FAULT, precisions=("mxfp4_e2m1",)),
        replace(FAULT, precisions=("mxfp8_e4m3",)),
        replace(FAULT, precisions=("nvfp4",), options=("--mx-datasets", "a/b.txt")),
    ]
    gates = accepting_gates(faults)
    assert {options: gate.precisions for options, gate in gates.items()} == {
        (): ("fp32", "bf16", "mxfp8_e4m3", "mxfp4_e2m1"),
        ("--mx-datasets", "a/b.txt"): ("fp32", "bf16", "nvfp4"),
    }
    assert gate_of(faults[0]).precisions == ("fp32", "bf16", "mxfp4_e2m1")
    assert len({gate.key for gate in gates.values()}) == 2
    assert not any("/" in gate.key for gate in gates.values())
    named = "nvfp4 or mxint8 or test_layouts or test_code_tables or test_many_calls"
    assert kernel_arguments(["nvfp4", "mxint8"])[-1] == named


def _passed(**record_changes: object) -> CaseResult:
    record = build_record(**record_changes)
    return CaseResult(
        case=record.case, outcome=Outcome.PASSED, record=record, bounds=Bounds(kl=0.01, rise=0.01)
    )


def test_a_fault_is_judged_again_whatever_its_own_gate_said(tmp_path: Path) -> None:
    """Here a gate that lies: the KL is five times its bound and all losses moved, and it says `pass`."""
    path = tmp_path / "ref-llama" / "mxfp8_e4m3-B.json"
    path.parent.mkdir()
    path.write_text(encode(build_record()))
    lied = _passed(kl=0.05, sequence_losses=[2.003, 2.104, 1.9035, 2.0532])
    found = detection(
        replace(FAULT, survives="known"),
        kernels=None,
        models=SuiteRun(results=[lied]),
        full=SuiteRun(exit_code=1, results=[_red(4)]),
        healthy=SuiteRun(results=[_passed()]),
        accepted=tmp_path,
    )
    assert not found.models.caught
    assert found.bounds.seen
    assert found.bounds.margin == pytest.approx(5)
    assert found.drift.seen
    assert found.drift.margin == pytest.approx(0.002 / 1e-9)
    # 4 times the stored noise, 8/3 of that for four sequences, and the floor: 8.553e-4 for the median
    assert found.drift_elsewhere.seen
    assert found.drift_elsewhere.margin == pytest.approx(0.002 / (3.2e-4 * 8 / 3 + 2e-6))
    assert found.stage == "full"
    assert "but the catalogue explains why it is not: known" in found.trouble


def test_drift_elsewhere_has_the_noise_bounds_only() -> None:
    record = build_record(sequence_losses=[2.0011, 2.1021, 1.9016, 2.0513])
    here = drift_result(record, build_record())
    elsewhere = drift_result(replace(record, arithmetic="another"), build_record())
    assert (here.seen, elsewhere.seen) == (True, False)
    assert elsewhere.margin == pytest.approx(1e-4 / (4 * NOISE.loss_median * 8 / 3 + 2e-6))


def test_figures_that_are_none_are_seen() -> None:
    broken = build_record(sequence_losses=[math.nan] * 4, kl=math.nan)
    assert drift_result(broken, build_record()).margin == math.inf
    assert drift_result(broken, build_record()).seen
    assert bounds_result(broken, Bounds(kl=0.1, rise=0.1)).margin == math.inf
    assert bounds_result(broken, Bounds(kl=0.1, rise=0.1)).seen
    fewer = build_record(sequence_losses=[2.001])
    assert drift_result(fewer, build_record()).margin == math.inf


@pytest.mark.parametrize(
    ("suite", "steps"),
    [
        (SuiteRun(results=[_passed(), _result(Outcome.SKIPPED)]), ()),
        (SuiteRun(exit_code=1, results=[_red(4, 6), _red(3, 4)]), ("3", "4", "6")),
        (SuiteRun(exit_code=1, results=[_result(Outcome.ERROR, "KeyError")]), ("error",)),
        (SuiteRun(exit_code=4), ("error",)),
        (SuiteRun(exit_code=1, tests={"test_ordering": [1, 7], "test_x": [0, 2]}), ("ordering",)),
        (SuiteRun(ended="hang", exit_code=-9), ("hang",)),
    ],
    ids=["green", "steps", "error", "usage", "ordering", "hang"],
)
def test_what_the_model_suite_said(suite: SuiteRun, steps: tuple[str, ...]) -> None:
    result = model_result(suite)
    assert (result.steps, result.caught) == (steps, bool(steps))


@pytest.mark.parametrize(
    ("suite", "more"),
    [
        (SuiteRun(exit_code=1, results=[_digests("cast codes")]), False),
        (SuiteRun(exit_code=1, results=[_digests("cast codes", "steady casts")]), True),
        (SuiteRun(exit_code=1, results=[_digests("cast scales"), _result(Outcome.ERROR, "KeyError")]), True),
        (SuiteRun(exit_code=1, results=[_digests("cast operands")], tests={"test_ordering": [1, 7]}), True),
        (SuiteRun(ended="hang", exit_code=-9), True),
        (SuiteRun(results=[_passed()]), False),
    ],
    ids=["digests", "another check", "an error", "a test", "hang", "green"],
)
def test_what_would_be_red_if_no_digest_had_been_accepted(suite: SuiteRun, more: bool) -> None:
    assert model_result(suite).without_digests is more


def test_what_the_kernel_suite_said() -> None:
    cells = [
        {"id": "a", "verdict": "red", "elements": 200, "mismatches": 50},
        {"id": "b", "verdict": "error", "elements": 0, "mismatches": 3},
        {"id": "c", "verdict": "exact", "elements": 200, "mismatches": 0},
    ]
    result = kernel_result(SuiteRun(exit_code=1, cells=cells, tests={"test_product": [2, 8]}))
    assert (result.caught, result.cells, result.share) == (True, (2, 3), 0.25)
    assert result.tests == (("test_product", 2, 8),)
    assert not kernel_result(SuiteRun(cells=cells[2:])).caught


def test_results_are_plain_json(tmp_path: Path) -> None:
    ((job, _),) = in_children([_job(tmp_path, "one", _works)], 1)
    found = json.loads(job.result.read_text())["results"]
    assert found == [result.as_dict() for result in _works().results]
    assert read_result(job.result) == _works()
