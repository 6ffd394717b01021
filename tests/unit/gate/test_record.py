"""The record as plain data."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mxcheck.gate.case import Case
from mxcheck.gate.record import Record, record_from_dict

MakeRecord = Callable[..., Record]


@pytest.mark.parametrize("changes", [pytest.param({}, id="noise"), pytest.param({"noise": None}, id="none")])
def test_round_trip_through_json(make_record: MakeRecord, changes: dict[str, Any]) -> None:
    record = make_record(**changes)
    assert record_from_dict(json.loads(json.dumps(record.as_dict()))) == record


@pytest.mark.parametrize(
    ("tier", "options"),
    [pytest.param("B", ["block16"], id="tier"), pytest.param(None, [], id="whole-model")],
)
def test_id_is_the_case_s(make_record: MakeRecord, tier: str | None, options: list[str]) -> None:
    case = Case(model="ref-llama", precision="fp8_e4m3", tier=tier, options=tuple(options))
    assert make_record(tier=tier, options=options).id == case.id


def test_missing_and_unknown_fields_are_named(make_record: MakeRecord) -> None:
    data = make_record().as_dict()
    del data["kl"], data["entropy"]
    data["kll"] = 0.1
    with pytest.raises(ValueError, match=r"missing fields: \['entropy', 'kl'\], unknown fields: \['kll'\]"):
        record_from_dict(data)
