"""Baselines of the format before this one: read strictly, and extended only where nothing moved."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_record import NOISE, build_full_record

from mxcheck.gate.baseline import BaselineError, decode, encode, seal_of
from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.drift import same_arithmetic
from mxcheck.gate.earlier import Earlier, extended, extension, read_earlier
from mxcheck.gate.record import Record
from mxcheck.gate.verdict import judge

#: What is measured now: every figure, and a fingerprint of the states that layers start from.
NOW = build_full_record(
    metrics={"own": [0.1, 0.2, 0.3, 0.4]},
    fingerprints={"weights": "a" * 64, "tokenizer": "b" * 64, "tokens": "c" * 64, "states": "s" * 64},
    noise=None,
)
NEW_FIELDS = ("kind", "subject", "predictions", "sublayers", "counters", "absent")


def contents(**changes: Any) -> dict[str, Any]:
    """A file of format 3, as its writer had it: of the same case, but for what it did not have."""
    data = build_full_record(metrics=NOW.metrics).as_dict()
    for name in NEW_FIELDS:
        del data[name]
    del data["noise"]["sublayers"]
    data |= {
        "format_version": 3,
        "sqnr": {"layers.0.up": 31.25},
        "digests": {"layers.0.up": {"weight": "d1" * 32, "operands": "e1" * 32}},
    }
    return {**data, **changes}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a sealed file of format 3 with these fields changed."""

    def write(**changes: Any) -> Path:
        data = contents(**changes)
        path = tmp_path / "case.json"
        path.write_text(json.dumps({**data, "seal": seal_of(data)}), encoding="utf-8")
        return path

    return write


def earlier(path: Path) -> Earlier:
    found = read_earlier(path)
    assert found is not None
    return found


def test_every_figure_is_read_and_what_is_missing_has_a_reason(write: Callable[..., Path]) -> None:
    found = earlier(write())
    then = found.record
    assert (then.kind, then.subject, then.digests) == ("recipe", "", {})
    missing = ("predictions", "sublayers", "counters")
    assert then.absent == dict.fromkeys(missing, "record format 3 has none")
    assert then.noise == NOISE
    assert then.fingerprints == {name: value for name, value in NOW.fingerprints.items() if name != "states"}
    for name in found.fields - {"fingerprints"}:
        assert getattr(then, name) == getattr(NOW, name)
    assert found.fields == contents().keys() - {"format_version", "digests", "sqnr", "environment", "noise"}


def test_noise_may_be_absent(write: Callable[..., Path]) -> None:
    assert earlier(write(noise=None)).record.noise is None


def test_a_file_of_this_format_is_none_of_it(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_text(encode(build_full_record()), encoding="utf-8")
    assert read_earlier(path) is None


# What adds only, and what does not


def test_what_only_adds_is_said_to(write: Callable[..., Path]) -> None:
    found = extension(earlier(write()), NOW)
    assert found.moved == ()
    assert found.adds_only
    assert found.within
    assert {name: one.max for name, one in found.drift.items()} == dict.fromkeys(
        ("reference", "loss", "kl"), 0.0
    )


def test_another_environment_is_no_change(write: Callable[..., Path]) -> None:
    assert extension(earlier(write(environment={"torch": "2.8.0"})), NOW).adds_only


def _another(value: Any) -> Any:
    """The least change of a value of any kind."""
    match value:
        case None:
            return "A"
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return math.nextafter(value, math.inf)
        case str():
            return f"{value}x"
        case list() if value:
            return [*value[:-1], _another(value[-1])]
        case list():
            return ["another"]
        case dict() if value:
            last = max(value)
            return {**value, last: _another(value[last])}
        case _:
            return {"another": "value"}


FIELDS = sorted(contents().keys() - {"format_version", "digests", "sqnr", "environment", "noise"})


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_that_moved_by_the_least_is_named(write: Callable[..., Path], name: str) -> None:
    found = extension(earlier(write(**{name: _another(contents()[name])})), NOW)
    assert found.moved == (name,)
    assert not found.adds_only


def test_other_arithmetic_is_told_by_the_drift_and_its_bounds(write: Callable[..., Path]) -> None:
    losses = [loss + 1e-4 for loss in NOW.sequence_losses]  # four times the noise is 3.2e-4
    near = earlier(write(arithmetic="0" * 64, sequence_losses=losses))
    found = extension(near, NOW)
    assert not same_arithmetic(NOW, near.record)
    assert found.moved == ("arithmetic", "sequence_losses")
    assert found.within
    far = [loss + 1e-2 for loss in NOW.sequence_losses]
    assert not extension(earlier(write(arithmetic="0" * 64, sequence_losses=far)), NOW).within
    assert not extension(earlier(write(sequence_losses=losses)), NOW).within  # where it multiplies alike


def test_other_sequences_cannot_be_paired(write: Callable[..., Path]) -> None:
    lists = ("sequence_losses", "sequence_kl", "reference_losses", "reference_entropies")
    three = {name: getattr(NOW, name)[:3] for name in lists} | {"metrics": {}}
    before = earlier(write(**three))
    with pytest.raises(ValueError, match="cannot pair 4 sequences with 3"):
        extension(before, NOW)


# The noise


MEASURED = build_full_record().noise
assert MEASURED is not None


def test_the_accepted_noise_is_kept_and_that_of_the_layers_added(write: Callable[..., Path]) -> None:
    record = extended(earlier(write()), NOW, MEASURED)
    assert record == replace(NOW, noise=MEASURED)
    assert record.noise is not None
    assert replace(record.noise, sublayers=None) == NOISE


def test_where_none_was_accepted_the_measured_noise_is_taken(write: Callable[..., Path]) -> None:
    assert extended(earlier(write(noise=None)), NOW, MEASURED).noise == MEASURED


@pytest.mark.parametrize(
    "name",
    [
        "environments",
        *(
            f"{quantity}_{statistic}"
            for quantity in ("reference", "loss", "kl")
            for statistic in ("median", "rms", "max")
        ),
    ],
)
def test_noise_that_moved_is_refused(write: Callable[..., Path], name: str) -> None:
    moved = replace(MEASURED, **{name: _another(getattr(MEASURED, name))})
    with pytest.raises(
        ValueError, match=rf"its noise is not \({name}\); accept it anew with --snapshot-update$"
    ):
        extended(earlier(write()), NOW, moved)


# What is no such file


def refusal(path: Path) -> str:
    with pytest.raises(BaselineError) as caught:
        read_earlier(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("version", [2, 5, "3", None])
def test_another_version_is_refused(write: Callable[..., Path], version: object) -> None:
    message = refusal(write(format_version=version))
    assert f"has format version {version!r}; allowed: 3, and 4, which is left alone" in message


def test_a_broken_seal_is_refused(write: Callable[..., Path]) -> None:
    path = write()
    path.write_text(path.read_text().replace('"kl": 0.001', '"kl": 0.002'), encoding="utf-8")
    assert "do not bear its seal; restore it from version control" in refusal(path)
    unsealed = contents()
    path.write_text(json.dumps(unsealed), encoding="utf-8")
    assert "do not bear its seal" in refusal(path)


@pytest.mark.parametrize("text", ["", "{", "<<<<<<< HEAD\n", "\ufeff{}"])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "case.json"
    path.write_text(text, encoding="utf-8")
    assert "corrupt baseline" in refusal(path)


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing.json") == f"no baseline at {tmp_path / 'missing.json'}"
    path = tmp_path / "case.json"
    path.write_bytes(b'{"kl": "\xff"}')
    assert "corrupt baseline" in refusal(path)


def test_a_number_that_json_has_not_is_refused(write: Callable[..., Path]) -> None:
    path = write()
    path.write_text(path.read_text().replace('"kl": 0.001', '"kl": NaN'), encoding="utf-8")
    assert "corrupt baseline" in refusal(path)


@pytest.mark.parametrize(("data", "version"), [("[1]", "'list'"), ("null", "'NoneType'"), ("{}", "None")])
def test_what_is_no_baseline_has_no_version(tmp_path: Path, data: str, version: str) -> None:
    path = tmp_path / "case.json"
    path.write_text(data, encoding="utf-8")
    assert f"has format version {version}" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kll": 1.0}, "unknown fields: ['kll']"),
        ({"kl": "0.1"}, "kl must be"),
        ({"kl": None}, "kl is absent without a reason"),
        ({"noise": [1.0]}, "case.json"),
        ({"noise": {"loss_rms": 1.0}}, "missing fields: "),
        ({"noise": {**contents()["noise"], "more": 1.0}}, "unknown fields: ['more']"),
    ],
)
def test_a_sealed_file_of_other_fields_is_refused(
    write: Callable[..., Path], changes: dict[str, Any], words: str
) -> None:
    message = refusal(write(**changes))
    assert "corrupt baseline" in message
    assert words in message


@pytest.mark.parametrize("name", [*FIELDS, "noise"])
def test_a_sealed_file_without_a_field_is_refused(tmp_path: Path, name: str) -> None:
    data = contents()
    del data[name]
    path = tmp_path / "case.json"
    path.write_text(json.dumps({**data, "seal": seal_of(data)}), encoding="utf-8")
    assert name in refusal(path)


def test_an_extended_record_is_a_baseline_that_its_case_passes(write: Callable[..., Path]) -> None:
    text = encode(extended(earlier(write()), NOW, MEASURED))
    accepted: Record = decode(text, where="x")
    assert judge(NOW, accepted, Bounds(kl=1.0, rise=1.0)).passed
