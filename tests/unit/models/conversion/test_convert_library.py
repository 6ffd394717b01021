"""Precisions that a library casts and multiplies, on whole models. Each library's own codes: `backends/`."""

from collections.abc import Callable

import pytest
import torch
from architectures import tiny
from matrix_products import logits, products, some_tokens
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mxcheck.evaluation.measure import evaluate
from mxcheck.models.backends.backend import backend
from mxcheck.models.conversion.classify import classify
from mxcheck.models.conversion.convert import Conversion, UnavailableError, convert
from mxcheck.models.conversion.probe import digests
from mxcheck.models.recipes.recipe import Recipe, recipe

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

PRECISIONS = ("bnb_int8", "scaled_mm_fp8", "scaled_mm_fp8_row")
#: Conv1D, a subclass of nn.Linear, fused projections, biases, a tied head; 3-D experts in the last four.
DENSE = ("gpt2", "falcon-7b", "phi-3-medium-14b", "opt-125m", "bloom-560m", "qwen1.5-0.5B", "tinystories-33M")
SPARSE = ("mixtral-8x7b", "qwen3-moe-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite")
IDS = some_tokens()

pytestmark = [
    pytest.mark.skipif(
        any(backend(name).missing("cpu") for name in PRECISIONS),
        reason="; ".join(f"{name}: {backend(name).missing('cpu')}" for name in PRECISIONS),
    )
]
every_precision = pytest.mark.parametrize("precision", PRECISIONS)


def kept(model: PreTrainedModel) -> dict[str, tuple[int, Tensor]]:
    return {key: (id(value), value.clone()) for key, value in model.named_parameters(remove_duplicate=False)}


@every_precision
@pytest.mark.parametrize("name", [*DENSE, *SPARSE])
def test_conversion_evaluation_and_undo(name: str, precision: str, converted: Convert) -> None:
    model = tiny(name)
    before, parameters = logits(model, IDS), kept(model)
    reference = evaluate(model, IDS, keep_log_probabilities=True)
    conversion = converted(model, recipe(precision, tier="B"))
    measured = evaluate(model, IDS, reference=reference, batch_size=1)

    assert measured.bit_equal is False
    changed = logits(model, IDS)
    with conversion.suspended():
        assert torch.equal(logits(model, IDS), before)
    assert torch.equal(logits(model, IDS), changed)
    conversion.undo()
    assert torch.equal(logits(model, IDS), before)
    after = kept(model)
    assert after.keys() == parameters.keys()
    assert all(after[key][0] == parameters[key][0] for key in after)
    assert all(torch.equal(after[key][1], parameters[key][1]) for key in after)
    assert not any("forward" in vars(module) for module in model.modules())
    converted(model, recipe("mxfp4_e2m1", tier="B"))
    four_bits = evaluate(model, IDS, reference=reference)
    assert measured.kl is not None
    assert four_bits.kl is not None
    assert 0 < measured.kl < four_bits.kl


@every_precision
@pytest.mark.parametrize("name", [*DENSE, *SPARSE])
@pytest.mark.parametrize("tier", ["B", "linears"])
def test_what_the_library_does_not_convert_is_left_with_its_reason(
    name: str, precision: str, tier: str, converted: Convert
) -> None:
    model = tiny(name)
    made = recipe(precision, tier=tier)
    chosen = {key: role for key, role in classify(model).items() if role in made.roles}
    conversion = converted(model, made)
    plain = {
        key: role for key, role in chosen.items() if isinstance(model.get_submodule(key), (nn.Linear, Conv1D))
    }

    assert conversion.replaced == plain
    assert conversion.modules.keys() == plain.keys()
    assert conversion.unconverted.keys() == chosen.keys() - plain.keys()
    assert bool(conversion.unconverted) is (name in SPARSE)
    for key, reason in conversion.unconverted.items():
        kind = type(model.get_submodule(key)).__name__
        assert reason == f"{kind} is no nn.Linear and no Conv1D, which is all that the library converts"


@every_precision
@pytest.mark.parametrize("name", ["gpt2", "falcon-7b", "mixtral-8x7b"])
def test_converted_products_are_the_library_s_and_others_torch_s(
    name: str, precision: str, converted: Convert
) -> None:
    model = tiny(name)
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    conversion = converted(model, recipe(precision, tier="B"))

    def note(key: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            inputs[key], outputs[key] = args[0].clone(), output.clone()

        return hook

    handles = [model.get_submodule(key).register_forward_hook(note(key)) for key in conversion.modules]
    logits(model, IDS)
    for handle in handles:
        handle.remove()
    conversion.undo()

    assert outputs.keys() == conversion.modules.keys()
    for key, module in conversion.modules.items():
        own = backend(precision).replace(module.module).forward(inputs[key])
        assert torch.equal(outputs[key], own)
        assert not torch.equal(outputs[key], module.module(inputs[key]))


@every_precision
def test_a_model_of_experts_alone_cannot_run(precision: str) -> None:
    model = tiny("mixtral-8x7b")
    with pytest.raises(
        UnavailableError,
        match=rf"^{precision} converts none of the 2 modules: model\.layers\.0\.mlp\.experts: "
        r"MixtralExperts is no nn\.Linear and no Conv1D, which is all that the library converts$",
    ):
        convert(model, recipe(precision, tier="A"))

    convert(model, recipe("mxfp4_e2m1", tier="A")).undo()  # the refusal left no mark


@pytest.mark.skipif(torch.cuda.is_available(), reason="Transformer Engine may run where there is CUDA")
@pytest.mark.parametrize("precision", ["te_fp8_current", "te_fp8_delayed", "te_mxfp8"])
def test_a_library_that_is_missing_says_so_before_anything_is_changed(precision: str) -> None:
    model = tiny("llama-3.1-8b")
    before, parameters = logits(model, IDS), kept(model)
    with pytest.raises(UnavailableError) as caught:
        convert(model, recipe(precision, tier="B"))

    assert str(caught.value) == backend(precision).missing("cpu")
    assert "\n" not in str(caught.value)
    assert torch.equal(logits(model, IDS), before)
    assert {key: value[0] for key, value in kept(model).items()} == {
        key: value[0] for key, value in parameters.items()
    }
    assert not any("forward" in vars(module) for module in model.modules())
    convert(model, recipe("mxfp4_e2m1", tier="B")).undo()  # the refusal left no mark


@every_precision
def test_digests_are_deterministic_and_of_each_module(precision: str, converted: Convert) -> None:
    model = tiny("gpt2")
    found = []
    for _ in range(2):
        conversion = converted(model, recipe(precision, tier="B"))
        found.append(digests(conversion))
        conversion.undo()
    weight = model.transformer.h[0].mlp.c_proj.weight
    weight.view(-1)[weight.abs().argmax()] *= -1
    after = digests(converted(model, recipe(precision, tier="B")))

    assert found[0] == found[1]
    assert found[0].keys() == conversion.replaced.keys()
    kinds = ("codes", "scales")
    moved = {key for key in after for kind in kinds if after[key][kind] != found[0][key][kind]}
    assert moved == {"transformer.h.0.mlp.c_proj"}
    assert all(after[key]["operands"] == found[0][key]["operands"] for key in after)


def test_no_module_of_the_role_is_an_error_of_the_recipe() -> None:
    model = tiny("llama-3.1-8b")
    with pytest.raises(ValueError, match=r"has no module of role router; nothing would be quantized$"):
        convert(
            model, Recipe(precision="bnb_int8", roles={"router": recipe("bnb_int8", tier="A").roles["mlp"]})
        )

    assert {p.owner for p in products(model, IDS)} >= {"lm_head"}
