import math
from collections.abc import Callable

import pytest
import torch
from architectures import ARCHITECTURES, tiny
from matrix_products import some_tokens
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel

from mxcheck.evaluation.sqnr import local_sqnr
from mxcheck.kernels.api import fake_quantize
from mxcheck.models.convert import Conversion
from mxcheck.models.load import LoadedModel
from mxcheck.models.recipe import Recipe, recipe
from mxcheck.models.zoo import REFERENCE_MODELS

Convert = Callable[[PreTrainedModel, Recipe], Conversion]
ReferenceModel = Callable[[str], LoadedModel]
Tokens = Callable[[LoadedModel], torch.Tensor]

every_model = pytest.mark.parametrize("name", REFERENCE_MODELS)


def run(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("tier", ["A", "B"])
@pytest.mark.parametrize("module", ["model.layers.0.mlp.gate_proj", "model.layers.3.mlp.down_proj"])
def test_equals_a_computation_by_hand_on_the_references_input(
    module: str, tier: str, reference_model: ReferenceModel, tokens: Tokens, converted: Convert
) -> None:
    loaded = reference_model("ref-llama")
    ids = tokens(loaded)
    inputs: list[torch.Tensor] = []
    linear = loaded.model.get_submodule(module)
    handle = linear.register_forward_pre_hook(lambda _module, args: inputs.append(args[0]))
    run(loaded.model, ids)
    handle.remove()
    output = nn.functional.linear(inputs[0], linear.weight)
    quantized = nn.functional.linear(
        fake_quantize(inputs[0], "fp4_e2m1"), fake_quantize(linear.weight, "fp4_e2m1")
    )
    signal, noise = output.double().square().sum(), (quantized - output).double().square().sum()
    result = local_sqnr(converted(loaded.model, recipe("fp4_e2m1", tier=tier)), ids)

    # In dB, rounded to a hundredth: half of that, and a little for the subtraction above, which is done in
    # fp32. The error that earlier quantized modules would add is some dB.
    assert result[module] == pytest.approx(10 * math.log10(signal / noise), abs=0.005 + 1e-5)


@every_model
def test_every_replaced_module_has_one_and_eight_bits_beat_four(
    name: str, reference_model: ReferenceModel, tokens: Tokens, converted: Convert
) -> None:
    loaded = reference_model(name)
    found = {}
    for precision in ("mxint8", "fp4_e2m1"):
        conversion = converted(loaded.model, recipe(precision, tier="B"))
        found[precision] = local_sqnr(conversion, tokens(loaded))
        assert list(found[precision]) == sorted(conversion.replaced)
        conversion.undo()

    for module, four_bits in found["fp4_e2m1"].items():
        # mxint8 has 7 significand bits, fp4_e2m1 at most 2: up to 30 dB apart. Half of it allows for the
        # blocks whose small elements mxint8 serves worse, and still tells a swap from a near tie.
        assert found["mxint8"][module] > four_bits + 15 > 15, module


@every_model
def test_the_model_is_left_converted(
    name: str, reference_model: ReferenceModel, tokens: Tokens, converted: Convert
) -> None:
    loaded = reference_model(name)
    ids = tokens(loaded)
    reference = run(loaded.model, ids)
    conversion = converted(loaded.model, recipe("fp8_e4m3", tier="B"))
    before = run(loaded.model, ids)
    local_sqnr(conversion, ids)

    assert torch.equal(run(loaded.model, ids), before)
    assert not any(module._forward_hooks for module in loaded.model.modules())
    conversion.undo()
    assert torch.equal(run(loaded.model, ids), reference)


def test_an_exact_module_is_left_out(tiny_llama: LlamaForCausalLM, converted: Convert) -> None:
    tiny_llama.model.layers[0].mlp.up_proj.weight.zero_()  # nothing in, nothing lost
    conversion = converted(tiny_llama, recipe("fp8_e4m3", tier="A"))
    result = local_sqnr(conversion, torch.arange(32).reshape(2, 16))

    # with no signal the down projection reads zeros, so it is exact as well
    left_out = {"model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"}
    assert result.keys() == conversion.replaced.keys() - left_out
    assert all(math.isfinite(value) for value in result.values())


def test_a_failing_forward_leaves_the_model_converted_and_without_hooks(
    tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    ids = torch.arange(32).reshape(2, 16)
    conversion = converted(tiny_llama, recipe("fp4_e2m1", tier="A"))
    before = run(tiny_llama, ids)
    with pytest.raises(IndexError):
        local_sqnr(conversion, ids + 96)

    assert torch.equal(run(tiny_llama, ids), before)
    assert not any(module._forward_hooks for module in tiny_llama.modules())


@every_model
def test_attention_is_measured_too_and_moves_no_other_module_s_figure(
    name: str, reference_model: ReferenceModel, tokens: Tokens, converted: Convert
) -> None:
    loaded = reference_model(name)
    found = []
    for attention in (False, True):
        conversion = converted(loaded.model, recipe("fp4_e2m1", tier="B", attention=attention))
        found.append(local_sqnr(conversion, tokens(loaded)))
        conversion.undo()
    without, with_attention = found

    products = {key: value for key, value in with_attention.items() if key in conversion.attention}
    assert len(products) == loaded.model.config.num_hidden_layers
    assert all(value > 0 for value in products.values())
    # the output projection lies inside of attention, whose quantized run is none of its own
    assert with_attention == without | products


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_of_any_size_give_the_same(
    batch_size: int, reference_model: ReferenceModel, tokens: Tokens, converted: Convert
) -> None:
    loaded = reference_model("ref-llama")
    seen: list[int] = []
    handle = loaded.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    conversion = converted(loaded.model, recipe("fp4_e2m1", tier="B", attention=True))
    try:
        assert local_sqnr(conversion, tokens(loaded), batch_size=batch_size) == local_sqnr(
            conversion, tokens(loaded)
        )
    finally:
        handle.remove()

    assert seen == [*([1] * 4 if batch_size == 1 else [3, 1]), 4]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_linear_and_attention_of_every_architecture(name: str, converted: Convert) -> None:
    model = tiny(name)
    made = recipe("fp4_e2m1", tier="linears", attention=True, outputs=True, elementwise="bf16")
    conversion = converted(model, made)
    result = local_sqnr(conversion, some_tokens())

    assert list(result) == sorted({*conversion.modules, *conversion.attention})
    assert all(0 < value < 60 for value in result.values())
