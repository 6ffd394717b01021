"""What a conversion refuses, and what it says was left."""

from collections.abc import Callable

import pytest
import torch
from architectures import tiny
from matrix_products import logits, some_tokens
from torch import Tensor, nn
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel

from mxcheck.models.conversion.convert import Conversion, UnavailableError, convert
from mxcheck.models.recipes.recipe import Recipe, recipe

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

IDS = some_tokens()


@pytest.mark.parametrize("name", ["mixtral-8x7b", "gpt-oss-20b"])
def test_experts_that_are_not_run_one_by_one_are_refused(name: str) -> None:
    model = tiny(name)
    model.set_experts_implementation("grouped_mm")
    before = logits(model, IDS)
    with pytest.raises(
        ValueError,
        match=r"^model\.layers\.0\.mlp\.experts \(\w+Experts\) runs its experts as 'grouped_mm', whose "
        r"products mxcheck does not cast; call model\.set_experts_implementation\('eager'\) first$",
    ):
        convert(model, recipe("mxfp4_e2m1", tier="A"))

    assert torch.equal(logits(model, IDS), before)
    assert not any("forward" in vars(module) for module in model.modules())


class ReadsItsWeightMLP(nn.Module):
    """By its name an MLP, which multiplies by the weight of a linear module without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.up_proj = nn.Linear(64, 64, bias=False).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.up_proj.weight)


@pytest.mark.parametrize("precision", ["fp4_e2m1", "scaled_mm_fp8"])
def test_a_module_that_the_model_does_not_call_is_named(precision: str, converted: Convert) -> None:
    model = tiny("llama-3.1-8b")
    model.model.layers[1].mlp = ReadsItsWeightMLP()
    conversion = converted(model, recipe(precision, tier="B"))
    logits(model, IDS)
    conversion.note_what_ran()

    assert conversion.unconverted == {
        "model.layers.1.mlp.up_proj": "the model does not call it: its activations are not cast"
    }


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v2-lite"])
def test_a_model_that_calls_all_of_its_modules(name: str, converted: Convert) -> None:
    model = tiny(name)
    made = recipe("mxfp4_e2m1", tier="linears", attention=True, elementwise="bf16")
    conversion = converted(model, made)
    logits(model, IDS)
    conversion.note_what_ran()
    operations = {"(softmax)": "3 a pass", "(addition)": "5 a pass"}
    if name == "llama-3.1-8b":
        operations = {"(softmax)": "2 a pass", "(addition)": "4 a pass"}

    assert conversion.unconverted == {}
    assert operations.items() <= conversion.replaced.items()


def test_suspending_what_was_undone_converts_nothing(converted: Convert) -> None:
    model = tiny("llama-3.1-8b")
    before = logits(model, IDS)
    conversion = converted(model, recipe("mxfp4_e2m1", tier="A"))
    conversion.undo()
    with conversion.suspended():
        assert torch.equal(logits(model, IDS), before)

    assert torch.equal(logits(model, IDS), before)


class TwoResults(nn.Linear):
    """A linear layer that returns more than its product."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input), None  # type: ignore[return-value]


def test_a_result_that_is_no_tensor_cannot_be_cast(converted: Convert) -> None:
    model = tiny("llama-3.1-8b")
    model.model.layers[0].mlp.down_proj = TwoResults(96, 64).requires_grad_(False)
    converted(model, recipe("mxfp4_e2m1", tier="A", outputs=True))
    with pytest.raises(
        ValueError,
        match=r"^model\.layers\.0\.mlp\.down_proj \(TwoResults\) returns tuple, no tensor: its result cannot "
        r"be cast; leave its role out of the recipe, or outputs$",
    ):
        logits(model, IDS)


def test_what_no_rule_places_is_reported() -> None:
    """OPT's projections of the embedding are no part of a layer: never guessed, and never silent."""
    config = OPTConfig(
        vocab_size=64, hidden_size=64, ffn_dim=64, num_hidden_layers=1, num_attention_heads=2,
        word_embed_proj_dim=32, max_position_embeddings=64, attn_implementation="eager",
    )  # fmt: skip
    conversion = convert(OPTForCausalLM(config).eval(), recipe("mxfp8_e4m3", tier="B"))
    assert sorted(conversion.unconverted) == ["model.decoder.project_in", "model.decoder.project_out"]
    assert set(conversion.unconverted.values()) == {"no rule says what it is; --mx-all-linears takes it in"}
    conversion.undo()
    everything = convert(OPTForCausalLM(config).eval(), recipe("mxfp8_e4m3", tier="linears"))
    assert everything.unconverted == {}


def test_a_library_that_takes_nothing_says_why_of_a_module_that_was_asked_for() -> None:
    """And not of one that no rule places, which was never its matter."""
    model = tiny("mixtral-8x7b")
    model.extra = nn.Linear(4, 4)
    with pytest.raises(
        UnavailableError, match=r"converts none of the 2 modules: \S+experts: MixtralExperts is"
    ):
        convert(model, recipe("scaled_mm_fp8", tier="A"))
