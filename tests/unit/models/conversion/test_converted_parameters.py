"""Weights that are quantized at each forward, and kept ones: the same bits, whatever their owner does."""

import copy
import gc
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, tiny
from matrix_products import logits, some_tokens
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaAttention

from mxcheck.kernels.api import fake_quantize
from mxcheck.models.conversion import linear
from mxcheck.models.conversion.classify import weight_parameters
from mxcheck.models.conversion.convert import MEMORIES, Conversion, convert
from mxcheck.models.conversion.converted_parameters import running
from mxcheck.models.conversion.linear import ConvertedLinear
from mxcheck.models.conversion.probe import digests
from mxcheck.models.recipes.recipe import Recipe, recipe

IDS = some_tokens()
MLP = "model.layers.0.mlp.up_proj"


@contextmanager
def lean_and_kept(name: str, made: Recipe, dtype: torch.dtype = torch.float32) -> Iterator[list[Conversion]]:
    conversions = [convert(tiny(name).to(dtype), made, memory=memory) for memory in MEMORIES]
    yield conversions
    for conversion in conversions:
        conversion.undo()


def both(conversions: list[Conversion]) -> Tensor:
    """The logits, which both give."""
    kept, lean = (logits(one.model, IDS) for one in conversions)
    assert torch.equal(kept, lean)
    return kept


def held(conversion: Conversion) -> dict[str, ConvertedLinear]:
    return {name: one for name, one in conversion.modules.items() if isinstance(one, ConvertedLinear)}


def kept_weights(conversion: Conversion) -> list[str]:
    return [name for name, one in held(conversion).items() if one._quantized]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize(
    "made",
    [
        recipe("mxfp4_e2m1", tier="linears", outputs=True),
        recipe("nvfp4", tier="B", attention=True),
        recipe("mxfp8_e4m3", tier="A", weights_only=True),
    ],
    ids=["mxfp4-outputs", "nvfp4-attention", "weights-only"],
)
def test_the_same_bits_and_nothing_is_kept(name: str, made: Recipe) -> None:
    with lean_and_kept(name, made) as (kept, lean):
        before = logits(tiny(name), IDS)
        assert not torch.equal(both([kept, lean]), before)
        assert digests(kept) == digests(lean)
        assert kept_weights(lean) == []
        assert kept_weights(kept) == [*kept.modules]
        lean.undo()
        assert torch.equal(logits(lean.model, IDS), before)


@pytest.mark.parametrize("precision", ["nvfp4", "fp8_tensor_e4m3", "mxint8", "bf16_operands"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_same_bits_in_16_bits(precision: str, dtype: torch.dtype) -> None:
    with lean_and_kept("mixtral-8x7b", recipe(precision, tier="A"), dtype) as found:
        both(found)


def owned(conversion: Conversion, name: str = MLP) -> tuple[nn.Module, Tensor]:
    """A module, and its weight as its owner had it before."""
    module = conversion.model.get_submodule(name)
    return module, held(conversion)[name]._originals["weight"]


def in_place(conversion: Conversion) -> None:
    with torch.no_grad():
        owned(conversion)[1].add_(0.01)


def in_inference_mode(conversion: Conversion) -> None:
    with torch.inference_mode():
        owned(conversion)[1].mul_(1.7)


def other_memory(conversion: Conversion) -> None:
    weight = owned(conversion)[1]
    weight.data = weight.data * 1.3


def while_suspended(conversion: Conversion) -> None:
    with conversion.suspended():
        module = owned(conversion)[0]
        module.weight = nn.Parameter(module.weight * 0.9, requires_grad=False)


CHANGES = [in_place, in_inference_mode, other_memory, while_suspended]


@pytest.mark.parametrize("change", CHANGES)
def test_a_weight_that_its_owner_changes_counts_at_the_next_forward(
    change: Callable[[Conversion], None],
) -> None:
    with lean_and_kept("llama-3.1-8b", recipe("mxfp8_e4m3", tier="B")) as found:
        before = both(found)
        for conversion in found:
            change(conversion)
        after = both(found)
        assert not torch.equal(after, before)
        assert torch.equal(both(found), after)


def every_parameter(model: PreTrainedModel, _: str) -> None:
    for parameter in model.parameters():
        parameter.mul_(1.1)


def by_the_attribute(model: PreTrainedModel, name: str) -> None:
    model.get_parameter(name).mul_(0.7)


def loaded(model: PreTrainedModel, _: str) -> None:
    model.load_state_dict({key: value * 0.9 for key, value in model.state_dict().items()})


def loaded_by_assignment(model: PreTrainedModel, _: str) -> None:
    model.load_state_dict({key: value * 0.9 for key, value in model.state_dict().items()}, assign=True)


def assigned(model: PreTrainedModel, name: str) -> None:
    """Twice: memory and identity of the first are free again for the second."""
    module, _, key = name.rpartition(".")
    owner = model.get_submodule(module)
    for factor in (0.3, 0.6):
        setattr(owner, key, nn.Parameter(getattr(owner, key) * factor, requires_grad=False))


def tied(model: PreTrainedModel, _: str) -> None:
    model.get_input_embeddings().weight.mul_(1.3)
    model.tie_weights()


def to_bf16(model: PreTrainedModel, _: str) -> None:
    model.to(torch.bfloat16)


@pytest.mark.parametrize("precision", ["mxfp8_e4m3", "nvfp4"])
@pytest.mark.parametrize(
    "write", [every_parameter, by_the_attribute, loaded, loaded_by_assignment, assigned, tied, to_bf16]
)
@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("llama-3.1-8b", f"{MLP}.weight"),
        ("mixtral-8x7b", "model.layers.0.mlp.experts.down_proj"),
        ("qwen3-0.6b", "lm_head.weight"),  # tied to the embedding
    ],
)
def test_what_the_owner_writes_is_cast_the_same_lean_or_kept_and_outlives_the_conversion(
    architecture: str, name: str, write: Callable[[PreTrainedModel, str], None], precision: str
) -> None:
    made = recipe(precision, tier="linears")
    expected = tiny(architecture)
    with torch.no_grad():
        write(expected, name)
    with lean_and_kept(architecture, made) as found:
        before = both(found)
        for one in found:
            with torch.no_grad():
                write(one.model, name)
        after = both(found)
        states = [one.model.state_dict() for one in found]
    written = expected.state_dict()
    for one, state in zip(found, states, strict=True):
        for now in (state, one.model.state_dict(), dict(one.model.named_parameters(remove_duplicate=False))):
            assert all(torch.equal(now[key], written[key]) for key in written if key in now)
            assert name in now
        assert torch.equal(logits(one.model, IDS), logits(expected, IDS))
    converted = convert(expected, made)
    assert torch.equal(logits(expected, IDS), after)
    converted.undo()
    assert not torch.equal(after, before) or (write is tied and architecture != "qwen3-0.6b")


def test_tying_again_what_is_tied_changes_nothing() -> None:
    with lean_and_kept("qwen3-0.6b", recipe("mxfp4_e2m1", tier="linears")) as found:
        before = both(found)
        for one in found:
            one.model.tie_weights()
            assert one.model.lm_head.weight is one.model.get_input_embeddings().weight
        assert torch.equal(both(found), before)


def test_weights_kept_in_16_bits_are_cast_each_time_too_where_torch_counts_no_changes() -> None:
    with torch.inference_mode():
        model = tiny("mixtral-8x7b").to(torch.float64).bfloat16()  # torch counts no write
        conversion = convert(model, recipe("nvfp4", tier="B"))
        before = logits(model, IDS)
        every_parameter(model, "")
        changed = logits(model, IDS)
        conversion.undo()
        assert not torch.equal(changed, before)
        again = convert(model, recipe("nvfp4", tier="B"))
        assert torch.equal(logits(model, IDS), changed)
        again.undo()


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_converted_weight_cannot_be_removed(memory: str) -> None:
    model = tiny("llama-3.1-8b")
    conversion = convert(model, recipe("mxfp4_e2m1", tier="B"), memory=memory)
    module = model.get_submodule(MLP)
    for remove in (lambda: setattr(module, "weight", None), lambda: delattr(module, "weight")):
        with pytest.raises(
            ValueError, match="weight is converted and cannot be removed; undo the conversion"
        ):
            remove()
    conversion.undo()


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("change", [in_place, other_memory, while_suspended])
def test_what_the_owner_changed_is_cast_and_outlives_the_conversion(
    memory: str, change: Callable[[Conversion], None]
) -> None:
    made = recipe("mxfp8_e4m3", tier="B")
    conversion = convert(tiny("llama-3.1-8b"), made, memory=memory)
    logits(conversion.model, IDS)
    change(conversion)
    found = logits(conversion.model, IDS)
    conversion.undo()
    again = convert(conversion.model, made)
    assert torch.equal(logits(again.model, IDS), found)


def test_weights_whose_changes_torch_does_not_count_are_cast_each_time() -> None:
    with torch.inference_mode():
        conversion = convert(tiny("llama-3.1-8b").to(torch.float64).float(), recipe("mxfp8_e4m3", tier="A"))
        before = logits(conversion.model, IDS)
        in_place(conversion)
        assert not torch.equal(logits(conversion.model, IDS), before)


class ReadsItsWeights(nn.Module):
    """An attention's part that multiplies by two weights itself, and holds both meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.up_proj = nn.Linear(64, 64, bias=False).requires_grad_(False)
        self.down_proj = nn.Linear(64, 64, bias=False).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.up_proj.weight, self.down_proj.weight])
        first, second = nn.functional.linear(x, both).chunk(2, dim=-1)
        return first * second


class ReadsItsWeightsMLP(ReadsItsWeights):
    """By its name an MLP."""


def test_a_weight_that_the_model_reads_itself_is_quantized() -> None:
    found = []
    torch.manual_seed(0)
    mlp = ReadsItsWeightsMLP()
    for memory in MEMORIES:
        model = tiny("llama-3.1-8b")
        model.model.layers[1].mlp = copy.deepcopy(mlp)
        found.append(convert(model, recipe("mxfp4_e2m1", tier="B"), memory=memory))
    both(found)
    names = ["model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"]
    assert kept_weights(found[1]) == []
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    for conversion in found:
        with torch.no_grad():
            owned(conversion, names[0])[1].mul_(1.1)
        up, down = (fake_quantize(owned(conversion, name)[1], "mxfp4_e2m1") for name in names)
        part = conversion.model.model.layers[1].mlp
        assert torch.equal(part(x), nn.functional.linear(x, up) * nn.functional.linear(x, down))
    both(found)


class MultipliesByProjections(LlamaAttention):
    """An attention that multiplies by its projections itself, by a product that is no `linear`."""

    def forward(self, hidden_states: Tensor, **more: Any) -> Any:
        projections = {name: one for name, one in self.named_children() if name.endswith("_proj")}
        for name, one in projections.items():
            self._modules[name] = lambda x, one=one: torch.matmul(x, one.weight.mT)  # type: ignore[assignment]
        try:
            return super().forward(hidden_states, **more)
        finally:
            self._modules.update(projections)


def test_of_an_attention_that_reads_its_projections_two_products_are_cast() -> None:
    found = []
    for memory in MEMORIES:
        model = tiny("llama-3.1-8b")
        model.model.layers[0].self_attn.__class__ = MultipliesByProjections
        found.append(convert(model, recipe("nvfp4", tier="B", attention=True), memory=memory))
    both(found)


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_converted_module_shows_its_owner_s_weights(memory: str) -> None:
    model = tiny("llama-3.1-8b")
    weight = model.get_submodule(MLP).weight
    conversion = convert(model, recipe("mxfp4_e2m1", tier="B"), memory=memory)
    module = model.get_submodule(MLP)
    assert dict(module.named_parameters())["weight"] is weight
    assert torch.equal(model.state_dict()[f"{MLP}.weight"], weight)
    assert module.weight is weight
    assert type(copy.deepcopy(module)._parameters) is dict
    logits(model, IDS)
    assert module.weight is weight
    with running():
        assert torch.equal(module.weight, fake_quantize(weight, "mxfp4_e2m1"))
    conversion.undo()
    assert module.weight is weight
    assert type(module._parameters) is dict


def test_a_read_keeps_no_weight() -> None:
    model = tiny("llama-3.1-8b")
    conversion = convert(model, recipe("mxfp4_e2m1", tier="B"), memory="lean")
    seen: list[weakref.ref[Tensor]] = []

    def read(module: nn.Module, *_: object) -> None:
        seen.append(weakref.ref(module.up_proj.weight))

    for one in (model, model.model.layers[0].mlp):
        hook = model.model.layers[0].mlp.register_forward_pre_hook(read)
        one(input_ids=IDS) if one is model else one(torch.ones(1, 64))
        hook.remove()
    conversion.undo()
    assert len(seen) == 2
    assert seen[0]() is None
    assert kept_weights(conversion) == []


def test_a_copied_model_runs_its_own_parts() -> None:
    """A reference keeps the copy of a model's head, with another decoder."""
    model = tiny("llama-3.1-8b")
    conversion = convert(model, recipe("mxfp4_e2m1", tier="B"))
    expected = logits(model, IDS)
    copied = copy.deepcopy(model)
    assert torch.equal(logits(copied, IDS), expected)
    copied.model.norm.weight.zero_()
    assert logits(copied, IDS).count_nonzero() == 0
    assert inspect.signature(model.forward) == inspect.signature(LlamaForCausalLM.forward.__get__(model))
    conversion.undo()


def test_forwards_in_threads_leave_no_weight_behind() -> None:
    model = tiny("llama-3.1-8b")
    conversion = convert(model, recipe("mxfp4_e2m1", tier="B"), memory="lean")
    expected = logits(model, IDS)
    inside, kinds = threading.Barrier(2), held(conversion)
    cast = kinds[MLP].cast

    def met(x: Tensor) -> Tensor:
        inside.wait(60)  # both are in the module's forward before either ends
        return cast(x)

    kinds[MLP].cast = met
    with ThreadPoolExecutor(2) as pool:
        found = [one.result() for one in [pool.submit(logits, model, IDS) for _ in range(2)]]
    kinds[MLP].cast = cast
    assert all(torch.equal(one, expected) for one in found)
    for name in kinds:
        module, weight = owned(conversion, name)
        assert module.weight is weight
    conversion.undo()


def test_a_lean_module_s_bias_is_its_own() -> None:
    model = tiny("gpt2")
    conversion = convert(model, recipe("mxfp4_e2m1", tier="B"), memory="lean")
    module = model.get_submodule(next(iter(conversion.modules)))
    bias = nn.Parameter(torch.ones_like(module.bias), requires_grad=False)
    module.bias = bias
    conversion.undo()
    assert module.bias is bias


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_gradient_is_refused(memory: str) -> None:
    model = tiny("llama-3.1-8b")
    conversion = convert(model, recipe("mxfp8_e4m3", tier="A"), memory=memory)
    model.requires_grad_(True)
    with pytest.raises(ValueError, match="no gradient passes"):
        model(input_ids=IDS)
    model.requires_grad_(False)
    model(input_ids=IDS)
    conversion.undo()


def test_experts_are_cast_once_a_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their loop reads the stacked weights once for each expert."""
    made = linear.weight_values
    calls: list[tuple[int, ...]] = []

    def counted(*arguments: Any, **named: Any) -> Callable[[Tensor], Tensor]:
        cast = made(*arguments, **named)
        return lambda weight: (calls.append(tuple(weight.shape)), cast(weight))[1]

    monkeypatch.setattr(linear, "weight_values", counted)
    model = tiny("mixtral-8x7b")
    conversion = convert(model, recipe("mxfp4_e2m1", tier="A"), memory="lean")
    assert calls == []  # the casts at conversion are those that are digested
    logits(model, IDS)
    weights = [
        tuple(value.shape)
        for name, one in held(conversion).items()
        for key, value in one.module.named_parameters(recurse=False)
        if key in weight_parameters(one.module)
    ]
    assert sorted(calls) == sorted(weights)
    conversion.undo()


@pytest.mark.parametrize("precision", ["bf16", "fp32", "scaled_mm_fp8"])
def test_what_mxcheck_does_not_cast_is_kept(precision: str) -> None:
    made = recipe(precision, tier="A" if precision == "scaled_mm_fp8" else None)
    conversion = convert(tiny("llama-3.1-8b"), made, memory="lean")
    assert conversion.memory == "kept"
    conversion.undo()


def test_there_is_no_other_memory() -> None:
    model: PreTrainedModel = tiny("llama-3.1-8b")
    with pytest.raises(ValueError, match="memory"):
        convert(model, recipe("mxfp8_e4m3", tier="A"), memory="auto")
    assert not hasattr(model, "_mxcheck_conversion")


def live_bytes() -> int:
    """Of all tensors that anything holds, each memory once."""
    tensors = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_lean_forward_holds_one_module_s_weights_beside_the_model(memory: str) -> None:
    model = tiny("llama-3.1-8b")
    gc.collect()
    before = live_bytes()
    conversion = convert(model, recipe("mxfp8_e4m3", tier="B"), memory=memory)
    sizes = [one.module.get_parameter("weight").nbytes for one in held(conversion).values()]
    conversion.undo()
    gc.disable()
    del conversion
    left = live_bytes()
    gc.enable()
    assert left == before  # what an undone conversion held is free at once
    conversion = convert(model, recipe("mxfp8_e4m3", tier="B"), memory=memory)
    seen: list[int] = []

    def looked(x: Tensor) -> Tensor:
        seen.append(live_bytes() - before)
        return x

    for one in held(conversion).values():
        one.cast = looked  # called while the module's forward runs
    logits(model, IDS[:1, :1])
    activations = 2**15  # of a token, as every module's
    assert len(seen) == len(sizes)
    if memory == "lean":
        assert max(seen) < max(sizes) + activations
    else:
        assert min(seen) >= sum(sizes)
    conversion.undo()


@pytest.mark.parametrize("precision", ["nvfp4", "fp8_tensor_e4m3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kept_weights_of_a_16_bit_model_take_16_bits(precision: str, dtype: torch.dtype) -> None:
    with lean_and_kept("mixtral-8x7b", recipe(precision, tier="B"), dtype) as found:
        before = both(found)
        kept = held(found[0])
        assert kept_weights(found[0]) == []
        for one in kept.values():
            for key, original, values in one.weights():
                elements, scale = one._unscaled[key]
                assert elements.dtype == torch.bfloat16
                assert elements.shape == original.shape
                assert scale.numel() == 1
                assert values.dtype == torch.float32
        name = next(iter(kept))
        for conversion in found:
            with torch.no_grad():
                held(conversion)[name]._originals["weight"].mul_(1.7)
        assert not torch.equal(both(found), before)
        assert kept_weights(found[0]) == []
