"""Recipes: precision and tier in, roles and cast out."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mxcheck.formats.spec import CastSpec
from mxcheck.models.recipe import LADDER, MX, TIERS, WHOLE_MODEL, Recipe, recipe


def test_ladder() -> None:
    assert LADDER == (
        "fp32",
        "bf16",
        "fp8_e4m3",
        "fp8_e5m2",
        "fp6_e3m2",
        "fp6_e2m3",
        "fp4_e2m1",
        "mxint8",
    )
    assert (*WHOLE_MODEL, *MX) == LADDER


@pytest.mark.parametrize("precision", MX)
@pytest.mark.parametrize(("tier", "roles"), [("A", ("mlp",)), ("B", ("attention", "mlp"))])
def test_tiers(precision: str, tier: str, roles: tuple[str, ...]) -> None:
    assert set(TIERS) == {"A", "B"}
    made = recipe(precision, tier=tier)
    assert made == Recipe(precision=precision, tier=tier, roles=roles)
    assert made.changes_bits


@pytest.mark.parametrize(("precision", "changes"), [("fp32", False), ("bf16", True)])
def test_whole_model(precision: str, changes: bool) -> None:
    made = recipe(precision)
    assert made == Recipe(precision=precision)
    assert (made.tier, made.roles) == (None, ())
    assert made.changes_bits is changes


def test_defaults_are_the_specification_s() -> None:
    made = recipe("fp8_e4m3", tier="A")
    assert (made.block_size, made.scale_rule, made.rounding, made.kernel) == (32, "floor", "even", "eager")


@pytest.mark.parametrize("axis", [-1, 0])
def test_spec_carries_every_choice(axis: int) -> None:
    made = recipe("fp6_e2m3", tier="A", block_size=16)
    assert made.spec(axis=axis) == CastSpec(
        format="fp6_e2m3", axis=axis, block_size=16, scale_rule="floor", rounding="even", tail="pad"
    )


def test_as_dict_is_plain_json_without_the_kernel() -> None:
    made = recipe("fp8_e4m3", tier="B", block_size=64, kernel="pkg:cast")
    expected = {
        "precision": "fp8_e4m3",
        "tier": "B",
        "roles": ["attention", "mlp"],
        "block_size": 64,
        "scale_rule": "floor",
        "rounding": "even",
    }
    assert made.as_dict() == expected == json.loads(json.dumps(made.as_dict()))
    assert made.kernel == "pkg:cast"
    assert made.as_dict() == recipe("fp8_e4m3", tier="B", block_size=64).as_dict()


def test_every_field_but_the_kernel_is_in_the_record() -> None:
    names = {field.name for field in dataclasses.fields(Recipe)}
    assert recipe("fp32").as_dict().keys() == names - {"kernel"}


def test_recipes_are_frozen_and_hashable() -> None:
    made = recipe("fp32")
    assert len({made, recipe("fp32"), recipe("bf16")}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.precision = "bf16"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({"precision": "fp8_e4m4"}, "unknown precision 'fp8_e4m4'", id="precision"),
        pytest.param({"precision": "fp8_e4m4"}, "did you mean 'fp8_e4m3'?", id="nearest-precision"),
        pytest.param({"precision": "FP32"}, "allowed: fp32, bf16, fp8_e4m3", id="allowed-precisions"),
        pytest.param(
            {"precision": "fp8_e4m3"}, "fp8_e4m3 needs a tier, got none; allowed: A, B", id="no-tier"
        ),
        pytest.param({"precision": "fp8_e4m3", "tier": "a"}, "unknown tier 'a'; allowed: A, B", id="tier"),
        pytest.param({"precision": "fp8_e4m3", "tier": ""}, "unknown tier ''", id="empty-tier"),
        pytest.param(
            {"precision": "bf16", "tier": "A"},
            "bf16 converts the whole model: it takes no tier and no roles, got tier='A'",
            id="tier-out-of-place",
        ),
        pytest.param(
            {"precision": "mxint8", "tier": "A", "block_size": 0},
            "block size must be at least 1, got 0",
            id="block-size",
        ),
        pytest.param(
            {"precision": "mxint8", "tier": "A", "scale_rule": "flor"}, "did you mean 'floor'?", id="rule"
        ),
        pytest.param(
            {"precision": "mxint8", "tier": "A", "rounding": "evne"}, "did you mean 'even'?", id="rounding"
        ),
    ],
)
def test_recipe_refuses(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the message is held below)
        recipe(**arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({"precision": "fp9"}, "unknown precision 'fp9'", id="precision"),
        pytest.param({"precision": "fp32", "roles": ("mlp",)}, "no tier and no roles", id="roles"),
        pytest.param({"precision": "fp8_e4m3"}, "needs the roles to quantize, got none", id="no-roles"),
        pytest.param(
            {"precision": "fp8_e4m3", "roles": ("mlp",), "block_size": True}, "must be an integer", id="block"
        ),
    ],
)
def test_a_recipe_of_one_s_own_is_checked_too(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recipe(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param(
            {"roles": ("mpl",)},
            "unknown role 'mpl'; allowed: attention, mlp; did you mean 'mlp'",
            id="role",
        ),
        pytest.param({"roles": ("mlp", "router")}, "unknown role 'router'", id="second-role"),
        pytest.param({"roles": ("lm_head",)}, "unknown role 'lm_head'", id="role-of-no-tier"),
        pytest.param({"roles": "mlp"}, "unknown role 'm'", id="text"),
        pytest.param({"roles": ("mlp",), "tier": "Z"}, "unknown tier 'Z'; allowed: A, B", id="tier"),
        pytest.param({"roles": ("mlp",), "tier": ""}, "unknown tier ''", id="empty-tier"),
    ],
)
def test_unknown_roles_and_tiers_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recipe(precision="fp8_e4m3", **fields)
