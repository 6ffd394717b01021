"""The probe at the products of attention, at element-wise results, and on every architecture."""

from collections.abc import Callable

import pytest
import torch
from architectures import ARCHITECTURES, tiny
from matrix_products import logits, multiplied, products, some_tokens
from torch import Tensor
from transformers import PreTrainedModel

from mxcheck.kernels.api import fake_quantize
from mxcheck.kernels.digest import Digest
from mxcheck.models.conversion.convert import Conversion
from mxcheck.models.conversion.probe import ATTENTION_LENGTH, digests, probe_like
from mxcheck.models.recipes.recipe import Recipe, recipe

Digests = dict[str, dict[str, Digest]]

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)

EVERYTHING = recipe("mxfp4_e2m1", tier="linears", attention=True, outputs=True, elementwise="fp4_e2m1")


def changed(before: Digests, after: Digests) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


@every_architecture
def test_every_cast_operand_is_the_cast_of_the_probe(name: str, converted: Convert) -> None:
    model = tiny(name)
    conversion = converted(model, EVERYTHING)
    seen: list[tuple[Tensor, int]] = []
    for axis, casts in ((-1, "first"), (-2, "second")):
        for attention in conversion.attention.values():
            cast = getattr(attention, casts)

            def noted(x: Tensor, cast: Callable[[Tensor], Tensor] = cast, axis: int = axis) -> Tensor:
                seen.append((x.clone(), axis))
                return cast(x)

            setattr(attention, casts, noted)
    digests(conversion)

    assert len(seen) == 4 * len(conversion.attention)
    for x, axis in seen:
        assert ATTENTION_LENGTH in x.shape[-2:]
        assert torch.equal(x, probe_like(x))
        assert not torch.equal(x, fake_quantize(x, "fp4_e2m1", axis=axis))


@every_architecture
def test_digests_leave_everything_as_it_was(name: str, converted: Convert) -> None:
    model = tiny(name)
    conversion = converted(model, EVERYTHING)
    before = logits(model, some_tokens())
    casts = [(a.first, a.second, a.observe) for a in conversion.attention.values()]
    digests(conversion)

    assert [(a.first, a.second, a.observe) for a in conversion.attention.values()] == casts
    assert torch.equal(logits(model, some_tokens()), before)


@pytest.mark.parametrize("casts", ["first", "second"])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "bloom-560m", "gpt-oss-20b"])
@pytest.mark.parametrize(
    "wrong_cast",
    [
        pytest.param(lambda x: x, id="no-cast"),
        pytest.param(lambda x: fake_quantize(x, "fp4_e2m1", axis=-3), id="wrong-axis"),
        pytest.param(lambda x: fake_quantize(x * (1 + 2**-20), "fp4_e2m1", axis=-1), id="ties-away"),
    ],
)
def test_a_wrong_cast_in_one_attention_is_seen_there_alone(
    name: str, casts: str, wrong_cast: Callable[[Tensor], Tensor], converted: Convert
) -> None:
    conversion = converted(tiny(name), EVERYTHING)
    before = digests(conversion)
    attention = list(conversion.attention)[1]
    setattr(conversion.attention[attention], casts, wrong_cast)

    assert changed(before, digests(conversion)) == {attention}


def test_a_wrong_cast_of_element_wise_results_is_seen_there_alone(converted: Convert) -> None:
    conversion = converted(tiny("llama-3.1-8b"), EVERYTHING)
    assert conversion.elementwise is not None
    before = digests(conversion)
    conversion.elementwise.cast = lambda x: fake_quantize(x * (1 + 2**-20), "fp4_e2m1")

    assert changed(before, digests(conversion)) == {"element-wise results"}


@every_architecture
def test_digests_do_not_depend_on_weights_that_are_not_their_own(name: str, converted: Convert) -> None:
    """What a product gives depends on how the machine sums, so nothing may read another's result."""
    model = tiny(name)
    conversion = converted(model, EVERYTHING)
    before = digests(conversion)
    conversion.undo()
    moved = max(conversion.modules, key=lambda key: conversion.modules[key].weight_bytes)
    parameter = next(model.get_submodule(moved).parameters(recurse=False))
    parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    after = digests(converted(model, EVERYTHING))

    assert changed(before, after) == {moved}


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-moe-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite"])
@pytest.mark.parametrize("parameter", ["gate_up_proj", "down_proj"])
@pytest.mark.parametrize("expert", [0, 3])
def test_every_expert_is_probed(name: str, parameter: str, expert: int, converted: Convert) -> None:
    conversion = converted(tiny(name), recipe("mxfp8_e4m3", tier="A"))
    experts = next(key for key in conversion.modules if key.endswith("experts"))
    before = digests(conversion)
    multiplied(conversion.modules[experts].module)[parameter][expert, 3, 5] += 1

    assert changed(before, digests(conversion)) == {experts}


def test_products_of_the_probe_are_as_many_as_the_model_s(converted: Convert) -> None:
    """One of every linear, none of them hidden behind another."""
    model = tiny("llama-3.1-8b")
    conversion = converted(model, recipe("mxfp8_e4m3", tier="linears"))

    assert {p.owner for p in products(model, some_tokens())} - {None} == set(digests(conversion))
