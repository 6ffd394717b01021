"""No gradient passes a converted module, and a call that would record one says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from architectures import tiny
from matrix_products import some_tokens
from transformers import PreTrainedModel

from mxcheck.models.conversion.convert import Conversion, UnavailableError
from mxcheck.models.recipes.ladder import with_tiers
from mxcheck.models.recipes.recipe import Casts, Operand, Recipe, recipe

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

IDS = some_tokens(16)
WHOLE = ("fp32", "bf16")
REFUSED = r"^[\w. ]+ is converted, and no gradient passes its casts: call the model under torch\.no_grad\(\)"
FP8 = Operand(format="fp8_e4m3")
OTHERS = {
    "weights-only": recipe("mxfp8_e4m3", tier="A", weights_only=True),
    "head": Recipe(precision="head", roles={"lm_head": Casts(weights=FP8)}),
    "attention": Recipe(precision="attention", roles={"mlp": Casts()}, attention=FP8),
    "elementwise": Recipe(precision="elementwise", roles={"mlp": Casts()}, elementwise=FP8),
    "no-cast": Recipe(precision="no-cast", roles={"mlp": Casts(activations=FP8)}),
}
RECIPES = {
    f"{name}-{tier}": recipe(name, tier=tier) for name, tier in with_tiers() if name not in WHOLE
} | OTHERS


def trainable(name: str = "llama-3.1-8b") -> PreTrainedModel:
    return tiny(name).requires_grad_(True)


def with_gradient(model: PreTrainedModel) -> list[str]:
    """The parameters that a backward pass gives a gradient."""
    model.zero_grad()
    model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
    return [name for name, parameter in model.named_parameters() if parameter.grad is not None]


@pytest.mark.parametrize("case", RECIPES)
def test_a_call_that_would_record_a_gradient_is_refused_in_one_line(case: str, converted: Convert) -> None:
    model = trainable()
    try:
        conversion = converted(model, RECIPES[case])
    except UnavailableError as error:
        pytest.skip(str(error))
    with pytest.raises(ValueError, match=REFUSED) as caught:
        model(input_ids=IDS)
    assert "\n" not in str(caught.value)

    with torch.no_grad():
        plain = model(input_ids=IDS).logits
    with torch.inference_mode():
        assert torch.equal(model(input_ids=IDS).logits, plain)
    model.requires_grad_(False)
    assert not model(input_ids=IDS).logits.requires_grad
    model.requires_grad_(True)
    conversion.undo()
    assert len(with_gradient(model)) == len(list(model.parameters()))


@pytest.mark.parametrize("name", ["mixtral-8x7b", "gpt2", "gpt-oss-20b"])
def test_experts_and_other_linears_refuse_it_too(name: str, converted: Convert) -> None:
    model = trainable(name)
    converted(model, recipe("mxfp8_e4m3", tier="A"))
    with pytest.raises(ValueError, match=REFUSED):
        model(input_ids=IDS)


@pytest.mark.parametrize("precision", WHOLE)
def test_a_recipe_without_casts_leaves_gradients_alone(precision: str, converted: Convert) -> None:
    model = trainable()
    converted(model, recipe(precision))
    assert len(with_gradient(model)) == len(list(model.parameters()))


def test_a_gradient_of_the_input_is_refused(converted: Convert) -> None:
    model = tiny("llama-3.1-8b")
    converted(model, recipe("mxfp8_e4m3", tier="B"))
    embedded = model.get_input_embeddings()(IDS).requires_grad_(True)
    with pytest.raises(ValueError, match=REFUSED):
        model(inputs_embeds=embedded)
    with torch.no_grad():
        model(inputs_embeds=embedded)


def test_what_stands_behind_the_converted_modules_may_be_trained(converted: Convert) -> None:
    model = tiny("llama-3.1-8b")
    model.lm_head.weight.requires_grad_(True)
    converted(model, recipe("mxfp8_e4m3", tier="B"))
    assert with_gradient(model) == ["lm_head.weight"]
