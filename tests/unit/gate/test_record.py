"""The record as plain data."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from sample_record import build_full_record

from mxcheck.gate.case import Case
from mxcheck.gate.record import OPTIONAL, Record, record_from_dict

MakeRecord = Callable[..., Record]


@pytest.mark.parametrize("changes", [pytest.param({}, id="noise"), pytest.param({"noise": None}, id="none")])
def test_round_trip_through_json(make_record: MakeRecord, changes: dict[str, Any]) -> None:
    for record in (make_record(**changes), build_full_record(**changes)):
        assert record_from_dict(json.loads(json.dumps(record.as_dict()))) == record
        assert record_from_dict(record.as_dict()) == record


@pytest.mark.parametrize(
    ("tier", "options"),
    [pytest.param("B", ["block16"], id="tier"), pytest.param(None, [], id="whole-model")],
)
def test_id_is_the_case_s(make_record: MakeRecord, tier: str | None, options: list[str]) -> None:
    case = Case(model="ref-llama", precision="mxfp8_e4m3", tier=tier, options=tuple(options))
    assert make_record(tier=tier, options=options).id == case.id


def test_former_names_are_read_as_todays(make_record: MakeRecord) -> None:
    record = make_record(options=["global-fp4_e2m1"])
    data = record.as_dict()
    former = {**data, "precision": "fp8_e4m3", "recipe": {**data["recipe"], "precision": "fp8_e4m3"}}
    found = record_from_dict(former)
    assert found == make_record(options=["global-e2m1"])
    assert (found.precision, found.recipe["precision"], found.options) == (
        *("mxfp8_e4m3", "mxfp8_e4m3"),
        ["global-e2m1"],
    )


def test_missing_and_unknown_fields_are_named(make_record: MakeRecord) -> None:
    data = make_record().as_dict()
    del data["kl"], data["entropy"]
    data["kll"] = 0.1
    with pytest.raises(ValueError, match=r"missing fields: \['entropy', 'kl'\], unknown fields: \['kll'\]"):
        record_from_dict(data)


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_figure_is_absent_with_a_reason_or_there(name: str) -> None:
    record = build_full_record()
    lost = {**record.as_dict(), name: None}
    with pytest.raises(ValueError, match=rf"^{name} is absent without a reason$"):
        record_from_dict(lost)
    with pytest.raises(ValueError, match=rf"^{name} is there, and absent too$"):
        record_from_dict({**record.as_dict(), "absent": {name: "a reason"}})
    back = record_from_dict({**lost, "absent": {name: "a reason"}})
    assert (getattr(back, name), back.absent) == (None, {name: "a reason"})


LISTS = ("reference_losses", "reference_entropies", "sequence_losses", "sequence_kl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "else"}, "kind must be one of recipe, .*, got 'else'"),
        ({"fingerprints": {"weight": "x"}}, "unknown fingerprint 'weight'; allowed: weights, .*did you mean"),
        ({"kl": "0.1"}, "kl must be number or None, got '0.1'"),
        ({"predictions": {}}, "predictions: missing fields"),
        ({"predictions": []}, r"predictions must be table or None, got \[\]"),
        ({"sublayers": {"a": {}}}, "a: missing fields"),
        ({"counters": {}}, "counters: missing"),
        ({"digests": {"a": {"weight": "x"}}}, "digests of a must be of codes, scales or operands"),
        ({"digests": {"a": {"codes": "x"}}}, "a digest must be a table of rows and groups, got 'x'"),
        ({"noise": {"environments": []}}, "missing fields: "),
        ({"noise": {**build_full_record().as_dict()["noise"], "kl_max": -1.0}}, "kl_max must be 0 or more"),
        ({"sequence_losses": [2.0, "x", 2.0, 2.0]}, "sequence_losses must be list of number"),
        ({"sequence_losses": [2.0, 10**400, 2.0, 2.0]}, "sequence_losses must be list of number"),
        ({"sequence_losses": [2.0] * 3}, "lists by sequence must have one length of at least 1"),
        ({name: [] for name in LISTS}, "lists by sequence must have one length of at least 1"),
        ({"metrics": {"own": [1.0]}}, "lists by sequence must have one length of at least 1"),
        ({"scored_tokens": 0}, "scored_tokens must be at least 4, got 0"),
        ({"weight_bytes": -1}, "weight_bytes must be at least 0, got -1"),
        ({"fingerprints": {"weights": None}}, "fingerprints must be table of text"),
        ({"options": [5]}, "options must be list of text"),
        ({"corpus": {}}, "corpus must say which text was used"),
        ({"tier": "B/../B"}, "the tier of a case cannot be called"),
        ({"subject": "x"}, "a case of kind recipe has a precision, and no subject"),
        ({"model": "../m"}, "the model of a case cannot be called"),
        ({"replaced": {"layers.0\ud800": "mlp"}}, "replaced must be table of text"),
        ({"replaced": {"layers.0\x1b[2J": "mlp"}}, "replaced must be table of text"),
        (
            {"absent": {"sublayers: layers.0": " "}},
            "'sublayers: layers.0' is absent, and its reason is empty",
        ),
    ],
)
def test_a_spoilt_record_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        record_from_dict({**build_full_record().as_dict(), **change})


def test_the_kl_is_given_or_the_reason_is() -> None:
    assert build_full_record().exact_kl == (0.001, [0.001, 0.0011, 0.0009, 0.001])
    with pytest.raises(ValueError, match="ref-llama-mxfp8_e4m3-B has no KL: an engine tells no logits"):
        _ = build_full_record(kl=None, absent={"kl": "an engine tells no logits"}).exact_kl
