"""A case held against a file, accepted into it, or neither: on real files, through the real syrupy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from sample_record import NOISE, build_digests, build_record
from syrupy.assertion import SnapshotAssertion

from mxcheck.gate.absolute import Absolute
from mxcheck.gate.baseline import encode, read
from mxcheck.gate.bounds_tables import Bounds, read_bounds
from mxcheck.gate.check import Check, check
from mxcheck.gate.held_casts import KERNEL_OPERANDS
from mxcheck.gate.record import Noise, Record
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.gate.update import Update
from mxcheck.pytest_plugin.acceptance import settle

ACCEPTED = build_record()
SAME = build_record(noise=None)
NEAR = build_record(noise=None, sequence_losses=[loss + 5e-10 for loss in ACCEPTED.sequence_losses])
MOVED = build_record(noise=None, sequence_losses=[loss - 1e-3 for loss in ACCEPTED.sequence_losses])
OVER = replace(MOVED, kl=2.0, sequence_kl=[2.0] * 4)
MEASURED = replace(NOISE, environments=["measured now"])
COMMAND = "pytest --snapshot-update"
BOUNDS = Bounds(kl=1.0, rise=1.0)

Settle = Callable[..., CaseResult]


def ended(outcome: Outcome) -> CaseResult:
    """The end of what moved: stored, with nothing to say and nothing that it drifted from."""
    return CaseResult(case=MOVED.case, outcome=outcome, record=MOVED, bounds=BOUNDS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of an accepted case."""
    path = tmp_path / "case.json"
    path.write_text(encode(ACCEPTED), encoding="utf-8")
    return path


@pytest.fixture
def held(snapshot: SnapshotAssertion) -> Settle:
    """`settle` under the options of a run, with a noise that is measured only if it is asked for."""

    def settled(
        record: Record,
        path: Path,
        *,
        target: Path | None = None,
        update: bool = False,
        new_only: bool = False,
        recentre: bool = False,
        measure: bool = False,
        measure_noise: Callable[[], Noise] = lambda: pytest.fail("no noise was to be measured"),
        keep_inputs: Callable[[], None] = lambda: None,
        bounds: Bounds | None = BOUNDS,
        measure_absolute: Callable[[], Absolute] = lambda: pytest.fail("its bounds are known"),
        ask_the_oracle: Callable[[Record], Iterable[Check]] = lambda _: (),
    ) -> CaseResult:
        return settle(
            record,
            path=path,
            target=target or path,
            baseline_of=lambda other: path.with_name(f"{other.name}.json"),
            bounds=bounds,
            snapshot=SnapshotAssertion(
                session=snapshot.session,
                extension_class=snapshot.extension_class,
                test_location=snapshot.test_location,
                update_snapshots=update,
                update_new_snapshots_only=new_only,
            ),
            update=Update(changed=update, missing=new_only, recentre=recentre, measure=measure),
            accept_command=COMMAND,
            measure_noise=measure_noise,
            keep_inputs=keep_inputs,
            measure_absolute=measure_absolute,
            ask_the_oracle=ask_the_oracle,
        )

    return settled


def test_who_is_wrong_of_changed_casts_is_told_and_no_update_accepts_a_wrong_kernel(
    held: Settle, path: Path
) -> None:
    changed = replace(ACCEPTED, digests=build_digests(up="codes"), noise=None)

    def oracle(agrees: bool) -> Callable[[Record], Iterable[Check]]:
        return lambda accepted: [check(KERNEL_OPERANDS, agrees, f"asked of {accepted.id}")]

    wrong = held(changed, path, update=True, ask_the_oracle=oracle(False))
    assert (wrong.word, wrong.message.splitlines()[0]) == (
        "FAIL step 4",
        f"{changed.id}: step 4 (casts): asked of {changed.id}",
    )
    assert COMMAND not in wrong.message
    right = held(changed, path, ask_the_oracle=oracle(True))
    assert f"\n  asked of {changed.id}\n" in right.message
    assert COMMAND in right.message
    assert held(NEAR, path, ask_the_oracle=lambda _: pytest.fail("no cast changed")).word == "pass"


def test_what_is_as_accepted_passes(held: Settle, path: Path) -> None:
    result = held(NEAR, path)
    assert (result.word, result.message) == ("pass", "")
    assert result.drift is not None
    assert result.drift.max == pytest.approx(5e-10, rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"new_only": True}, {"update": True, "recentre": True}])
def test_what_moved_is_red_and_the_file_is_left_alone(
    held: Settle, path: Path, options: dict[str, bool]
) -> None:
    before = path.read_bytes()
    result = held(MOVED, path, **options)
    assert result.word == "FAIL step 6"
    assert "step 6 (drift)" in result.message
    assert COMMAND in result.message
    assert path.read_bytes() == before


def test_an_update_stores_it_with_the_noise_that_was_measured(held: Settle, path: Path) -> None:
    result = held(MOVED, path, update=True, measure_noise=lambda: MEASURED)
    assert result == ended(Outcome.UPDATED)
    assert read(path) == replace(MOVED, noise=MEASURED)


@pytest.mark.parametrize("options", [{"update": True}, {"new_only": True}])
def test_what_is_missing_is_accepted(held: Settle, tmp_path: Path, options: dict[str, bool]) -> None:
    path = tmp_path / "new" / "case.json"
    result = held(MOVED, path, **options, measure_noise=lambda: MEASURED)
    assert result == ended(Outcome.ACCEPTED)
    assert read(path) == replace(MOVED, noise=MEASURED)


def test_what_changed_on_another_device_goes_to_its_own_file(
    held: Settle, path: Path, tmp_path: Path
) -> None:
    before, target = path.read_bytes(), tmp_path / "case@cuda-sm90.json"
    result = held(MOVED, path, target=target, update=True, measure_noise=lambda: MEASURED)
    assert result.word == "accepted"
    assert read(target).sequence_losses == MOVED.sequence_losses
    assert path.read_bytes() == before


def test_an_update_leaves_what_is_within_tolerance(held: Settle, path: Path) -> None:
    before = path.read_bytes()
    assert held(NEAR, path, update=True).word == "pass"
    assert path.read_bytes() == before


@pytest.mark.parametrize("options", [{"update": True}, {"new_only": True}])
@pytest.mark.parametrize("there", [True, False], ids=["there", "missing"])
def test_what_breaks_its_bounds_is_never_accepted(
    held: Settle, path: Path, options: dict[str, bool], there: bool
) -> None:
    before = path.read_bytes()
    path = path if there else path.with_name("another.json")
    result = held(OVER, path, **options)
    assert result.word == ("FAIL step 5,6" if there else "FAIL step 5")
    assert COMMAND not in result.message
    assert path.exists() is there
    assert not there or path.read_bytes() == before


def test_recentring_keeps_the_noise(held: Settle, path: Path) -> None:
    assert held(NEAR, path, update=True, recentre=True).word == "recentred"
    assert read(path) == replace(NEAR, noise=ACCEPTED.noise)


def test_no_file_and_a_file_that_is_none_are_red(held: Settle, path: Path) -> None:
    missing = held(SAME, path.with_name("another.json"))
    assert missing.word == "FAIL missing"
    assert missing.message.startswith("ref-llama-mxfp8_e4m3-B: no accepted baseline at ")
    assert missing.message.endswith(f"; accept with: {COMMAND}")
    path.write_text("{}", encoding="utf-8")
    corrupt = held(SAME, path)
    assert corrupt.word == "FAIL corrupt"
    assert "format version None" in corrupt.message


def test_another_model_s_file_is_red(held: Settle, path: Path) -> None:
    result = held(replace(SAME, model="ref-moe"), path)
    assert result.word == "FAIL step 1"
    assert "another case: model is ref-moe, accepted ref-llama" in result.message


@pytest.mark.parametrize(
    ("record", "options", "keeps"),
    [
        pytest.param(MOVED, {"update": True}, True, id="updated"),
        pytest.param(NEAR, {"update": True, "recentre": True}, True, id="recentred"),
        pytest.param(NEAR, {}, False, id="held"),
        pytest.param(NEAR, {"update": True}, False, id="held by an update"),
        pytest.param(MOVED, {}, False, id="red"),
        pytest.param(MOVED, {"new_only": True}, False, id="red beside new ones"),
        pytest.param(OVER, {"update": True}, False, id="over bounds"),
    ],
)
def test_what_a_record_was_measured_from_is_kept_before_it_is_stored_and_only_then(
    held: Settle, path: Path, record: Record, options: dict[str, bool], keeps: bool
) -> None:
    """A run that dies between the two leaves a file that no record names, and not a record without it."""
    before, found = path.read_bytes(), []
    held(
        record,
        path,
        **options,
        measure_noise=lambda: MEASURED,
        keep_inputs=lambda: found.append(path.read_bytes()),
    )
    assert found == ([before] if keeps else [])
    assert (path.read_bytes() != before) is keeps


def test_what_cannot_be_kept_is_not_accepted(held: Settle, path: Path) -> None:
    def full() -> None:
        raise OSError("no space left on device")

    before = path.read_bytes()
    with pytest.raises(OSError, match="no space"):
        held(MOVED, path, update=True, measure_noise=lambda: MEASURED, keep_inputs=full)
    assert path.read_bytes() == before


# The first acceptance of a case that has no bounds

SOUND = Absolute(signed=(0.001,), compared=64)
OWN = Bounds(kl=1.0, rise=1.0, own=True)


@pytest.mark.parametrize("options", [{"update": True}, {"new_only": True}])
def test_a_first_acceptance_makes_the_line_of_its_bounds(
    held: Settle, tmp_path: Path, options: dict[str, bool]
) -> None:
    path = tmp_path / "ref-llama" / "case.json"
    result = held(
        MOVED, path, **options, bounds=None, measure_absolute=lambda: SOUND, measure_noise=lambda: MEASURED
    )
    assert (result.outcome, result.bounds) == (Outcome.ACCEPTED, None)
    assert read_bounds(path.parent)["default"] == {"mxfp8_e4m3-B": {"kl": 0.002}}
    assert read(path) == replace(MOVED, noise=MEASURED)


@pytest.mark.parametrize("bounds", [None, OWN])
@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Absolute(wrong={"weights of q": "2 of 64 values differ"}), "step 4 (casts): operands are not what"),
        (replace(SOUND, signed=(0.1,)), "step 5 (bounds): KL 0.001000 nats/token is 0.01 of what"),
    ],
)
def test_a_first_acceptance_refuses_what_is_not_sound(
    held: Settle, tmp_path: Path, bounds: Bounds | None, found: Absolute, words: str
) -> None:
    """Also where a line without a reason is left of an earlier acceptance."""
    path = tmp_path / "ref-llama" / "case.json"
    result = held(MOVED, path, update=True, bounds=bounds, measure_absolute=lambda: found)
    assert result.outcome is Outcome.FAILED
    assert words in result.message
    assert "no update accepts this" in result.message
    assert not path.exists()
    assert read_bounds(path.parent) == {}


def test_a_first_acceptance_refuses_what_costs_more_than_a_step_above_it(
    held: Settle, tmp_path: Path
) -> None:
    """Also where a record of other text lies there, which is passed over."""
    folder = tmp_path / "ref-llama"
    above = replace(MOVED, precision="mxfp6_e3m2", kl=5e-4, sequence_kl=[4.9e-4, 6.1e-4, 4e-4, 5e-4])
    other = replace(above, precision="mxfp8_e5m2", fingerprints={**MOVED.fingerprints, "tokens": "0" * 64})
    for record in (above, other):
        place = folder / f"{record.precision}-B.json"
        place.parent.mkdir(exist_ok=True)
        place.write_text(encode(record), encoding="utf-8")
    path = folder / "mxfp8_e4m3-B.json"
    result = held(MOVED, path, update=True, bounds=None, measure_absolute=lambda: SOUND)
    assert result.outcome is Outcome.FAILED
    assert "is wrong: mxfp8_e4m3-B costs more than mxfp6_e3m2-B (fewer significant bits" in result.message
    assert not path.exists()


def test_a_reason_lets_it_in(held: Settle, tmp_path: Path) -> None:
    path = tmp_path / "ref-llama" / "case.json"
    reasoned = replace(OWN, reason="trained for it")
    assert held(MOVED, path, update=True, bounds=reasoned, measure_noise=lambda: MEASURED).outcome is (
        Outcome.ACCEPTED
    )


def test_a_line_that_is_there_is_not_changed(held: Settle, tmp_path: Path) -> None:
    path = tmp_path / "ref-llama" / "case.json"
    path.parent.mkdir()
    text = "# mine\nfp8_e4m3-B = { kl = 0.5 }\n"
    (path.parent / "bounds.toml").write_text(text, encoding="utf-8")
    result = held(
        MOVED, path, update=True, bounds=OWN, measure_absolute=lambda: SOUND, measure_noise=lambda: MEASURED
    )
    assert result.outcome is Outcome.ACCEPTED
    assert (path.parent / "bounds.toml").read_text(encoding="utf-8") == text


def test_without_an_update_nothing_is_measured_and_nothing_written(held: Settle, tmp_path: Path) -> None:
    path = tmp_path / "ref-llama" / "case.json"
    result = held(MOVED, path, bounds=None)
    assert (result.outcome, result.record) == (Outcome.MISSING, MOVED)
    assert COMMAND in result.message
    assert not path.parent.exists()


def test_an_accepted_case_without_bounds_is_red(held: Settle, path: Path) -> None:
    result = held(SAME, path, bounds=None)
    assert result.outcome is Outcome.FAILED
    assert "no bounds for mxfp8_e4m3-B: restore bounds.toml beside its baseline" in result.message


@pytest.mark.parametrize("bounds", [BOUNDS, None])
def test_where_nothing_is_judged_nothing_is_red(held: Settle, path: Path, bounds: Bounds | None) -> None:
    before = path.read_bytes()
    for record in (SAME, MOVED, OVER):
        result = held(record, path, measure=True, bounds=bounds)
        assert (result.outcome, result.failures, result.message) == (Outcome.MEASURED, (), "")
    assert path.read_bytes() == before
