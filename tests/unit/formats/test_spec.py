from __future__ import annotations

from typing import Any

import pytest

from mxcheck.formats import codes, oracle
from mxcheck.formats.spec import ROUNDINGS, SCALE_RULES, CastSpec, block_count, resolve_axis


def test_defaults_are_ocp() -> None:
    spec = CastSpec(format="mxint8")
    assert (spec.axis, spec.block_size, spec.scale_rule, spec.rounding) == (-1, 32, "floor", "even")
    assert spec.element.name == "mxint8"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        pytest.param({"format": "fp8"}, "unknown format 'fp8'; allowed: fp8_e4m3, ", id="format"),
        pytest.param({"scale_rule": "flor"}, "unknown scale rule 'flor'.*did you mean 'floor'", id="rule"),
        pytest.param({"rounding": "evn"}, "unknown rounding 'evn'.*did you mean 'even'", id="rounding"),
        pytest.param({"tail": "padd"}, "unknown tail 'padd'; allowed: pad, error; did you", id="tail"),
        pytest.param({"block_size": 0}, "block size must be at least 1, got 0", id="block size"),
        pytest.param({"block_size": 32.0}, "block size must be an integer, got 32.0", id="float"),
        pytest.param({"axis": True}, "axis must be an integer, got True", id="bool"),
    ],
)
def test_wrong_values(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        CastSpec(**{"format": "fp8_e4m3", **wrong})
    assert "\n" not in str(caught.value)


def test_block_count() -> None:
    spec = CastSpec(format="mxint8")
    assert [block_count(length, spec) for length in (1, 32, 33, 64)] == [1, 1, 2, 2]
    strict = CastSpec(format="mxint8", tail="error")
    assert block_count(64, strict) == 2
    with pytest.raises(ValueError, match=r"axis -1 has 33 elements.*32.*tail='pad'"):
        block_count(33, strict)


def test_axis_out_of_range() -> None:
    assert resolve_axis(3, -1) == 2
    with pytest.raises(ValueError, match=r"axis 2 is out of range.*allowed: -2 to 1"):
        resolve_axis(2, 2)
    with pytest.raises(ValueError, match="0 dimensions"):
        resolve_axis(0, -1)


def test_the_oracle_knows_every_rule_and_rounding() -> None:
    assert set(oracle._SCALE_RULES) == set(oracle._ARRAY_SCALE_RULES) == set(SCALE_RULES)
    assert set(codes.ROUNDINGS) == set(oracle._ARRAY_ROUNDINGS) == set(ROUNDINGS)
