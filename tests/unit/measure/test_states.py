"""What a model's layers start from: stored at the first acceptance, read from there later, held by step 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mxcheck.evaluation.layer_states import LayerStates, load_states, save_states
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.case import Case
from mxcheck.gate.record import Record
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.gate.verdict import judge
from mxcheck.measure.case_run import run_case
from mxcheck.measure.measure_case import measure_case
from mxcheck.measure.model_session import ModelSession
from mxcheck.run.measurement_settings import Measuring

CASE = Case(model="ref-llama", precision="mxint8", tier="A")
OTHER = replace(CASE, precision="mxfp4_e2m1")


def short(folder: Path, *, dtype: str | None = None) -> Measuring:
    return Measuring(max_samples=1, sequence_length=48, baselines=folder, dtype=dtype)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def own_states(session: ModelSession) -> LayerStates:
    states = session.resident("ref-llama").states
    assert isinstance(states, LayerStates)
    return states


@pytest.fixture
def session(tmp_path: Path) -> Iterator[ModelSession]:
    (tmp_path / CASE.model).mkdir()  # a project's own folder: ours are not read beside it
    with ModelSession(short(tmp_path)) as session:
        yield session


@pytest.fixture
def stored(session: ModelSession, tmp_path: Path) -> Path:
    """What a first acceptance leaves."""
    session.keep_states("ref-llama")
    (name,) = files(tmp_path)
    return tmp_path / name


def with_a_layer_moved(states: LayerStates) -> LayerStates:
    """Other states of the same layers, as another machine, or another text, would have stored."""
    name = "model.layers.1"
    return replace(states, layers={**states.layers, name: states.layers[name] * 2})


def test_a_measurement_stores_nothing(session: ModelSession, tmp_path: Path) -> None:
    record = measure_case(session, CASE)
    assert record.fingerprints["states"] == own_states(session).digest
    assert files(tmp_path) == []


def test_an_acceptance_stores_them_once_under_the_weights_fingerprint(
    session: ModelSession, stored: Path
) -> None:
    weights = session.resident("ref-llama").loaded.weights_fingerprint
    assert stored.relative_to(session.measuring.baselines).as_posix() == (
        f"ref-llama/states-{weights[:8]}.safetensors"
    )
    assert load_states(stored, weights=weights).digest == own_states(session).digest
    before = stored.stat()
    session.keep_states("ref-llama")
    assert (stored.stat().st_mtime_ns, stored.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_states_that_another_process_stored_meanwhile_are_refused(
    session: ModelSession, stored: Path
) -> None:
    """A record of other states would be red in step 1 as soon as it is held."""
    weights = session.resident("ref-llama").loaded.weights_fingerprint
    save_states(with_a_layer_moved(own_states(session)), stored, weights=weights)
    before = stored.read_bytes()
    with pytest.raises(
        ValueError,
        match=r"was written after ref-llama had been measured, from other states .* run this again",
    ):
        session.keep_states("ref-llama")
    assert stored.read_bytes() == before


def test_the_next_run_starts_from_what_is_stored(session: ModelSession, stored: Path) -> None:
    """States that this machine would not come to by itself: figures must be theirs."""
    own = measure_case(session, CASE)
    weights = own.fingerprints["weights"]
    save_states(with_a_layer_moved(own_states(session)), stored, weights=weights)
    with ModelSession(session.measuring) as later:
        record = measure_case(later, CASE)
        kept = own_states(later)
    assert record.fingerprints["states"] == kept.digest == load_states(stored, weights=weights).digest
    assert record.fingerprints["states"] != own.fingerprints["states"]
    assert own.sublayers is not None
    assert record.sublayers is not None
    moved = {place for place, error in record.sublayers.items() if error != own.sublayers[place]}
    assert moved == {f"model.layers.1.{part}" for part in ("attention", "mlp", "layer")}
    assert record.sequence_losses == own.sequence_losses, "the states are for the layers alone"


def test_without_the_file_the_accepting_machine_comes_to_the_same_states(
    session: ModelSession, stored: Path
) -> None:
    accepted = measure_case(session, CASE)
    stored.unlink()
    with ModelSession(session.measuring) as later:
        assert measure_case(later, CASE) == accepted
    assert not stored.exists()


def test_a_model_loaded_in_another_type_has_states_of_its_own_beside_them(
    session: ModelSession, stored: Path, tmp_path: Path
) -> None:
    before = stored.read_bytes()
    with ModelSession(short(tmp_path, dtype="bfloat16")) as other:
        other.keep_states("ref-llama")
        assert own_states(other).digest != own_states(session).digest
    assert len(files(tmp_path)) == 2
    assert stored.read_bytes() == before


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda data: data[:-10], "not a readable safetensors file"),
        (lambda _: b"", "not a readable safetensors file"),
        (lambda data: data[:-10] + bytes([data[-10] ^ 1]) + data[-9:], "damaged"),
    ],
    ids=["cut", "empty", "one bit"],
)
def test_a_damaged_file_is_one_line_and_every_case_of_the_model_red(
    session: ModelSession, stored: Path, spoil: Callable[[bytes], bytes], why: str
) -> None:
    stored.write_bytes(spoil(stored.read_bytes()))
    damaged = stored.read_bytes()

    def compare(record: Record) -> CaseResult:
        return pytest.fail(f"{record.id} was measured")

    with ModelSession(session.measuring) as later:
        for case in (CASE, OTHER):
            result = run_case(later, case, compare, baselines=session.measuring.baselines)
            assert result.outcome is Outcome.ERROR
            assert result.message.startswith(f"{case.id}: {stored}: {why}")
            assert "restore it from version control" in result.message
            assert "\n" not in result.message
    assert stored.read_bytes() == damaged


def test_step_1_names_states_that_are_not_the_accepted_ones(session: ModelSession, stored: Path) -> None:
    accepted = measure_case(session, CASE)
    bounds = Bounds(kl=1.0, rise=1.0)
    assert judge(accepted, accepted, bounds).passed
    weights = accepted.fingerprints["weights"]
    save_states(with_a_layer_moved(own_states(session)), stored, weights=weights)
    with ModelSession(session.measuring) as later:
        verdict = judge(measure_case(later, CASE), accepted, bounds)
    assert [check.key for check in verdict.failures if check.step == 1] == ["states"]
    (named,) = [check.message for check in verdict.failures if check.step == 1]
    assert named.startswith("states are not the accepted ones: ")


def test_workers_that_accept_at_once_do_each_other_no_harm(session: ModelSession, stored: Path) -> None:
    """Each writes the whole file, or sees that of another: a reader never meets a part."""
    states, weights = own_states(session), session.resident("ref-llama").loaded.weights_fingerprint
    other = with_a_layer_moved(states)
    digests = {states.digest, other.digest}

    def write(one: LayerStates) -> None:
        for _ in range(30):
            save_states(one, stored, weights=weights)

    def read(_: int) -> set[str]:
        return {load_states(stored, weights=weights).digest for _ in range(60)}

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, one) for one in (states, other)]
        readers = [pool.submit(read, number) for number in range(2)]
        for writer in writers:
            writer.result()
        seen = set().union(*(reader.result() for reader in readers))
    assert seen <= digests
    assert files(session.measuring.baselines) == [
        stored.relative_to(session.measuring.baselines).as_posix()
    ], "nothing is left half written"


def test_states_that_another_process_stored_meanwhile_are_not_those_of_this_record(
    session: ModelSession, tmp_path: Path
) -> None:
    """A record must not name states that nobody can read any more."""
    resident = session.resident("ref-llama")
    weights = resident.loaded.weights_fingerprint
    path = session.states_path("ref-llama", weights)
    save_states(own_states(session), path, weights=weights)
    session.keep_states("ref-llama")  # by a process that multiplies as this one does: the same
    save_states(with_a_layer_moved(own_states(session)), path, weights=weights)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="was written after ref-llama had been measured") as caught:
        session.keep_states("ref-llama")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert files(tmp_path) == [path.relative_to(tmp_path).as_posix()]


def test_a_model_whose_states_cannot_be_had_says_why_and_stores_none(
    monkeypatch: pytest.MonkeyPatch, session: ModelSession, tmp_path: Path
) -> None:
    def none(*_: object) -> LayerStates:
        raise ValueError("it has no decoder layers")

    monkeypatch.setattr("mxcheck.evaluation.layer_states.reference_states", none)
    monkeypatch.setattr("mxcheck.gate.shipped.shipped", lambda: None)
    record = measure_case(session, CASE)
    assert (record.sublayers, record.absent) == (None, {"sublayers": "it has no decoder layers"})
    assert "states" not in record.fingerprints
    session.keep_states("ref-llama")
    assert files(tmp_path) == []


def test_the_stored_states_are_what_the_text_begins_with(session: ModelSession, stored: Path) -> None:
    states = load_states(stored, weights=session.resident("ref-llama").loaded.weights_fingerprint)
    assert torch.equal(states.tokens, session.resident("ref-llama").text.tokens[:1, :32])
