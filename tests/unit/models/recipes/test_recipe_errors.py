"""Recipes that are refused, each in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from mxcheck.models.recipes.recipe import Casts, Operand, Recipe, recipe

FP8 = Operand(format="fp8_e4m3")
MLP = {"mlp": Casts(weights=FP8, activations=FP8)}


def refused(make: Callable[..., Any], arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        make(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({"precision": "fp8_e4m4"}, "unknown precision 'fp8_e4m4'", id="precision"),
        pytest.param({"precision": "fp8_e4m4"}, "did you mean 'mxfp8_e4m3'?", id="nearest-precision"),
        pytest.param(
            {"precision": "FP32"}, "allowed: fp32, bf16, bf16_operands, fp8", id="allowed-precisions"
        ),
        pytest.param(
            {"precision": "mxfp8_e4m3"},
            "mxfp8_e4m3 needs a tier, got none; allowed: A, B, linears",
            id="no-tier",
        ),
        pytest.param(
            {"precision": "bnb_int8"}, "bnb_int8 needs a tier, got none; allowed: A, B, linears", id="library"
        ),
        pytest.param({"precision": "mixed"}, "mixed needs a tier, got none; allowed: C, D", id="mixed"),
        pytest.param(
            {"precision": "mxfp8_e4m3", "tier": "a"},
            "unknown tier of mxfp8_e4m3 'a'; allowed: A, B, linears",
            id="tier",
        ),
        pytest.param(
            {"precision": "mxfp8_e4m3", "tier": ""}, "unknown tier of mxfp8_e4m3 ''", id="empty-tier"
        ),
        pytest.param(
            {"precision": "mxfp8_e4m3", "tier": "C"}, "unknown tier of mxfp8_e4m3 'C'", id="mixed-tier-of-one"
        ),
        pytest.param(
            {"precision": "mixed", "tier": "A"},
            "unknown tier of mixed 'A'; allowed: C, D",
            id="tier-of-mixed",
        ),
        pytest.param(
            {"precision": "bf16", "tier": "A"},
            "bf16 converts the whole model: it takes no tier, no roles and no casts, got tier='A', roles=()",
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
            {"precision": "mxint8", "tier": "A", "scale_rule": "even"},
            "unknown scale rule of mxint8 'even'",
            id="rule-of-another",
        ),
        pytest.param(
            {"precision": "mxint8", "tier": "A", "rounding": "evne"}, "did you mean 'even'?", id="rounding"
        ),
        pytest.param(
            {"precision": "mxint8", "tier": "A", "weights_only": True, "attention": True},
            "weights_only leaves activations as they are; attention, outputs and global casts change some; "
            "drop one",
            id="weights-only-with-attention",
        ),
        pytest.param(
            {"precision": "mxint8", "tier": "A", "weights_only": True, "outputs": True},
            "attention, outputs and global casts change some; drop one",
            id="weights-only-with-outputs",
        ),
        pytest.param(
            {"precision": "mxint8", "tier": "A", "weights_only": True, "elementwise": "bf16"},
            "attention, outputs and global casts change some; drop one",
            id="weights-only-with-elementwise",
        ),
        pytest.param(
            {"precision": "mxint8", "tier": "A", "elementwise": "mxint9"},
            "unknown format 'mxint9'; allowed: bf16, fp8_e4m3",
            id="elementwise",
        ),
        *(
            pytest.param(
                {"precision": precision, "tier": tier, option: value},
                f"{precision} {how}: attention, outputs, weights_only and elementwise are for precisions",
                id=f"{precision}-with-{option}",
            )
            for precision, tier, how in (
                ("bnb_int8", "A", "is cast by its library"),
                ("bf16", None, "converts the whole model"),
            )
            for option, value in {
                "attention": True,
                "outputs": True,
                "weights_only": True,
                "elementwise": "bf16",
            }.items()
        ),
    ],
)
def test_recipe_refuses(arguments: dict[str, Any], words: str) -> None:
    refused(recipe, arguments, words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({"precision": "fp32", "roles": MLP}, "takes no tier, no roles", id="roles"),
        pytest.param({"precision": "bf16", "outputs": True}, "takes no tier, no roles", id="outputs"),
        pytest.param({"precision": "bf16", "attention": FP8}, "takes no tier, no roles", id="attention"),
        pytest.param({"precision": "bf16", "elementwise": FP8}, "takes no tier, no roles", id="elementwise"),
        pytest.param(
            {"precision": "mine"},
            "mine needs the roles to quantize, got none; allowed: attention, mlp, router, lm_head, other",
            id="no-roles",
        ),
        pytest.param(
            {"precision": "mine", "roles": {"mpl": Casts()}},
            "unknown role 'mpl'; allowed: attention, mlp, router, lm_head, other; did you mean 'mlp'",
            id="role",
        ),
        pytest.param(
            {"precision": "mine", "roles": {**MLP, "head": Casts()}}, "unknown role 'head'", id="2nd"
        ),
        pytest.param(
            {"precision": "mine", "roles": {"mlp": Casts(weights=FP8)}, "outputs": True},
            "outputs casts results as activations are cast, and no role of mine casts them",
            id="outputs-without-activations",
        ),
        pytest.param(
            {"precision": "te_mxfp8", "tier": "A", "roles": MLP},
            "te_mxfp8 is cast by its library and takes no casts of mxcheck",
            id="casts-of-a-library",
        ),
        pytest.param(
            {"precision": "scaled_mm_fp8", "tier": "A", "roles": {"mlp": Casts()}, "outputs": True},
            "scaled_mm_fp8 is cast by its library",
            id="outputs-of-a-library",
        ),
    ],
)
def test_a_recipe_of_one_s_own_is_checked_too(fields: dict[str, Any], words: str) -> None:
    refused(Recipe, fields, words)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({"format": "fp9"}, "unknown format 'fp9'; allowed: bf16, fp8_e4m3", id="format"),
        pytest.param(
            {"format": "fp8_e4m3", "block_size": True}, "block size must be an integer, got True", id="block"
        ),
        pytest.param(
            {"format": "nvfp4", "block_size": 32}, "nvfp4 has the block size 16, got 32", id="nvfp4"
        ),
        pytest.param(
            {"format": "e4m3_tensor", "rounding": "away"},
            "e4m3_tensor is defined with rounding 'even' only, got 'away'",
            id="fp32-scale",
        ),
        *(
            pytest.param(
                {"format": "bf16", key: value},
                "bf16 rounds each element to even: it takes no block size, rule or rounding",
                id=f"bf16-{key}",
            )
            for key, value in {"block_size": 32, "scale_rule": "floor", "rounding": "away"}.items()
        ),
    ],
)
def test_an_operand_is_checked(fields: dict[str, Any], words: str) -> None:
    refused(Operand, fields, words)
