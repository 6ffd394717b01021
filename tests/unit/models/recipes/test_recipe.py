"""Recipes: precision and tier in, roles and casts out."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from mxcheck.formats.spec import CastSpec
from mxcheck.models.recipes.ladder import ALL_LINEARS, BF16, LADDER, MX, ROLES, with_tiers
from mxcheck.models.recipes.recipe import Casts, Operand, Recipe, recipe, recipe_from_dict

FP8 = Operand(format="fp8_e4m3")
FP4 = Operand(format="fp4_e2m1")
BOTH_FP8 = Casts(weights=FP8, activations=FP8)
CASE_NAMES = {f"{name}-{tier}" if tier else name: recipe(name, tier=tier) for name, tier in with_tiers()}
#: Of one's own, each with something that no case of the ladder has.
ODD = {
    "no-cast": Recipe(precision="nothing", roles={"mlp": Casts()}),
    "weights-alone": Recipe(precision="w4", roles={"mlp": Casts(weights=FP4), "other": Casts()}),
    "activations-alone": Recipe(precision="a8", roles={"lm_head": Casts(activations=FP8)}),
    "unequal": Recipe(
        precision="w4a8",
        roles={role: Casts(weights=FP4, activations=FP8) for role in ROLES},
        attention=Operand(format="fp6_e2m3", block_size=64, scale_rule="rceil", rounding="away"),
        outputs=True,
        elementwise=Operand(format=BF16),
    ),
    "shared-scales": Recipe(
        precision="mine",
        roles={"mlp": Casts(weights=Operand(format="e4m3_row"), activations=Operand(format="nvfp4"))},
    ),
    "everything": recipe(
        "mxfp8_e5m2",
        tier=ALL_LINEARS,
        block_size=16,
        scale_rule="ceil",
        rounding="zero",
        attention=True,
        outputs=True,
        elementwise="fp8_e4m3",
    ),
}
RECIPES = CASE_NAMES | ODD


@pytest.mark.parametrize("precision", [name for name, row in LADDER.items() if row.operand])
@pytest.mark.parametrize(
    ("tier", "roles"), [("A", {"mlp"}), ("B", {"attention", "mlp"}), ("linears", set(ROLES))]
)
def test_tiers(precision: str, tier: str, roles: set[str]) -> None:
    made = recipe(precision, tier=tier)
    operand = Operand(format=LADDER[precision].operand or "")

    assert made == Recipe(
        precision=precision,
        tier=tier,
        roles=dict.fromkeys(roles, Casts(weights=operand, activations=operand)),
    )
    assert made.operands == (operand,)


@pytest.mark.parametrize(
    ("tier", "mlp", "attention"), [("C", "fp6_e3m2", "fp8_e4m3"), ("D", "fp4_e2m1", "fp6_e3m2")]
)
def test_mixed_tiers(tier: str, mlp: str, attention: str) -> None:
    made = recipe("mixed", tier=tier, attention=True)
    by_role = {"mlp": Operand(format=mlp), "attention": Operand(format=attention)}

    assert made.roles == {role: Casts(weights=o, activations=o) for role, o in by_role.items()}
    assert made.attention == by_role["attention"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_whole_model(precision: str) -> None:
    made = recipe(precision)

    assert made == Recipe(precision=precision)
    assert (made.tier, made.roles, made.operands, made.library) == (None, {}, (), None)


@pytest.mark.parametrize("precision", [name for name, row in LADDER.items() if row.library])
def test_libraries_cast_themselves(precision: str) -> None:
    made = recipe(precision, tier="B")

    assert made.roles == {"attention": Casts(), "mlp": Casts()}
    assert made.library == LADDER[precision].library
    assert made.sequences_a_pass == 1


def test_options_reach_every_operand() -> None:
    made = recipe(
        "mxfp8_e4m3",
        tier="B",
        block_size=64,
        scale_rule="rceil",
        rounding="away",
        attention=True,
        outputs=True,
        elementwise="fp6_e2m3",
    )
    fp8 = Operand(format="fp8_e4m3", block_size=64, scale_rule="rceil", rounding="away")

    assert made.roles == dict.fromkeys(("attention", "mlp"), Casts(weights=fp8, activations=fp8))
    assert made.attention == fp8
    assert made.outputs
    assert made.elementwise == dataclasses.replace(fp8, format="fp6_e2m3")
    assert recipe("mxfp8_e4m3", tier="A", attention=True).attention == FP8  # the MLP's


def test_weights_only() -> None:
    made = recipe("mxfp4_e2m1", tier="B", weights_only=True)

    assert made.roles == dict.fromkeys(("attention", "mlp"), Casts(weights=FP4))


@pytest.mark.parametrize("precision", ["bf16_operands", "nvfp4", "fp8_tensor_e4m3"])
def test_options_of_e8m0_scales_are_not_for_other_formats(precision: str) -> None:
    odd = recipe(precision, tier="A", block_size=64, scale_rule="rceil", rounding="away")

    assert odd == recipe(precision, tier="A")


def test_defaults_are_the_specification_s() -> None:
    operand = recipe("mxfp8_e4m3", tier="A").roles["mlp"].weights
    assert operand is not None

    assert operand.spec(axis=-1) == CastSpec(
        format="fp8_e4m3", axis=-1, block_size=32, scale_rule="floor", rounding="even", tail="pad"
    )
    assert recipe("mxfp8_e4m3", tier="A").kernel == "auto"


@pytest.mark.parametrize("axis", [-1, -2, 0])
def test_spec_carries_every_choice(axis: int) -> None:
    made = Operand(format="fp6_e2m3", block_size=16, scale_rule="ceil", rounding="zero")

    assert made.spec(axis=axis) == CastSpec(
        format="fp6_e2m3", axis=axis, block_size=16, scale_rule="ceil", rounding="zero", tail="pad"
    )


def test_as_dict_is_plain_json_with_nothing_implied_and_without_the_kernel() -> None:
    made = recipe("mxfp8_e4m3", tier="B", block_size=64, attention=True, elementwise="bf16", kernel="pkg:c")
    operand = {
        "format": "fp8_e4m3",
        "block_size": 64,
        "scale_rule": "floor",
        "rounding": "even",
        "tail": "pad",
        "nonfinite": "block",
    }
    expected = {
        "precision": "mxfp8_e4m3",
        "tier": "B",
        "roles": {role: {"weights": operand, "activations": operand} for role in ("attention", "mlp")},
        "attention": operand,
        "outputs": False,
        "elementwise": {"format": "bf16", "rounding": "even"},
        "sequences_a_pass": None,
        "library": None,
    }

    assert made.as_dict() == expected == json.loads(json.dumps(made.as_dict()))
    assert made.kernel == "pkg:c"


def test_every_field_but_the_kernel_is_in_the_record() -> None:
    names = {field.name for field in dataclasses.fields(Recipe)}
    assert recipe("fp32").as_dict().keys() == names - {"kernel"} | {"sequences_a_pass", "library"}


@pytest.mark.parametrize("case", RECIPES)
def test_a_record_gives_the_recipe_back(case: str) -> None:
    made = RECIPES[case]
    stored = json.loads(json.dumps(made.as_dict()))
    back = recipe_from_dict(stored, kernel="pkg:cast")

    assert back.as_dict() == made.as_dict() == stored
    assert back.kernel == "pkg:cast"
    # what the record spells out is what the recipe left to the format
    assert recipe_from_dict(back.as_dict()) == dataclasses.replace(back, kernel="auto")
    assert [o.spec(axis=-1) for o in back.operands if o.format != BF16] == [
        o.spec(axis=-1) for o in made.operands if o.format != BF16
    ]


def test_no_two_recipes_have_one_record() -> None:
    records = {json.dumps(made.as_dict(), sort_keys=True) for made in RECIPES.values()}
    assert len(records) == len(RECIPES)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("case", RECIPES)
def test_which_recipes_change_bits(case: str, dtype: str) -> None:
    rounds_to_bf16 = case in ("bf16", "bf16_operands-A", "bf16_operands-B")
    expected = case not in ("fp32", "no-cast") and not (rounds_to_bf16 and dtype == "bfloat16")

    assert RECIPES[case].changes_bits(dtype) is expected


@pytest.mark.parametrize(
    "options",
    [{"elementwise": "bf16"}, {"attention": True}, {"outputs": True}, {"tier": "linears"}],
    ids=lambda options: next(iter(options)),
)
def test_bf16_results_inside_of_a_bf16_model_may_or_may_not_change(options: dict[str, Any]) -> None:
    made = recipe("bf16_operands", **{"tier": "B", **options})

    assert made.changes_bits("bfloat16") is None
    assert made.changes_bits("float32") is made.changes_bits("float16") is True


#: The cases of the ladder in which the sequences of one pass share a scale, or a library sees them all.
TOGETHER = ("fp8_tensor", "nvfp4", "bnb_int8", "te_", "scaled_mm")


@pytest.mark.parametrize("case", RECIPES)
def test_sequences_a_pass(case: str) -> None:
    together = case.startswith(TOGETHER) or case == "shared-scales"
    assert RECIPES[case].sequences_a_pass == (1 if together else None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"roles": {"mlp": Casts(weights=Operand(format="nvfp4"))}}, None, id="weights"),
        pytest.param({"attention": Operand(format="nvfp4")}, 1, id="attention"),
        pytest.param({"elementwise": Operand(format="e5m2_tensor")}, 1, id="elementwise"),
        pytest.param({"attention": Operand(format="e4m3_row")}, None, id="row"),
    ],
)
def test_only_a_scale_of_activations_is_shared(fields: dict[str, Any], expected: int | None) -> None:
    made = Recipe(**{"precision": "mine", "roles": {"mlp": BOTH_FP8}, **fields})
    assert made.sequences_a_pass == expected


def test_values_that_16_bits_hold() -> None:
    exact = {name for name in (BF16, *MX, "nvfp4", "e4m3_row") if Operand(format=name).is_exact_in_16_bits}
    assert exact == {BF16, *MX}


def test_recipes_are_frozen() -> None:
    made = recipe("fp32")
    assert made == recipe("fp32") != recipe("bf16")
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.precision = "bf16"  # type: ignore[misc]
