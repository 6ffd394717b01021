"""Counters of converted models: against casts made by hand, on every architecture, and what takes part."""

from collections.abc import Callable

import pytest
import torch
from architectures import ARCHITECTURES, tiny
from matrix_products import logits, some_tokens
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from mxcheck.evaluation.cast_counts import counters, counting, expert_rows, weight_counters
from mxcheck.formats.spec import CastSpec
from mxcheck.gate.counters import Absent, OperandCounts, counters_from_dict
from mxcheck.kernels.api import quantize
from mxcheck.kernels.counts import CastCounts, count_cast, total
from mxcheck.models.conversion.casts import identity
from mxcheck.models.conversion.convert import Conversion
from mxcheck.models.conversion.linear import ConvertedLinear
from mxcheck.models.recipes.recipe import Casts, Operand, Recipe, recipe

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

IDS = some_tokens()
MIXTURES = ["mixtral-8x7b", "qwen3-moe-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite"]


def same(found: OperandCounts | Absent, expected: CastCounts) -> bool:
    assert isinstance(found, OperandCounts)
    numbers = ("elements", "saturated", "flushed", "top", "nan", "inf", "zero_blocks", "scales")
    return all(getattr(found, name) == getattr(expected, name) for name in numbers)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_is_counted(name: str, converted: Convert) -> None:
    model = tiny(name)
    conversion = converted(model, recipe("mxfp4_e2m1", tier="linears", attention=True))
    plain = logits(model, IDS)
    rows = expert_rows(conversion)
    with counting(conversion) as found:
        assert torch.equal(logits(model, IDS), plain)
    assert torch.equal(logits(model, IDS), plain)

    assert found.keys() == conversion.replaced.keys()
    for module, role in conversion.replaced.items():
        attention = role == "attention products"
        names = {"queries", "keys", "probabilities", "values"} if attention else {"activations"}
        assert found[module].keys() == names
        for counts in found[module].values():
            # a latent attention's key projection is no product of the module's own forward everywhere
            assert isinstance(counts, OperandCounts) or counts.reason == "the pass did not call it"
            assert isinstance(counts, Absent) or counts.nan == counts.inf == 0
    weights = weight_counters(conversion)
    assert weights.keys() == conversion.modules.keys()
    assert all(isinstance(counts["weights"], OperandCounts) for counts in weights.values())
    case = counters(conversion, found, rows)
    assert counters_from_dict(case.as_dict()) == case
    assert case.operands.keys() == conversion.replaced.keys()


def test_of_linears_equal_to_casts_by_hand(tiny_llama: LlamaForCausalLM, converted: Convert) -> None:
    down = tiny_llama.model.layers[1].mlp.down_proj
    weight, seen = down.weight.clone(), []
    conversion = converted(tiny_llama, recipe("mxfp4_e2m1", tier="A"))
    handle = down.register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone()))
    ids = torch.arange(48).reshape(2, 24)
    with counting(conversion) as found:
        logits(tiny_llama, ids)
        logits(tiny_llama, ids[:1])
    handle.remove()

    name = "model.layers.1.mlp.down_proj"
    by_hand = total(count_cast(x, quantize(x, "fp4_e2m1")) for x in seen)
    assert by_hand.elements == 72 * 80
    assert min(by_hand.saturated, by_hand.flushed, by_hand.top) > 0
    assert same(found[name]["activations"], by_hand)
    expected = count_cast(weight, quantize(weight, "fp4_e2m1"))
    assert same(weight_counters(conversion)[name]["weights"], expected)
    assert not same(found[name]["activations"], expected)


def test_of_attention_each_product_and_operand_apart(
    tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    conversion = converted(tiny_llama, recipe("mxfp8_e4m3", tier="A", attention=True))
    name = "model.layers.0.self_attn"
    part, seen = conversion.attention[name], []
    part.observe = lambda x: seen.append(x.clone())  # type: ignore[method-assign]
    with counting(conversion) as found:
        logits(tiny_llama, torch.arange(48).reshape(2, 24))
    del part.observe

    # what was seen has been cast, and casting again keeps the codes that are not flushed
    counts = found[name]
    for operand, values, axis in zip(
        ("queries", "keys", "probabilities", "values"), seen, (-1, -2, -1, -2), strict=True
    ):
        again = count_cast(values, quantize(values, "fp8_e4m3", axis=axis))
        one = counts[operand]
        assert isinstance(one, OperandCounts)
        assert (one.elements, one.scales, one.top) == (again.elements, again.scales, again.top)
    probabilities = counts["probabilities"]
    assert isinstance(probabilities, OperandCounts)
    assert probabilities.elements == 2 * 2 * 24 * 24


@pytest.mark.parametrize("name", MIXTURES)
def test_rows_of_experts_are_what_the_router_chose(name: str, converted: Convert) -> None:
    model = tiny(name)
    conversion = converted(model, recipe("mxfp8_e4m3", tier="A"))
    experts = {key: part for key, part in conversion.modules.items() if key.endswith("experts")}
    assert expert_rows(conversion) == dict.fromkeys(experts, (0, 0, 0, 0))
    chosen: dict[str, Tensor] = {}
    for key in experts:
        model.get_submodule(key).register_forward_pre_hook(
            lambda _module, args, kwargs, key=key: chosen.__setitem__(
                key, next(a for a in (*args, *kwargs.values()) if a.dtype == torch.int64)
            ),
            with_kwargs=True,
        )
    logits(model, IDS)
    rows = expert_rows(conversion)

    assert rows.keys() == experts.keys() == chosen.keys()
    for key in experts:
        assert rows[key] == tuple(torch.bincount(chosen[key].flatten(), minlength=4).tolist())
        assert len(set(rows[key])) > 1
        assert sum(rows[key]) == 2 * IDS.numel()
    logits(model, IDS)
    assert expert_rows(conversion) == {key: tuple(2 * row for row in one) for key, one in rows.items()}


def test_rows_where_all_experts_multiply_at_once() -> None:
    class AllExperts(torch.nn.Module):
        is_transposed = True

        def __init__(self) -> None:
            super().__init__()
            self.up_proj = torch.nn.Parameter(torch.randn(3, 32, 64))
            self.down_proj = torch.nn.Parameter(torch.randn(3, 64, 32))

        def forward(self, x: Tensor) -> Tensor:
            return torch.bmm(torch.bmm(x.expand(3, -1, -1), self.up_proj), self.down_proj)

    casts = Casts(activations=Operand(format="fp8_e4m3"))
    part = ConvertedLinear("all", AllExperts(), casts, Recipe(precision="own", roles={"mlp": casts}))
    part.activate()
    with torch.no_grad():
        part.module(torch.randn(5, 32))
    assert part.expert_rows == [5, 5, 5]


def reasons(conversion: Conversion, model: PreTrainedModel) -> set[tuple[str, str]]:
    with counting(conversion) as found:
        logits(model, torch.arange(32).reshape(1, 32))
    case = counters(conversion, found, {})
    return {
        (operand, counts.reason)
        for one in case.operands.values()
        for operand, counts in one.items()
        if isinstance(counts, Absent)
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (recipe("mxfp8_e4m3", tier="B"), set()),
        (
            recipe("mxfp8_e4m3", tier="B", weights_only=True),
            {("activations", "the recipe leaves it as it is")},
        ),
        (
            recipe("bf16_operands", tier="A"),
            {
                (operand, "bf16 rounds each element: it has no scales and no codes")
                for operand in ("weights", "activations")
            },
        ),
    ],
    ids=["cast", "weights only", "bf16"],
)
def test_what_is_not_counted_says_why(
    given: Recipe, expected: set[tuple[str, str]], tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    assert reasons(converted(tiny_llama, given), tiny_llama) == expected


def test_a_library_s_operands_say_why(tiny_llama: LlamaForCausalLM, converted: Convert) -> None:
    conversion = converted(tiny_llama, recipe("scaled_mm_fp8", tier="A"))
    reason = "torch casts it, and gives no codes"
    assert reasons(conversion, tiny_llama) == {("weights", reason), ("activations", reason)}


def test_scales_that_have_no_codes(tiny_llama: LlamaForCausalLM, converted: Convert) -> None:
    conversion = converted(tiny_llama, recipe("fp8_tensor_e4m3", tier="A"))
    with counting(conversion) as found:
        logits(tiny_llama, torch.arange(32).reshape(1, 32))
    for one in (*found.values(), *weight_counters(conversion).values()):
        for counts in one.values():
            assert isinstance(counts, OperandCounts)
            assert counts.scales == Absent(reason="the scale is an fp32 number, which has no code")


def only_values(x: Tensor, spec: CastSpec) -> Tensor:
    q = quantize(x, spec.format, axis=spec.axis)
    return q.dequantize(x.dtype)


def thirds_of_values(x: Tensor, spec: CastSpec) -> Tensor:
    return only_values(x, spec) / 3


def test_values_are_counted_by_the_codes_that_stand_for_them(
    tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    counted = []
    for kernel in ("eager", f"{__name__}:only_values"):
        conversion = converted(tiny_llama, recipe("mxfp8_e4m3", tier="A", attention=True, kernel=kernel))
        with counting(conversion) as found:
            logits(tiny_llama, torch.arange(32).reshape(1, 32))
        counted.append((found, weight_counters(conversion)))
        conversion.undo()
    assert counted[0] == counted[1]
    operand = Operand(format="fp8_e4m3")
    casts = Casts(weights=operand, activations=operand)
    own = Recipe(precision="own", roles={"mlp": casts}, kernel=f"{__name__}:thirds_of_values")
    reason = "the cast gave other values than the recipe's codes stand for"
    assert reasons(converted(tiny_llama, own), tiny_llama) == {("weights", reason), ("activations", reason)}


@pytest.mark.parametrize("wrong", [identity, lambda x: only_values(x, CastSpec(format="fp8_e5m2"))])
def test_a_cast_that_is_not_the_recipe_s_is_not_counted_as_if_it_were(
    wrong: Callable[[Tensor], Tensor], tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    conversion = converted(tiny_llama, recipe("mxfp8_e4m3", tier="A"))
    part = conversion.modules["model.layers.1.mlp.up_proj"]
    assert isinstance(part, ConvertedLinear)
    part.cast = wrong
    with counting(conversion) as found:
        logits(tiny_llama, torch.arange(32).reshape(1, 32))
    absent = {
        name: one["activations"] for name, one in found.items() if isinstance(one["activations"], Absent)
    }
    reason = "the cast gave other values than the recipe's codes stand for"
    assert absent == {"model.layers.1.mlp.up_proj": Absent(reason=reason)}


def test_a_module_that_the_pass_does_not_call(tiny_llama: LlamaForCausalLM, converted: Convert) -> None:
    conversion = converted(tiny_llama, recipe("mxfp8_e4m3", tier="A", attention=True))
    with counting(conversion) as found:
        tiny_llama.model.layers[0](
            torch.randn(1, 8, 64), position_embeddings=(torch.ones(1, 8, 32), torch.zeros(1, 8, 32))
        )
    assert found["model.layers.1.mlp.up_proj"] == {"activations": Absent(reason="the pass did not call it")}
    assert isinstance(found["model.layers.0.mlp.up_proj"]["activations"], OperandCounts)
    assert found["model.layers.1.self_attn"]["keys"] == Absent(reason="the pass did not call it")


def test_casts_are_put_back_when_the_pass_fails(tiny_llama: LlamaForCausalLM, converted: Convert) -> None:
    conversion = converted(tiny_llama, recipe("mxfp8_e4m3", tier="A", attention=True))
    parts = [*conversion.modules.values(), *conversion.attention.values()]
    names = ("cast", "first", "second")
    before = [getattr(part, name, None) for part in parts for name in names]
    with pytest.raises(IndexError), counting(conversion):
        logits(tiny_llama, torch.full((1, 4), 1000))
    assert [getattr(part, name, None) for part in parts for name in names] == before
