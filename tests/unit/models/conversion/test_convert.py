from collections.abc import Callable
from typing import Any

import pytest
import torch
from matrix_products import multiplied
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import LlamaForCausalLM, PreTrainedModel

from mxcheck.kernels.api import fake_quantize
from mxcheck.models.conversion.convert import Conversion, convert
from mxcheck.models.recipes.ladder import MX
from mxcheck.models.recipes.recipe import Recipe, recipe
from mxcheck.models.zoo.load import LoadedModel
from mxcheck.run.default_gate import WHOLE_LADDER

Convert = Callable[[PreTrainedModel, Recipe], Conversion]
ReferenceModel = Callable[[str], LoadedModel]
Tokens = Callable[[LoadedModel], torch.Tensor]

MX_RECIPES = {
    f"{precision}-{tier}": recipe(precision, tier=tier)
    for precision in ("fp8_e4m3", "fp4_e2m1", "mxint8")
    for tier in ("A", "B")
}
RECIPES = {**MX_RECIPES, "bf16": recipe("bf16")}

every_model = pytest.mark.parametrize("name", WHOLE_LADDER)
every_recipe = pytest.mark.parametrize("case", RECIPES)
every_mx_recipe = pytest.mark.parametrize("case", MX_RECIPES)


def logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    now = multiplied(model)
    return {name: now[name].detach().clone() for name, _ in model.named_parameters()}


def quantized_parameters(conversion: Conversion) -> set[str]:
    """Full names of the weights that the recipe quantizes: the 3-D ones of experts, else `weight`."""
    names = set()
    for module in conversion.replaced:
        own = dict(conversion.model.get_submodule(module).named_parameters(recurse=False))
        chosen = [n for n, value in own.items() if value.dim() == 3] or ["weight"]
        names |= {f"{module}.{n}" for n in chosen}
    return names


class Operands(TorchFunctionMode):
    """Notes what enters each F.linear, by the storage of its weight. It is entered before the model runs, so
    it sees a call after every mode that the model's own modules enter."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, torch.Tensor]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is nn.functional.linear:
            self.seen.append((args[1].untyped_storage().data_ptr(), args[0].detach().clone()))
        return func(*args, **(kwargs or {}))


def operands_by_module(model: PreTrainedModel, ids: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    owners = {
        parameter.untyped_storage().data_ptr(): name.rpartition(".")[0]
        for name, parameter in multiplied(model).items()
    }
    with Operands() as operands:
        logits(model, ids)
    found: dict[str, list[torch.Tensor]] = {}
    for storage, operand in operands.seen:
        found.setdefault(owners[storage], []).append(operand)
    return found


@every_model
@every_recipe
def test_conversion_changes_the_logits_and_undo_gives_them_back(
    name: str, case: str, reference_model: ReferenceModel, tokens: Tokens, converted: Convert
) -> None:
    loaded = reference_model(name)
    ids = tokens(loaded)
    before, parameters = logits(loaded.model, ids), dict(loaded.model.named_parameters())
    conversion = converted(loaded.model, RECIPES[case])
    changed = logits(loaded.model, ids)

    assert torch.isfinite(changed).all()
    assert not torch.equal(changed, before)
    with conversion.suspended():
        assert torch.equal(logits(loaded.model, ids), before)
    assert torch.equal(logits(loaded.model, ids), changed)
    conversion.undo()
    assert torch.equal(logits(loaded.model, ids), before)
    after = dict(loaded.model.named_parameters())
    assert after.keys() == parameters.keys()
    assert all(after[key] is parameters[key] and after[key].dtype == torch.float32 for key in after)
    assert not any("forward" in vars(module) for module in loaded.model.modules())


@every_model
@every_mx_recipe
def test_only_the_recipes_weights_change_and_each_along_its_reduction_axis(
    name: str, case: str, reference_model: ReferenceModel, converted: Convert
) -> None:
    model = reference_model(name).model
    before = weights(model)
    conversion = converted(model, MX_RECIPES[case])
    quantized = quantized_parameters(conversion)
    precision = MX_RECIPES[case].precision

    assert set(conversion.replaced.values()) == set(MX_RECIPES[case].roles)
    after = weights(model)
    assert after.keys() == before.keys()
    assert {key for key in after if not torch.equal(after[key], before[key])} == quantized
    for key in quantized:
        # [out, in], or a slice [out, in] for each expert: products sum over `in`
        for original, value in zip(
            before[key].reshape(-1, *before[key].shape[-2:]),
            after[key].reshape(-1, *after[key].shape[-2:]),
            strict=True,
        ):
            assert torch.equal(value, fake_quantize(original, precision, axis=1))


@every_model
@every_mx_recipe
def test_every_product_of_a_replaced_module_gets_quantized_activations_and_no_other_does(
    name: str, case: str, reference_model: ReferenceModel, tokens: Tokens, converted: Convert
) -> None:
    loaded = reference_model(name)
    conversion = converted(loaded.model, MX_RECIPES[case])
    precision = MX_RECIPES[case].precision
    found = operands_by_module(loaded.model, tokens(loaded))

    assert found.keys() >= conversion.replaced.keys()
    for module, operands in found.items():
        # Quantizing twice changes nothing, so what went through the cast equals its own cast.
        on_the_grid = [torch.equal(x, fake_quantize(x, precision)) for x in operands]
        assert all(on_the_grid) if module in conversion.replaced else not any(on_the_grid), module


@every_model
@every_mx_recipe
def test_a_linears_operand_is_the_cast_of_the_modules_input(
    name: str, case: str, reference_model: ReferenceModel, tokens: Tokens, converted: Convert
) -> None:
    loaded = reference_model(name)
    conversion = converted(loaded.model, MX_RECIPES[case])
    linears = [n for n in conversion.replaced if isinstance(loaded.model.get_submodule(n), nn.Linear)]
    inputs: dict[str, torch.Tensor] = {}
    handles = [
        loaded.model.get_submodule(n).register_forward_pre_hook(
            lambda _module, args, n=n: inputs.__setitem__(n, args[0])
        )
        for n in linears
    ]
    try:
        found = operands_by_module(loaded.model, tokens(loaded))
    finally:
        for handle in handles:
            handle.remove()

    assert inputs.keys() == set(linears)
    for module, x in inputs.items():
        assert torch.equal(found[module][0], fake_quantize(x, MX_RECIPES[case].precision, axis=-1))
        assert not torch.equal(found[module][0], x)


@pytest.mark.parametrize("precision", ["fp8_e4m3", "fp4_e2m1", "mxint8"])
def test_experts_compute_what_a_plain_loop_over_quantized_operands_does(
    precision: str, reference_model: ReferenceModel, converted: Convert
) -> None:
    model = reference_model("ref-moe").model
    experts = model.model.layers[1].mlp.experts
    gate_up, down = experts.gate_up_proj.clone(), experts.down_proj.clone()
    converted(model, recipe(precision, tier="A"))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, gate_up.shape[-1], generator=generator)
    first = torch.arange(24) % 4
    chosen = torch.stack([first, (first + 1) % 4], dim=1)
    shares = torch.rand(24, 2, generator=generator)

    expected = torch.zeros_like(x)
    for expert in range(4):
        rows, places = torch.where(chosen == expert)
        operand = fake_quantize(x[rows], precision)
        gate, up = (operand @ fake_quantize(gate_up[expert], precision).T).chunk(2, dim=-1)
        hidden = fake_quantize(nn.functional.silu(gate) * up, precision)
        expected[rows] += (hidden @ fake_quantize(down[expert], precision).T) * shares[rows, places, None]
    with torch.no_grad():
        result = experts(x, chosen, shares)

    # Both sum the same fp32 products; the order may differ, by a few of the 2^-24 roundings on sums of 160
    # terms. A flipped code of the second cast would be 2^-4 of an element, an unquantized operand more.
    scale = expected.abs().max().item()
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5 * scale)


@every_model
def test_bf16_casts_every_parameter_and_no_buffer(
    name: str, reference_model: ReferenceModel, converted: Convert
) -> None:
    model = reference_model(name).model
    before, buffers = weights(model), {n: (b.dtype, b.clone()) for n, b in model.named_buffers()}
    conversion = converted(model, recipe("bf16"))

    assert conversion.replaced == {}
    for key, value in model.named_parameters():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, before[key].to(torch.bfloat16))
    for key, buffer in model.named_buffers():
        assert buffer.dtype == buffers[key][0]
        assert torch.equal(buffer, buffers[key][1])


@every_model
def test_fp32_changes_no_bit(
    name: str, reference_model: ReferenceModel, tokens: Tokens, converted: Convert
) -> None:
    loaded = reference_model(name)
    before = logits(loaded.model, tokens(loaded))
    conversion = converted(loaded.model, recipe("fp32"))

    assert conversion.replaced == {}
    assert torch.equal(logits(loaded.model, tokens(loaded)), before)


@every_recipe
def test_tied_embeddings_stay_tied_and_unquantized(
    case: str, reference_model: ReferenceModel, converted: Convert
) -> None:
    model = reference_model("ref-neo").model
    embedding = model.get_input_embeddings().weight
    before = embedding.detach().clone()
    assert model.get_output_embeddings().weight is embedding, "ref-neo is the tied model of the zoo"
    conversion = converted(model, RECIPES[case])

    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    # bf16 rounds it; the weights have bf16 values, so no value changes there either
    assert torch.equal(model.get_input_embeddings().weight.float(), before)
    conversion.undo()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight is embedding
    assert torch.equal(embedding, before)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "mxfp8_e4m3"])
def test_converting_twice_is_refused_until_undone(
    precision: str, tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    first = recipe(precision, tier="A" if precision in MX else None)
    conversion = converted(tiny_llama, first)
    ids = torch.arange(32).reshape(2, 16)
    expected = logits(tiny_llama, ids)
    with pytest.raises(ValueError, match="converted already"):
        convert(tiny_llama, recipe("mxfp4_e2m1", tier="B"))

    assert torch.equal(logits(tiny_llama, ids), expected)
    conversion.undo()
    conversion.undo()  # a second call does nothing
    converted(tiny_llama, recipe("mxfp4_e2m1", tier="B"))


def test_a_role_that_the_model_lacks_is_refused(tiny_llama: LlamaForCausalLM, converted: Convert) -> None:
    layers, tiny_llama.model.layers = tiny_llama.model.layers, nn.ModuleList()
    with pytest.raises(ValueError, match="LlamaForCausalLM has no module of role attention or mlp; nothing"):
        convert(tiny_llama, recipe("mxfp8_e4m3", tier="B"))
    tiny_llama.model.layers = layers

    converted(tiny_llama, recipe("mxfp8_e4m3", tier="A"))  # the refusal left no mark


def test_an_exception_inside_a_forward_leaves_no_cast_active(
    tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    converted(tiny_llama, recipe("mxfp4_e2m1", tier="A"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        tiny_llama.model.layers[0].mlp.up_proj(torch.ones(2, 32))
    x = torch.linspace(-1, 1, 33).unsqueeze(0)

    assert not torch.equal(x, fake_quantize(x, "fp4_e2m1"))
    assert torch.equal(nn.functional.linear(x, torch.eye(33)), x)


def test_an_exception_while_suspended_converts_the_model_again(
    tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    conversion = converted(tiny_llama, recipe("mxfp4_e2m1", tier="A"))
    ids = torch.arange(32).reshape(2, 16)
    expected = logits(tiny_llama, ids)
    with pytest.raises(KeyError), conversion.suspended():
        raise KeyError

    assert torch.equal(logits(tiny_llama, ids), expected)
