"""Counters as JSON: there and back, and everything refused that cannot be."""

import copy
import json
from typing import Any

import pytest

from mxcheck.gate.counters import Absent, Counters, OperandCounts, counters_from_dict

PLAIN = {
    "elements": 64,
    "saturated": 3,
    "flushed": 2,
    "top": 5,
    "nan": 1,
    "inf": 0,
    "zero_blocks": 1,
    "scales": {"0": 1, "127": 1},
}
DATA: dict[str, Any] = {
    "operands": {
        "layers.0": {"weights": PLAIN, "activations": {"absent": "the pass did not call it"}},
        "layers.1": {"queries": {**PLAIN, "scales": {"absent": "the scale is an fp32 number"}}},
    },
    "expert_rows": {"layers.2": [3, 0, 5]},
}


def test_there_and_back() -> None:
    counters = counters_from_dict(json.loads(json.dumps(DATA)))
    assert counters.as_dict() == DATA
    assert counters.operands["layers.0"]["activations"] == Absent(reason="the pass did not call it")
    weights = counters.operands["layers.0"]["weights"]
    assert isinstance(weights, OperandCounts)
    assert weights.scales == {0: 1, 127: 1}
    assert counters.expert_rows == {"layers.2": (3, 0, 5)}
    assert counters == counters_from_dict(counters.as_dict())
    assert isinstance(counters, Counters)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"saturated": -1}, "saturated must be a whole number, got -1; allowed: 0 to 64, the elements"),
        ({"top": 65}, "top must be a whole number, got 65"),
        ({"nan": 1.0}, "nan must be a whole number, got 1.0"),
        ({"inf": True}, "inf must be a whole number, got True"),
        ({"elements": "64"}, "elements must be a whole number, got '64'"),
        ({**dict.fromkeys(PLAIN, 0), "scales": {}}, "elements must be at least 1, got 0"),
        ({"flushed": 60}, "flushed and top are 65 together, more than the 64 elements"),
        ({"inf": 64}, "nan and inf are 65 together"),
        ({"scales": {"256": 2}}, "a scale code is 256; allowed: 0 to 255"),
        ({"scales": {"07": 2}}, "a scale code is '07'; allowed: 0 to 255, in decimal digits"),
        ({"scales": {"x": 2}}, "a scale code is 'x'"),
        ({"scales": {"7": -2}}, r"scales\[7\] must be a whole number, got -2"),
        ({"scales": {}}, "scales count 0 blocks; allowed: from the 1 zero blocks to the 64 elements"),
        ({"scales": {"1": 40, "2": 40}}, "scales count 80 blocks"),
        ({"scales": {"absent": ""}}, "absent must give a reason, got ''"),
        ({"scales": None}, "scales must be a table by name, got None"),
        ({"rows": 1}, "missing none, unknown rows"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_counts_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    data = copy.deepcopy(DATA)
    data["operands"]["layers.0"]["weights"] = {**PLAIN, **change}
    with pytest.raises(ValueError, match=f"^counters of layers.0, weights.*{message}"):
        counters_from_dict(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"^counters must be a table by name, got \[\]"),
        ({"operands": {}}, r"^counters: missing expert_rows, unknown none; allowed: operands, expert_rows$"),
        ({**DATA, "more": 1}, "unknown more"),
        ({**DATA, "operands": {"a": {}}}, "^counters of a: missing activations, "),
        ({**DATA, "operands": {"a": {"bias": PLAIN}}}, "unknown bias"),
        ({**DATA, "operands": {1: {}}}, "^operands must be a table by name"),
        (
            {**DATA, "operands": {"a": {"weights": {"elements": 1}}}},
            "^counters of a, weights: missing flushed",
        ),
        ({**DATA, "operands": {"a": {"weights": {"absent": 3}}}}, "^absent must give a reason, got 3"),
        ({**DATA, "expert_rows": {"a": []}}, r"^expert_rows of a must be a list of counts, got \[\]"),
        ({**DATA, "expert_rows": {"a": [1, -1]}}, "^expert_rows of a must be a whole number, got -1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tables_that_cannot_be_are_refused(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        counters_from_dict(data)
