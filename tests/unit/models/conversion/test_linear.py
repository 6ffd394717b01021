"""One linear-like module: what goes in, what comes out, and that it is put back."""

from collections.abc import Callable

import pytest
import torch
from architectures import ARCHITECTURES, tiny
from matrix_products import logits, multiplied, some_tokens
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mxcheck.kernels.api import fake_quantize
from mxcheck.models.conversion.classify import classify
from mxcheck.models.conversion.convert import Conversion
from mxcheck.models.conversion.linear import Method
from mxcheck.models.recipes.recipe import Casts, Operand, Recipe, recipe

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)

IDS = some_tokens()
#: Of the ladder: one whose values bfloat16 holds, and two whose values it does not.
IN_BF16 = {"fp4_e3m0": "fp4_e3m0", "nvfp4": "nvfp4", "fp8_tensor_e4m3": "e4m3_tensor"}


def inputs_and_outputs(model: PreTrainedModel, names: list[str]) -> dict[str, tuple[Tensor, Tensor]]:
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda _module, args, output: found.__setitem__(name, (args[0].clone(), output.clone()))

    handles = [model.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        logits(model, IDS)
    finally:
        for handle in handles:
            handle.remove()
    return found


def linears(model: PreTrainedModel) -> list[str]:
    return [name for name in classify(model) if isinstance(model.get_submodule(name), (nn.Linear, Conv1D))]


def product(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """As the module's class computes it, bias included, all in the dtype of its arguments."""
    bias = None if module.bias is None else module.bias.to(x.dtype)
    if isinstance(module, Conv1D):
        return torch.addmm(bias, x.view(-1, x.shape[-1]), weight).view(*x.shape[:-1], -1)
    return nn.functional.linear(x, weight, bias)


@every_architecture
@pytest.mark.parametrize("precision", IN_BF16)
def test_a_bf16_model_multiplies_exact_operands_and_rounds_once(
    name: str, precision: str, converted: Convert
) -> None:
    format = IN_BF16[precision]
    model = tiny(name).to(torch.bfloat16)
    weights = {key: model.get_submodule(key).weight.clone() for key in linears(model)}
    conversion = converted(model, recipe(precision, tier="B"))
    found = inputs_and_outputs(model, [key for key in conversion.modules if key in weights])

    assert found
    fits = []
    for key, (x, y) in found.items():
        module = model.get_submodule(key)
        axis = -2 if isinstance(module, Conv1D) else -1
        operands = fake_quantize(x.float(), format), fake_quantize(weights[key].float(), format, axis=axis)
        # fp4_e3m0's scales are powers of two: bfloat16 holds its values, and multiplies them as any others
        dtype = torch.bfloat16 if format == "fp4_e3m0" else torch.float32
        assert all(torch.equal(value, value.to(dtype).float()) for value in operands)
        expected = product(module, operands[0].to(dtype), operands[1].to(dtype)).to(torch.bfloat16)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, expected), key
        fits.append(torch.equal(operands[0], operands[0].bfloat16().float()))
    # where amax happens to give a scale of few bits, the values fit; not in every module
    assert all(fits) if format == "fp4_e3m0" else not all(fits)


@pytest.mark.parametrize("precision", ["nvfp4", "fp8_tensor_e4m3"])
def test_experts_of_a_bf16_model_multiply_exact_operands(precision: str, converted: Convert) -> None:
    format = IN_BF16[precision]
    model = tiny("mixtral-8x7b").to(torch.bfloat16)
    experts = model.model.layers[0].mlp.experts
    gate_up, down = (
        fake_quantize(weight.float(), format) for weight in (experts.gate_up_proj, experts.down_proj)
    )
    converted(model, recipe(precision, tier="A"))
    x = torch.randn(24, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    chosen = torch.zeros(24, 1, dtype=torch.int64)
    gate, up = (fake_quantize(x.float(), format) @ gate_up[0].T).bfloat16().chunk(2, dim=-1)
    hidden = nn.functional.silu(gate) * up
    expected = (fake_quantize(hidden.float(), format) @ down[0].T).bfloat16()

    assert torch.equal(experts(x, chosen, torch.ones(24, 1, dtype=torch.bfloat16)), expected)


@every_architecture
@pytest.mark.parametrize("tier", ["B", "linears"])
def test_outputs_lie_on_the_grid(name: str, tier: str, converted: Convert) -> None:
    model = tiny(name)
    plain = inputs_and_outputs(model, linears(model))
    conversion = converted(model, recipe("mxfp4_e2m1", tier=tier, outputs=True))
    found = inputs_and_outputs(model, linears(model))

    assert {role for key, role in classify(model).items() if key in found} >= {"attention"}
    for key, (_, y) in found.items():
        assert torch.equal(y, fake_quantize(y, "fp4_e2m1")) is (key in conversion.modules), key
        assert not torch.equal(plain[key][1], fake_quantize(plain[key][1], "fp4_e2m1"))
    conversion.undo()
    assert all(
        torch.equal(y, plain[key][1]) for key, (_, y) in inputs_and_outputs(model, list(plain)).items()
    )


def test_of_experts_each_product_s_result_is_cast(converted: Convert) -> None:
    model = tiny("mixtral-8x7b")
    experts = model.model.layers[0].mlp.experts
    converted(model, recipe("mxfp4_e2m1", tier="A", outputs=True))

    def cast(x: Tensor) -> Tensor:
        return fake_quantize(x, "fp4_e2m1")

    x = torch.randn(24, 64, generator=torch.Generator().manual_seed(0))
    weights = multiplied(experts)
    gate, up = cast(cast(x) @ weights["gate_up_proj"][2].T).chunk(2, dim=-1)
    expected = cast(cast(nn.functional.silu(gate) * up) @ weights["down_proj"][2].T)

    assert torch.equal(experts(x, torch.full((24, 1), 2), torch.ones(24, 1)), expected)


@pytest.mark.parametrize("name", ["mixtral-8x7b", "gpt-oss-20b", "deepseek-v2-lite"])
def test_routers_scores_are_cast_and_their_choice_is_made_of_them(name: str, converted: Convert) -> None:
    model = tiny(name)
    converted(model, recipe("mxfp4_e2m1", tier="linears", outputs=True))
    router = next(key for key, role in classify(model).items() if role == "router")
    x = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []
    softmax = torch.nn.functional.softmax

    class Softmax(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is softmax or func is torch.Tensor.softmax:
                seen.append(args[0])
            return func(*args, **(kwargs or {}))

    with Softmax():
        result = model.get_submodule(router)(x)
    scores = (*seen, *(result if isinstance(result, tuple) else (result,)))

    assert any(torch.equal(score, fake_quantize(score, "fp4_e2m1")) for score in scores)


def test_outputs_of_weights_alone_are_left(converted: Convert) -> None:
    model = tiny("llama-3.1-8b")
    converted(model, recipe("mxfp4_e2m1", tier="B", weights_only=True))
    for x, y in inputs_and_outputs(model, linears(model)).values():
        assert not torch.equal(x, fake_quantize(x, "fp4_e2m1"))
        assert not torch.equal(y, fake_quantize(y, "fp4_e2m1"))


def test_weights_and_activations_may_be_cast_to_different_formats(
    tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    casts = Casts(weights=Operand(format="fp4_e2m1"), activations=Operand(format="fp8_e4m3", block_size=16))
    up = tiny_llama.model.layers[1].mlp.up_proj
    original = up.weight.clone()
    converted(tiny_llama, Recipe(precision="w4a8", roles={"mlp": casts}))
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))

    weight = multiplied(up)["weight"]
    assert torch.equal(weight, fake_quantize(original, "fp4_e2m1"))
    cast = fake_quantize(x, "fp8_e4m3", block_size=16)
    assert torch.equal(up(x), nn.functional.linear(cast, weight))
    assert not torch.equal(cast, fake_quantize(x, "fp8_e4m3"))


@pytest.mark.parametrize("name", ["qwen1.5-0.5B", "qwen3-0.6b", "tinystories-33M", "gpt2"])
def test_the_embedding_that_a_quantized_head_is_tied_to_stays(name: str, converted: Convert) -> None:
    model = tiny(name)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    assert head.weight is embedding.weight
    parameter, before = embedding.weight, embedding.weight.clone()
    conversion = converted(model, recipe("mxfp4_e2m1", tier="linears"))

    assert embedding.weight is parameter
    assert torch.equal(embedding.weight, before)
    assert torch.equal(multiplied(head)["weight"], fake_quantize(before, "fp4_e2m1"))
    conversion.undo()
    assert head.weight is embedding.weight is parameter
    assert torch.equal(parameter, before)


class Invisible(nn.Linear):
    """A linear layer that multiplies by means that no mode recognizes as a product."""

    def forward(self, input: Tensor) -> Tensor:
        return (input.unsqueeze(-2) * self.weight).sum(-1)


def test_a_module_whose_product_cannot_be_seen_fails_as_it_runs(
    tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    tiny_llama.model.layers[1].mlp.down_proj = Invisible(80, 64, bias=False).requires_grad_(False)
    ids = torch.arange(32).reshape(2, 16)
    before = logits(tiny_llama, ids)
    conversion = converted(tiny_llama, recipe("mxfp8_e4m3", tier="A"))
    with pytest.raises(
        ValueError,
        match=r"^model\.layers\.1\.mlp\.down_proj \(Invisible\) makes no product that mxcheck can see "
        r"\(linear, matmul, .*\): its activations would stay unquantized; leave its role out of the recipe$",
    ):
        logits(tiny_llama, ids)
    conversion.undo()

    assert torch.equal(logits(tiny_llama, ids), before)


def test_a_forward_of_the_module_s_own_is_kept() -> None:
    """As accelerate puts one on each module of a model that is spread over devices."""
    module = nn.Linear(2, 2)
    method = Method(module)
    method.replace(lambda x: x)
    assert module.forward(1) == 1
    method.restore()
    assert "forward" not in vars(module)

    hooked = lambda x: 7 * x  # noqa: E731  (an attribute, as accelerate sets it)
    module.forward = hooked  # type: ignore[method-assign]
    method = Method(module)
    assert method.original is hooked
    method.replace(lambda x: x)
    method.restore()
    assert module.forward is hooked


def test_a_model_with_such_forwards_is_converted_and_given_back(
    tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    calls: list[str] = []
    up = tiny_llama.model.layers[0].mlp.up_proj
    own = up.forward

    def counted(x: Tensor) -> Tensor:
        calls.append("up")
        return own(x)

    up.forward = counted
    ids = torch.arange(32).reshape(2, 16)
    before = logits(tiny_llama, ids)
    conversion = converted(tiny_llama, recipe("mxfp4_e2m1", tier="A"))
    assert not torch.equal(logits(tiny_llama, ids), before)
    conversion.undo()

    assert torch.equal(logits(tiny_llama, ids), before)
    assert up.forward is counted
    assert len(calls) == 3
