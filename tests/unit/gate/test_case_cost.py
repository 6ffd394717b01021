from __future__ import annotations

import json
from typing import Any

import pytest

from mxcheck.gate.case_cost import Cost, cost_from_dict

COST = Cost(device="cuda-sm90", tokens=510, seconds={"forward": 1.02, "convert": 0.0}, peak_bytes=7)


def test_a_cost_arrives_as_it_was_sent() -> None:
    assert cost_from_dict(json.loads(json.dumps(COST.as_dict()))) == COST


def test_seconds_are_for_a_thousand_tokens() -> None:
    assert COST.per_thousand("forward") == pytest.approx(2.0)
    assert COST.per_thousand("convert") == 0.0
    assert COST.per_thousand("layers") is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device": 3}, "device of a cost must be text, got 3"),
        ({"tokens": 0}, "tokens of a cost must be a whole number from 1 on, got 0"),
        ({"tokens": True}, "tokens of a cost must be a whole number from 1 on, got True"),
        ({"peak_bytes": 1.5}, "peak_bytes of a cost must be a whole number from 0 on, got 1.5"),
        ({"seconds": [1]}, r"seconds of a cost must be of convert, digests, forward, .*, got \[1\]"),
        ({"seconds": {"tea": 1.0}}, "seconds of a cost must be of convert, "),
        ({"seconds": {"forward": -1.0}}, "seconds of forward must be a number from 0 on, got -1.0"),
        ({"seconds": {"forward": float("nan")}}, "seconds of forward must be a number from 0 on, got nan"),
        ({"seconds": {"forward": "1"}}, "seconds of forward must be a number from 0 on, got '1'"),
        ({"more": 1}, "a cost must be a table of device, peak_bytes, seconds, tokens, got "),
    ],
)
def test_what_is_no_cost_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        cost_from_dict({**COST.as_dict(), **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "cost", {}])
def test_what_is_no_table_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="a cost must be a table of "):
        cost_from_dict(data)
