"""Every architecture through conversion, evaluation and undo, and every product of it looked at."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, tiny
from matrix_products import Product, logits, multiplied, products, some_tokens
from torch import Tensor
from transformers import PreTrainedModel

from mxcheck.evaluation.measure import Measurement, evaluate
from mxcheck.kernels.api import fake_quantize
from mxcheck.models.conversion.classify import classify, reduction_axis, weight_parameters
from mxcheck.models.conversion.convert import Conversion
from mxcheck.models.conversion.probe import digests
from mxcheck.models.recipes.recipe import Casts, Recipe, recipe

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)

NOTHING = Recipe(precision="nothing", roles={"mlp": Casts(), "attention": Casts()})
IDS = some_tokens()


def on_grid(x: Tensor, format: str, axis: int, block_size: int | None = None) -> bool:
    """Whether x equals its own cast: casting twice changes nothing."""
    return torch.equal(x, fake_quantize(x, format, axis=axis, block_size=block_size))


def both_on_grid(product: Product, format: str, block_size: int | None = None) -> tuple[bool, bool]:
    """Of the first operand along its last axis, of the second along the one before: what is summed over."""
    first = on_grid(product.first, format, -1, block_size)
    return first, on_grid(product.second, format, -2, block_size)


def state(model: PreTrainedModel) -> dict[str, tuple[int, Tensor]]:
    """Every parameter and buffer: which object it is, and a copy."""
    named = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    return {name: (id(value), value.clone()) for name, value in named.items()}


def attributes(model: PreTrainedModel) -> dict[str, set[str]]:
    return {name: set(vars(module)) for name, module in model.named_modules()}


def same(a: dict[str, tuple[int, Tensor]], b: dict[str, tuple[int, Tensor]]) -> bool:
    return a.keys() == b.keys() and all(
        a[key][0] == b[key][0] and a[key][1].dtype == b[key][1].dtype and torch.equal(a[key][1], b[key][1])
        for key in a
    )


@every_architecture
def test_conversion_evaluation_and_undo(name: str, converted: Convert) -> None:
    model = tiny(name)
    before, kept, given = logits(model, IDS), state(model), attributes(model)
    entries = {key: value.clone() for key, value in model.state_dict().items()}
    reference = evaluate(model, IDS, keep_log_probabilities=True)

    def measured(recipe: Recipe) -> Measurement:
        conversion = converted(model, recipe)
        measurement = evaluate(model, IDS, reference=reference)
        conversion.undo()
        return measurement

    nothing, four_bits = measured(NOTHING), measured(recipe("mxfp4_e2m1", tier="B"))

    assert (nothing.bit_equal, nothing.kl, nothing.top1_agreement) == (True, 0.0, 1.0)
    assert four_bits.bit_equal is False
    assert four_bits.kl is not None
    assert four_bits.kl > 0
    undone = evaluate(model, IDS, reference=reference)
    assert undone.bit_equal
    assert undone.sequence_losses == reference.sequence_losses == nothing.sequence_losses
    assert torch.equal(logits(model, IDS), before)
    assert same(state(model), kept)
    after = model.state_dict()
    assert list(after) == list(entries)
    assert all(torch.equal(after[key], entries[key]) for key in entries)
    assert attributes(model) == given
    assert not any("forward" in names for names in attributes(model).values())


@every_architecture
@pytest.mark.parametrize(
    "options", [{}, {"attention": True, "outputs": True, "elementwise": "bf16"}], ids=len
)
def test_a_conversion_with_everything_is_undone_bit_for_bit(
    name: str, options: dict[str, Any], converted: Convert
) -> None:
    model = tiny(name)
    before, kept, given = logits(model, IDS), state(model), attributes(model)
    conversion = converted(model, recipe("mxfp4_e2m1", tier="linears", **options))
    changed = logits(model, IDS)
    with conversion.suspended():
        assert torch.equal(logits(model, IDS), before)
    assert torch.equal(logits(model, IDS), changed)
    conversion.undo()

    assert not torch.equal(changed, before)
    assert torch.equal(logits(model, IDS), before)
    assert same(state(model), kept)
    assert attributes(model) == given


@every_architecture
@pytest.mark.parametrize("tier", ["A", "B", "linears"])
def test_every_module_of_the_roles_is_replaced_with_its_role(
    name: str, tier: str, converted: Convert
) -> None:
    model = tiny(name)
    made = recipe("mxfp8_e4m3", tier=tier, elementwise="bf16")
    expected = {module: role for module, role in classify(model).items() if role in made.roles}
    conversion = converted(model, made)

    assert expected.items() <= conversion.replaced.items()
    assert conversion.modules.keys() == expected.keys()
    others = {role for module, role in conversion.replaced.items() if module not in expected}
    assert others <= {"norm", "activation"}
    if tier == "linears":
        assert "lm_head" in conversion.replaced.values()
        routed = any("moe" in kind or "Router" in kind for kind in map(kind_of, model.modules()))
        assert ("router" in conversion.replaced.values()) is routed


def kind_of(module: torch.nn.Module) -> str:
    return type(module).__name__


@every_architecture
@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
def test_every_product_of_the_model_takes_its_operands_from_the_grid(
    name: str, block_size: int, converted: Convert
) -> None:
    """Seen at ATen level, so a product that mxcheck's own table misses would show here."""
    model = tiny(name)
    plain = products(model, IDS)
    made = recipe("mxfp4_e2m1", tier="linears", attention=True, block_size=block_size)
    conversion = converted(model, made)
    found = products(model, IDS)

    assert not any(True in both_on_grid(product, "fp4_e2m1", block_size) for product in plain)
    assert all(both_on_grid(product, "fp4_e2m1", block_size) == (True, True) for product in found)
    assert {product.owner for product in found} == {None, *conversion.modules}
    assert sum(product.owner is None for product in found) == 2 * len(conversion.attention)


@every_architecture
@pytest.mark.parametrize("tier", ["A", "B"])
def test_products_of_other_roles_are_left_alone(name: str, tier: str, converted: Convert) -> None:
    model = tiny(name)
    conversion = converted(model, recipe("mxfp4_e2m1", tier=tier))
    for product in products(model, IDS):
        expected = product.owner in conversion.replaced
        assert both_on_grid(product, "fp4_e2m1") == (expected, expected), product.owner


@every_architecture
@pytest.mark.parametrize(
    ("tier", "formats"),
    [
        ("C", {"mlp": "fp6_e3m2", "attention": "fp8_e4m3"}),
        ("D", {"mlp": "fp4_e2m1", "attention": "fp6_e3m2"}),
    ],
)
def test_mixed_tiers_give_each_role_its_format(
    name: str, tier: str, formats: dict[str, str], converted: Convert
) -> None:
    model = tiny(name)
    conversion = converted(model, recipe("mixed", tier=tier, attention=True))
    wider = {"fp6_e3m2": "fp4_e2m1", "fp8_e4m3": "fp6_e3m2", "fp4_e2m1": None}

    for product in products(model, IDS):
        role = "attention" if product.owner is None else classify(model)[product.owner]
        if role not in formats:
            assert both_on_grid(product, "fp8_e4m3") == (False, False)
            continue
        assert both_on_grid(product, formats[role]) == (True, True), product.owner
        if (coarser := wider[formats[role]]) is not None:
            assert both_on_grid(product, coarser) == (False, False), product.owner
    assert set(conversion.replaced.values()) == {"mlp", "attention", "attention products"}


@every_architecture
def test_weights_only_leaves_activations(name: str, converted: Convert) -> None:
    model = tiny(name)
    conversion = converted(model, recipe("mxfp4_e2m1", tier="B", weights_only=True))
    for product in products(model, IDS):
        expected = product.owner in conversion.replaced
        assert both_on_grid(product, "fp4_e2m1") == (False, expected), product.owner


@every_architecture
def test_weights_are_cast_once_along_the_axis_that_products_sum_over(name: str, converted: Convert) -> None:
    model = tiny(name)
    before = {key: value.clone() for key, value in model.named_parameters(remove_duplicate=False)}
    conversion = converted(model, recipe("mxfp4_e2m1", tier="linears"))
    after = multiplied(model)
    quantized = {
        f"{module}.{key}": reduction_axis(model.get_submodule(module))
        for module in conversion.modules
        for key in weight_parameters(model.get_submodule(module))
    }

    for key, original in before.items():
        expected = fake_quantize(original, "fp4_e2m1", axis=quantized[key]) if key in quantized else original
        assert torch.equal(after[key], expected), key


@every_architecture
def test_digests_are_complete_deterministic_and_see_another_rounding(name: str, converted: Convert) -> None:
    model = tiny(name)
    found = []
    for rounding in ("even", "even", "away"):
        conversion = converted(
            model, recipe("mxfp8_e4m3", tier="linears", rounding=rounding, attention=True, elementwise="bf16")
        )
        found.append(digests(conversion))
        names = {*conversion.modules, *conversion.attention, "element-wise results"}
        assert found[-1].keys() == names
        assert digests(conversion) == found[-1]
        conversion.undo()
    even, again, away = found

    assert again == even
    # element-wise results are rounded to bfloat16 by both; the rounding is that of the other casts
    moved = {module for module in even if even[module]["operands"] != away[module]["operands"]}
    assert moved == even.keys() - {"element-wise results"}
