"""What a cast may be asked for: defaults, dialects, and every refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mxcheck.formats import codes, oracle
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.spec import (
    DIALECTS,
    NONFINITE,
    ROUNDINGS,
    SCALE_RULES,
    CastSpec,
    block_count,
    cast_spec,
    dialect,
    resolve_axis,
    scales_shape,
)
from validation.second_oracle import search

FP8 = {"fp8_e4m3", "fp8_e5m2"}


def test_defaults_are_ocp() -> None:
    spec = CastSpec(format="mxint8")
    assert (spec.axis, spec.block_size, spec.scale_rule, spec.rounding) == (-1, 32, "floor", "even")
    assert (spec.tail, spec.nonfinite, spec.random) == ("pad", "block", None)
    assert spec.element.name == "mxint8"
    assert spec == CastSpec(format="mxint8", **dialect("ocp"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        pytest.param(
            {"format": "fp8"}, "format 'fp8' may be fp8_e4m3 or fp8_e5m2 or fp8_tensor_e4m3 or ", id="format"
        ),
        pytest.param({"format": None}, "unknown format None; allowed: fp8_e4m3, ", id="no format"),
        pytest.param(
            {"scale_rule": "flor"},
            "unknown scale rule of fp8_e4m3 'flor'; allowed: floor, ceil, even, rceil, reciprocal; did you "
            "mean 'floor'",
            id="rule",
        ),
        pytest.param(
            {"scale_rule": "amax"},
            "unknown scale rule of fp8_e4m3 'amax'; allowed: floor, ceil, even, rceil, reciprocal",
            id="rule of another scale",
        ),
        pytest.param(
            {"format": "mxint8", "scale_rule": "even"},
            "unknown scale rule of mxint8 'even'; allowed: floor, ceil, rceil",
            id="rule of another element",
        ),
        pytest.param(
            {"format": "nvfp4", "block_size": 16},
            "unknown scale rule of nvfp4 'floor'; allowed: amax",
            id="E8M0 rule of nvfp4",
        ),
        pytest.param({"rounding": "evn"}, "unknown rounding 'evn'.*did you mean 'even'", id="rounding"),
        pytest.param(
            {"format": "nvfp4", "scale_rule": "amax", "block_size": 16, "rounding": "away"},
            "nvfp4 is defined with rounding 'even' only, got 'away'",
            id="rounding of nvfp4",
        ),
        pytest.param({"tail": "padd"}, "unknown tail 'padd'; allowed: pad, error; did you", id="tail"),
        pytest.param(
            {"nonfinite": "blck"},
            "unknown NaN/Inf policy 'blck'; allowed: block, element; did you mean 'block'",
            id="policy",
        ),
        pytest.param(
            {"format": "fp4_e2m1", "nonfinite": "element"},
            r"'element' \(dialect te\) is defined for fp8_e4m3 and fp8_e5m2 only, got fp4_e2m1; use 'block'",
            id="policy of fp8",
        ),
        pytest.param(
            {"format": "e4m3_row", "scale_rule": "amax", "block_size": None, "nonfinite": "element"},
            "is defined for fp8_e4m3 and fp8_e5m2 only, got e4m3_row; use 'block'",
            id="policy of E8M0",
        ),
        pytest.param({"block_size": 0}, "block size must be at least 1, got 0", id="block size"),
        pytest.param({"block_size": 32.0}, "block size must be an integer, got 32.0", id="float"),
        pytest.param({"block_size": True}, "block size must be an integer, got True", id="bool block size"),
        pytest.param({"block_size": None}, "block size must be an integer, got None", id="no block size"),
        pytest.param(
            {"format": "nvfp4", "scale_rule": "amax"},
            r"nvfp4 has the block size 16, got 32; leave block_size out \(of a CastSpec itself: give 16\)",
            id="nvfp4 by 32",
        ),
        pytest.param(
            {"format": "nvfp4", "scale_rule": "amax", "block_size": 16.0},
            "nvfp4 has the block size 16, got 16.0",
            id="nvfp4 by a float",
        ),
        pytest.param(
            {"format": "e5m2_tensor", "scale_rule": "amax", "block_size": 0},
            "e5m2_tensor has the block size None, got 0",
            id="tensor by blocks",
        ),
        pytest.param({"axis": True}, "axis must be an integer, got True", id="bool"),
        pytest.param({"axis": 1.0}, "axis must be an integer, got 1.0", id="float axis"),
    ],
)
def test_wrong_values(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        CastSpec(**{"format": "fp8_e4m3", **wrong})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", list(BLOCK_FORMATS))
def test_cast_spec_fills_in_what_the_format_has_by_default(name: str) -> None:
    block = BLOCK_FORMATS[name]
    spec = cast_spec(name)
    assert (spec.format, spec.block_size, spec.scale_rule) == (name, block.block_size, block.scale_rules[0])
    assert (spec.axis, spec.rounding, spec.tail, spec.nonfinite) == (-1, "even", "pad", "block")
    assert cast_spec(name, block_size=None, scale_rule=None, random=None) == spec
    assert (spec.block, spec.element) == (block, block.element)
    for rule in block.scale_rules:
        assert cast_spec(name, scale_rule=rule, axis=0, tail="error").scale_rule == rule


def test_cast_spec_keeps_what_is_given() -> None:
    spec = cast_spec("fp6_e2m3", block_size=64, scale_rule="even", rounding="away", axis=1)
    assert spec == CastSpec(format="fp6_e2m3", block_size=64, scale_rule="even", rounding="away", axis=1)
    with pytest.raises(ValueError, match=r"unknown format 'nvfp'; .*did you mean 'nvfp4'"):
        cast_spec("nvfp")
    with pytest.raises(ValueError, match="nvfp4 has the block size 16, got 32"):
        cast_spec("nvfp4", block_size=32)
    with pytest.raises(TypeError, match="unexpected keyword argument 'blocksize'"):
        cast_spec("nvfp4", blocksize=16)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("axis", "axis must be an integer, got None"),
        ("rounding", "unknown rounding None; allowed: even, "),
        ("tail", "unknown tail None; allowed: pad, error"),
        ("nonfinite", "unknown NaN/Inf policy None; allowed: block, "),
    ],
)
def test_none_is_no_choice(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cast_spec("fp8_e4m3", **{name: None})


BUNDLES = {
    "ocp": ("floor", "even", "block"),
    "ocp_away": ("floor", "away", "block"),
    "ceil": ("ceil", "even", "block"),
    "even": ("even", "even", "block"),
    "rceil": ("rceil", "even", "block"),
    "te": ("reciprocal", "even", "element"),
}


@pytest.mark.parametrize("name", list(BUNDLES))
def test_dialects(name: str) -> None:
    spec = CastSpec(format="fp8_e5m2", **dialect(name))
    assert (spec.scale_rule, spec.rounding, spec.nonfinite) == BUNDLES[name]
    dialect(name)["rounding"] = "zero"
    assert dialect(name)["rounding"] == BUNDLES[name][1], "a dialect is not its caller's to change"


def test_dialects_are_refused_where_they_are_not_defined() -> None:
    assert list(DIALECTS) == list(BUNDLES)
    with pytest.raises(ValueError, match=r"unknown dialect 'tee'; allowed: ocp, .*did you mean 'te'"):
        dialect("tee")
    with pytest.raises(
        ValueError, match="unknown scale rule of mxint8 'reciprocal'; allowed: floor, ceil, rceil"
    ):
        CastSpec(format="mxint8", **dialect("te"))


def test_random_integers_are_no_part_of_a_casts_identity() -> None:
    plain = CastSpec(format="mxint8", rounding="stochastic")
    given = CastSpec(format="mxint8", rounding="stochastic", random=np.zeros(3, np.int64))
    assert plain == given
    assert hash(plain) == hash(given)
    assert repr(plain) == repr(given)


def test_block_count() -> None:
    spec = CastSpec(format="mxint8")
    assert [block_count(length, spec) for length in (1, 32, 33, 64)] == [1, 1, 2, 2]
    strict = CastSpec(format="mxint8", tail="error")
    assert block_count(64, strict) == 2
    with pytest.raises(ValueError, match=r"axis -1 has 33 elements.*32.*tail='pad'"):
        block_count(33, strict)
    assert block_count(33, cast_spec("e4m3_row", tail="error")) == 1


def test_scales_shape() -> None:
    assert scales_shape((5, 40, 70), cast_spec("fp8_e4m3")) == (5, 40, 3)
    assert scales_shape((5, 40, 70), cast_spec("fp8_e4m3", axis=0)) == (1, 40, 70)
    assert scales_shape((5, 40, 70), cast_spec("nvfp4", axis=1)) == (5, 3, 70)
    assert scales_shape((5, 40, 70), cast_spec("e4m3_row", axis=1)) == (5, 1, 70)
    assert scales_shape((5, 40, 70), cast_spec("e4m3_tensor")) == (1, 1, 1)
    with pytest.raises(ValueError, match="tail='error'"):
        scales_shape((5, 40), cast_spec("nvfp4", tail="error"))
    with pytest.raises(ValueError, match="axis 2 is out of range"):
        scales_shape((5, 40), cast_spec("nvfp4", axis=2))


def test_axis_out_of_range() -> None:
    assert [resolve_axis(3, axis) for axis in (-3, -1, 0, 2)] == [0, 2, 0, 2]
    with pytest.raises(ValueError, match=r"axis 2 is out of range.*allowed: -2 to 1"):
        resolve_axis(2, 2)
    with pytest.raises(ValueError, match=r"axis -3 is out of range.*allowed: -2 to 1"):
        resolve_axis(2, -3)
    with pytest.raises(ValueError, match="0 dimensions"):
        resolve_axis(0, -1)


def test_the_oracles_know_every_rule_and_rounding() -> None:
    rules = set(SCALE_RULES) - {
        "amax",
        "reciprocal",
    }  # that is none of amax's significand: test_reciprocal.py
    assert set(oracle._ONE_MORE) == set(oracle._ARRAY_ONE_MORE) == set(search._BOUND) == rules
    assert set(codes.ROUNDINGS) == set(search._GOES_UP) == set(ROUNDINGS)
    assert set(oracle._ARRAY_ROUNDINGS) == {*ROUNDINGS, "half_zero"}  # which identify alone asks for


def test_the_policy_element_is_for_fp8_with_power_of_two_scales() -> None:
    def defined(name: str, policy: str) -> bool:
        try:
            cast_spec(name, nonfinite=policy)
        except ValueError:
            return False
        return True

    allowed = {policy: {name for name in BLOCK_FORMATS if defined(name, policy)} for policy in NONFINITE}
    assert allowed == {"block": set(BLOCK_FORMATS), "element": FP8}
