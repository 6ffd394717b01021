"""No token sees a later one, when the operands of both attention products are cast.

Blocks of values run along the axis of keys, so a later token moves the values of its whole block: the mask
holds where values are left alone, and where they are cast it holds between blocks.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, tiny
from matrix_products import logits, some_tokens
from torch import Tensor
from transformers import PreTrainedModel

from mxcheck.models.conversion.attention import ConvertedAttention
from mxcheck.models.conversion.convert import Conversion, UnavailableError
from mxcheck.models.recipes.ladder import with_tiers
from mxcheck.models.recipes.recipe import Casts, Operand, Recipe, recipe

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)

BLOCK = 32
#: Two full blocks of keys and one that is not; longer than the sliding windows of 16, and no head's size.
LENGTH = 72
IDS = some_tokens(LENGTH)
#: The changed token: first and last of a block, inside of one, beside a window's edge, the last of all.
POSITIONS = (1, 17, 31, 32, 48, 63, 71)
ATTENTION_ALONE = Recipe(
    precision="attention-alone", roles={"mlp": Casts()}, attention=Operand(format="fp4_e2m1")
)


def tiny_with_every_expert(name: str) -> PreTrainedModel:
    """Where there are experts, each takes every token: how many rows a product has may decide its bits, and
    it must not depend on where a changed token is sent."""
    model = tiny(name)
    for module in model.modules():
        if hasattr(module, "top_k"):
            module.top_k = 4
    return model


def leave_values_alone(attention: ConvertedAttention) -> None:
    """Cast keys only: of the second operands, values are those with their tokens on the axis of the sum."""
    cast = attention.second

    def keys_only(x: Tensor) -> Tensor:
        assert (x.shape[-2] == LENGTH) != (x.shape[-1] == LENGTH)
        return x if x.shape[-2] == LENGTH else cast(x)

    attention.second = keys_only


def moved_by(model: PreTrainedModel, position: int, **arguments: Any) -> set[int]:
    """The earlier positions whose logits any of three changes of the token at `position` moves."""
    before, moved = logits(model, IDS, **arguments), set()
    for step in (7, 57, 107):
        ids = IDS.clone()
        ids[:, position] = (ids[:, position] + step) % 256
        differs = (logits(model, ids, **arguments) != before).any(-1).any(0)
        assert differs[position], "the changed token moves its own logits, or this check shows nothing"
        moved |= set(differs[:position].nonzero().flatten().tolist())
    return moved


def seen_ahead(model: PreTrainedModel, **arguments: Any) -> dict[int, set[int]]:
    """By changed position: the earlier ones that it moves; nothing where the mask holds."""
    found = {position: moved_by(model, position, **arguments) for position in POSITIONS}
    return {position: moved for position, moved in found.items() if moved}


@every_architecture
def test_a_later_token_moves_no_earlier_logit_while_values_are_left_alone(
    name: str, converted: Convert
) -> None:
    model = tiny_with_every_expert(name)
    plain = logits(model, IDS)
    assert seen_ahead(model) == {}, "the unconverted model"
    conversion = converted(model, ATTENTION_ALONE)
    for attention in conversion.attention.values():
        leave_values_alone(attention)

    assert not torch.equal(logits(model, IDS), plain)
    assert seen_ahead(model) == {}


@every_architecture
def test_with_values_cast_a_later_token_moves_its_own_block_and_none_before(
    name: str, converted: Convert
) -> None:
    model = tiny_with_every_expert(name)
    converted(model, ATTENTION_ALONE)
    ahead = seen_ahead(model)

    for position, moved in ahead.items():
        assert min(moved) >= position // BLOCK * BLOCK, position
    # A token that begins its block has none before it. Inside one, a new amax or a code at a tie is a matter
    # of chance for each change, but of 12 changes (3 tokens at 4 positions, in two sequences) some show.
    assert ahead
    assert 32 not in ahead


@pytest.mark.parametrize(("precision", "tier"), with_tiers())
def test_a_recipe_that_looks_ahead_says_so(precision: str, tier: str | None, converted: Convert) -> None:
    model = tiny("llama-3.1-8b")
    for layer in model.model.layers:
        layer.post_attention_layernorm.weight *= 2  # some activations above 6: outliers for bitsandbytes
    made = recipe(precision, tier=tier)
    try:
        converted(model, made)
    except UnavailableError as error:
        pytest.skip(str(error))
    earlier = set().union(*seen_ahead(model).values())

    assert bool(earlier) == made.looks_ahead


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt2", "gemma3-1b", "gpt-oss-20b", "deepseek-v2-lite"])
@pytest.mark.parametrize("values", ["cast", "left-alone"])
def test_the_checks_see_a_causal_mask_that_is_gone(name: str, values: str, converted: Convert) -> None:
    model = tiny_with_every_expert(name)
    conversion = converted(model, ATTENTION_ALONE)
    if values == "left-alone":
        for attention in conversion.attention.values():
            leave_values_alone(attention)
    no_mask = torch.zeros(len(IDS), 1, LENGTH, LENGTH)
    mask = (
        {"full_attention": no_mask, "sliding_attention": no_mask}
        if "layer_types" in vars(model.config)
        else no_mask
    )
    ahead = seen_ahead(model, attention_mask=mask)

    assert set(ahead) == set(POSITIONS)
    assert all(
        min(moved) < position // BLOCK * BLOCK for position, moved in ahead.items() if position >= BLOCK
    )
