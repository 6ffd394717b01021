"""The two products of attention, on every architecture."""

from collections.abc import Callable

import pytest
import torch
from architectures import ARCHITECTURES, tiny
from matrix_products import logits, products, some_tokens
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from mxcheck.kernels.api import fake_quantize
from mxcheck.models.conversion.attention import ConvertedAttention, attention_modules
from mxcheck.models.conversion.convert import Conversion, convert
from mxcheck.models.conversion.product_hooks import FUSED
from mxcheck.models.recipes.recipe import Casts, Operand, Recipe, recipe

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)

FP4 = Operand(format="fp4_e2m1")
#: The products of attention alone: the linear ones are left as they are.
ATTENTION_ALONE = Recipe(precision="attention-alone", roles={"mlp": Casts()}, attention=FP4)
#: No multiple of 32, so that the axis of keys has a block that is not full.
IDS = some_tokens(72)


def observed(conversion: Conversion, ids: Tensor) -> dict[str, list[Tensor]]:
    """The operands that entered the products of each attention module: first, second, first, second."""
    seen: dict[str, list[Tensor]] = {name: [] for name in conversion.attention}
    for name, attention in conversion.attention.items():
        attention.observe = lambda x, name=name: seen[name].append(x.clone())  # type: ignore[method-assign]
    logits(conversion.model, ids)
    for attention in conversion.attention.values():
        del attention.observe
    return seen


@every_architecture
def test_each_layer_has_one_attention_module(name: str) -> None:
    model = tiny(name)
    modules, missed = attention_modules(model)

    assert missed == {}
    assert len(modules) == model.config.get_text_config().num_hidden_layers == 2
    assert all(model.get_submodule(module) is value for module, value in modules.items())


@every_architecture
@pytest.mark.parametrize("tier", [None, "A", "B"], ids=["alone", "A", "B"])
def test_two_products_a_module_with_both_operands_cast_along_what_is_summed_over(
    name: str, tier: str | None, converted: Convert
) -> None:
    model = tiny(name)
    made = ATTENTION_ALONE if tier is None else recipe("mxfp4_e2m1", tier=tier, attention=True)
    conversion = converted(model, made)

    for module, operands in observed(conversion, IDS).items():
        assert len(operands) == 4, module
        for first, second in (operands[:2], operands[2:]):
            assert first.shape[-1] == second.shape[-2]  # the axis of the sum
            assert torch.equal(first, fake_quantize(first, "fp4_e2m1", axis=-1))
            assert torch.equal(second, fake_quantize(second, "fp4_e2m1", axis=-2))
            assert not torch.equal(first, fake_quantize(first, "fp4_e2m1", axis=-2))
            assert not torch.equal(second, fake_quantize(second, "fp4_e2m1", axis=-1))
        assert operands[0].shape[-2] == operands[1].shape[-1] == IDS.shape[1]  # queries by keys
        assert operands[2].shape[-2:] == (IDS.shape[1], IDS.shape[1])  # attention weights, by values


@every_architecture
def test_the_observed_operands_are_those_that_are_multiplied(name: str, converted: Convert) -> None:
    model = tiny(name)
    conversion = converted(model, ATTENTION_ALONE)
    found = [product for product in products(model, IDS) if product.owner is None]
    seen = [x for operands in observed(conversion, IDS).values() for x in operands]

    assert len(seen) == 2 * len(found) == 8
    for product, first, second in zip(found, seen[::2], seen[1::2], strict=True):
        # heads that share keys and values are repeated in a product
        batch = torch.broadcast_shapes(first.shape[:-2], second.shape[:-2])
        for multiplied, x in ((product.first, first), (product.second, second)):
            assert torch.equal(multiplied, x.expand(*batch, -1, -1).reshape(multiplied.shape))


@every_architecture
@pytest.mark.parametrize("format", ["nvfp4", "e4m3_tensor", "fp4_e3m0"])
def test_a_bf16_model_multiplies_exact_operands(name: str, format: str, converted: Convert) -> None:
    """In fp32 where bfloat16 does not hold the values."""
    model = tiny(name).to(torch.bfloat16)
    made = Recipe(precision="alone", roles={"mlp": Casts()}, attention=Operand(format=format))
    conversion = converted(model, made)
    given: list[Tensor] = []
    for attention in conversion.attention.values():
        first, second = attention.first, attention.second
        attention.first = lambda x, cast=first: cast(given.append(x) or x)  # type: ignore[func-returns-value]
        attention.second = lambda x, cast=second: cast(given.append(x) or x)  # type: ignore[func-returns-value]
    multiplied = [x for operands in observed(conversion, IDS).values() for x in operands]

    assert len(given) == len(multiplied) == 8
    for index, (x, operand) in enumerate(zip(given, multiplied, strict=True)):
        exact = fake_quantize(x.float(), format, axis=-1 - index % 2)
        # (GPT-Neo takes its operands to fp32 itself)
        assert operand.dtype == (x.dtype if format == "fp4_e3m0" else torch.float32)
        assert torch.equal(operand.float(), exact)
    assert logits(model, IDS).dtype == torch.bfloat16


@every_architecture
def test_linear_products_are_left_alone_and_the_logits_move(name: str, converted: Convert) -> None:
    model = tiny(name)
    before = logits(model, IDS)
    conversion = converted(model, ATTENTION_ALONE)

    assert not torch.equal(logits(model, IDS), before)
    for product in products(model, IDS):
        on_the_grid = torch.equal(product.first, fake_quantize(product.first, "fp4_e2m1"))
        assert on_the_grid is (product.owner is None)
    conversion.undo()
    assert torch.equal(logits(model, IDS), before)


def with_fused_attention(name: str) -> PreTrainedModel:
    row = ARCHITECTURES[name]
    model = AutoModelForCausalLM.from_config(row.configuration(row.tiny), attn_implementation="sdpa")
    model.set_experts_implementation("eager")
    return model.eval().requires_grad_(False)


WITHOUT_SDPA = ("tinystories-33M", "mpt-30b", "bloom-560m", "gpt-oss-20b")


@pytest.mark.parametrize("name", WITHOUT_SDPA)
def test_these_have_no_fused_attention(name: str) -> None:
    with pytest.raises(ValueError, match="does not support an attention implementation through"):
        with_fused_attention(name)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in WITHOUT_SDPA])
def test_fused_attention_is_refused_with_what_to_do(name: str, converted: Convert) -> None:
    model = with_fused_attention(name)
    before = logits(model, IDS)
    conversion = converted(model, ATTENTION_ALONE)
    with pytest.raises(
        ValueError,
        match=r"^attention calls torch's scaled_dot_product_attention, whose operands mxcheck cannot cast; "
        r"load the model with attn_implementation='eager'$",
    ):
        logits(model, IDS)
    conversion.undo()

    assert torch.equal(logits(model, IDS), before)


class OtherAttention(nn.Module):
    """A projection, and as many products besides as asked for; or a fused function."""

    def __init__(self, count: int, fused: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.projection = nn.Linear(32, 32).requires_grad_(False)
        self.count, self.fused = count, fused

    def forward(self, x: Tensor) -> Tensor:
        x = self.projection(x)
        if self.fused is torch.einsum:
            return torch.einsum("bij,bkj->bik", x, x)
        if self.fused is not None:
            return self.fused(x, x, x)
        for _ in range(self.count):
            x = torch.matmul(x, x)
        return x


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_number_of_products_is_refused(count: int) -> None:
    module = OtherAttention(count)
    converted = ConvertedAttention("layers.0.attn", module, FP4, "eager")
    converted.activate()
    with pytest.raises(
        ValueError,
        match=rf"^layers\.0\.attn \(OtherAttention\) makes {count} products besides its projections where "
        rf"attention has two; leave --mx-attention out$",
    ):
        module(torch.ones(1, 32, 32))
    converted.revert()

    assert module(torch.ones(1, 32, 32)).shape == (1, 32, 32)


@pytest.mark.parametrize("fused", FUSED, ids=lambda function: function.__name__)
def test_functions_that_do_not_show_their_operands_are_refused(fused: Callable[..., Tensor]) -> None:
    module = OtherAttention(0, fused)
    converted = ConvertedAttention("layers.0.attn", module, FP4, "eager")
    x = torch.ones(1, 32, 32)
    before = module(x)
    converted.activate()
    with pytest.raises(ValueError, match=f"torch's {fused.__name__}, .*'eager'$"):
        module(x)
    converted.revert()

    assert torch.equal(module(x), before)


def test_a_model_without_attention_is_refused_before_it_is_changed(tiny_llama: LlamaForCausalLM) -> None:
    for layer in tiny_llama.model.layers:
        layer.self_attn = nn.Identity()
    with pytest.raises(
        ValueError,
        match=r"^LlamaForCausalLM has no module of an attention class that owns projections; "
        r"leave --mx-attention out$",
    ):
        convert(tiny_llama, recipe("mxfp4_e2m1", tier="A", attention=True))

    assert not any("forward" in vars(module) for module in tiny_llama.modules())
    convert(tiny_llama, recipe("mxfp4_e2m1", tier="A")).undo()  # the refusal left no mark
