"""The resident model: what a session remembers of it, what it holds of the host, and what it lets go of."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from mxcheck.gate.case import Case
from mxcheck.gate.record import Record
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.measure.case_run import run_case
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.model_session import ModelSession
from mxcheck.models.zoo.load import load
from mxcheck.run.measurement_settings import Measuring

#: Enough for a model to become resident, and little to wait for.
SHORT = Measuring(max_samples=1, sequence_length=32)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that were loaded, by the real loader."""
    names: list[str] = []

    def counted(name: str, **arguments: Any) -> Any:
        names.append(name)
        return load(name, **arguments)

    monkeypatch.setattr("mxcheck.models.zoo.load.load", counted)
    return names


class Shared:
    """A host that has two devices for a model, and notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def pin(self) -> None:
        self.asked.append(("pin",))

    def take(self, label: str, *, device: str, whole: bool) -> dict[int, int]:
        self.asked.append(("take", label, device, whole))
        return {0: 100}

    def can_give_more(self, label: str) -> bool:
        return label == "ref-llama"

    def give_back(self) -> None:
        self.asked.append(("give back",))


def test_a_model_is_loaded_once_for_all_of_its_cases(loads: list[str]) -> None:
    with ModelSession(SHORT) as session:
        first = session.resident("ref-llama")
        assert session.resident("ref-llama") is first
        assert loads == ["ref-llama"]
        assert session.loading > 0
        session.keep_only("ref-llama")
        assert session.resident("ref-llama") is first
        session.keep_only("ref-neo")
        assert session.resident("ref-llama") is not first
    assert loads == ["ref-llama", "ref-llama"]


def test_a_label_stands_for_the_model_it_was_given_for(loads: list[str]) -> None:
    with ModelSession(Measuring(models={"mine": "ref-neo"}, max_samples=1, sequence_length=32)) as session:
        resident = session.resident("mine")
    assert (resident.label, loads) == ("mine", ["ref-neo"])


def test_a_model_that_failed_is_not_loaded_again_for_its_other_cases(loads: list[str]) -> None:
    session = ModelSession(Measuring(sequence_length=999))
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"^--mx-sequence-length=999: the tokens of ref-llama were sampled"
        ):
            session.resident("ref-llama")
    assert loads == ["ref-llama"]


def test_the_model_is_gone_when_the_session_is() -> None:
    with ModelSession(SHORT) as session:
        measure_case(session, Case(model="ref-llama", precision="mxint8", tier="A"))
        resident = session.resident("ref-llama")
        held = [weakref.ref(resident.loaded.model), weakref.ref(resident.text.tokens)]
        del resident
        gc.collect()
        assert None not in [one() for one in held]
    gc.collect()
    assert [one() for one in held] == [None, None]


def test_what_is_held_of_the_host_is_given_back_with_the_model() -> None:
    host = Shared()
    with ModelSession(SHORT, host=host) as session:
        session.resident("ref-llama")
        assert host.asked == [("give back",), ("pin",), ("take", "ref-llama", "cpu", False)]
    assert host.asked[3:] == [("give back",)]


def test_and_where_the_session_ends_badly() -> None:
    host = Shared()
    with pytest.raises(ValueError, match="unknown model 'none'"), ModelSession(SHORT, host=host) as session:
        session.resident("none")
    assert host.asked[-1] == ("give back",)


def test_what_does_not_become_resident_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("mxcheck.models.zoo.load.load", load)
    host = Shared()
    session = ModelSession(SHORT, host=host)
    for whole, larger in ((False, True), (True, False)):
        host.asked.clear()
        with pytest.raises(MemoryError):
            session.resident("ref-llama")
        assert host.asked[-2:] == [("take", "ref-llama", "cpu", whole), ("give back",)]
        assert session.enlarge("ref-llama") == larger


def test_there_is_no_more_to_give_without_a_host_or_by_one_that_gave_all() -> None:
    assert not ModelSession(SHORT).enlarge("ref-llama")
    assert not ModelSession(SHORT, host=Shared()).enlarge("ref-neo")


def test_its_folder_goes_with_it_and_a_shared_one_stays(tmp_path: Path) -> None:
    session = ModelSession(SHORT)
    own = session.shared
    assert own.is_dir()
    assert ModelSession(SHORT, shared=tmp_path).shared == tmp_path
    del session
    gc.collect()
    assert not own.exists()
    assert tmp_path.is_dir()


def test_one_thread_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert ModelSession(SHORT).threads == 2
        monkeypatch.delenv("OMP_NUM_THREADS")
        session = ModelSession(SHORT)
        assert session.threads == 1
        assert torch.get_num_threads() == 2, "asking changes nothing"
    finally:
        torch.set_num_threads(before)


def test_a_case_is_measured_at_one_thread_and_the_process_keeps_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    case = Case(model="ref-llama", precision="mxfp8_e4m3", tier="A")
    counts: list[int] = []

    def tell(_: dict[str, Any]) -> None:
        counts.append(torch.get_num_threads())

    def compare(record: Record) -> CaseResult:
        counts.append(torch.get_num_threads())
        return CaseResult(case=case, outcome=Outcome.PASSED, record=record)

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for measured in (
            lambda session: session.resident("ref-llama"),
            lambda session: measure_case(session, case),
            lambda session: run_case(session, case, compare, baselines=tmp_path),
        ):
            counts.clear()
            with ModelSession(SHORT, tell=tell) as session:
                measured(session)
            assert torch.get_num_threads() == 3
            # "loading" is told before there is anything to compute
            assert {*counts[1:]} == {1}
    finally:
        torch.set_num_threads(before)


#: What OpenMP says of its policy when it is loaded, and what the environment says afterwards.
POLICY = """
import os, sys
from pathlib import Path
import mxcheck
sys.modules["transformers"] = None  # which comes after torch, and would take as long again
from mxcheck.measure.case_run import run_case
from mxcheck.measure.measure_case import measure_case
session = mxcheck.ModelSession()
case = mxcheck.Case(model="no-such-model", precision="bf16")
try:
    {use}
except (ValueError, ImportError):
    pass
assert "torch" in sys.modules
print(os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use", "own"),
    [
        ("session.device", None),
        ("session.resident('no-such-model')", None),
        ("measure_case(session, case)", None),
        ("run_case(session, case, print, baselines=Path())", None),
        ("run_case(session, case, print, baselines=Path())", "ACTIVE"),
    ],
    ids=["device", "resident", "measured", "held", "own"],
)
def test_torch_s_threads_wait_passively_and_the_environment_stays(use: str, own: str | None) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "OMP_"))}
    policy = {} if own is None else {"OMP_WAIT_POLICY": own}
    done = subprocess.run(
        [sys.executable, "-c", POLICY.format(use=use)],
        env={**kept, **policy, "OMP_DISPLAY_ENV": "TRUE", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"OMP_WAIT_POLICY = '{own or 'PASSIVE'}'" in done.stderr
    assert done.stdout.split()[-1] == str(own)


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(ValueError, match="no CUDA device here; use --mx-device=cpu or auto"):
        ModelSession(Measuring(device="cuda")).resident("ref-llama")
    assert ModelSession().device == ModelSession().device_class == "cpu"


def test_each_step_is_told() -> None:
    told: list[dict[str, Any]] = []
    measuring = Measuring(max_samples=3, sequence_length=32, batch_size=2)
    with ModelSession(measuring, tell=told.append) as session:
        measure_case(session, Case(model="ref-llama", precision="bf16"))
    # the reference, then the case: each of two batches
    measured = [
        {"do": "measure", "batches": 2, "length": 32},
        {"do": "batch", "sequences": 2},
        {"do": "batch", "sequences": 1},
    ]
    aside = ("what", "memory")
    assert [{key: one[key] for key in one if key not in aside} for one in told if one["do"] != "step"] == [
        *measured,
        *measured,
    ]
    assert [one["what"] for one in told if "what" in one] == [
        *("ref-llama loading", "ref-llama reference"),
        *("ref-llama-bf16 converting", "ref-llama-bf16"),
    ]
    assert all(one["memory"] > 0 for one in told if one["do"] == "batch")


def test_a_model_that_is_loaded_anew_is_let_go_of_after_each_case() -> None:
    with ModelSession(Measuring(device="cpu", max_samples=1)) as session:
        first = session.resident("wide-gpt2")
        session.case_is_over()
        second = session.resident("wide-gpt2")
        assert second is not first
        assert second.loaded.weights_fingerprint == first.loaded.weights_fingerprint
        kept = session.resident("ref-llama")
        session.case_is_over()
        assert session.resident("ref-llama") is kept
