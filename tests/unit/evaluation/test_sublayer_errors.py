from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, tiny
from matrix_products import logits, some_tokens
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedModel

from mxcheck.evaluation.layer_states import LayerStates, reference_states
from mxcheck.evaluation.sublayer_errors import PROJECTIONS, _figures, signs, sublayer_errors, sublayers
from mxcheck.gate.sublayer_drift import SublayerError
from mxcheck.kernels.api import fake_quantize
from mxcheck.models.conversion.convert import Conversion
from mxcheck.models.recipes.recipe import Recipe, recipe

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def measured(
    model: PreTrainedModel, made: Recipe, convert: Convert, states: LayerStates | None = None
) -> Any:
    conversion = convert(model, made)
    found = sublayer_errors(conversion, states or first_states(model))
    conversion.undo()
    return found


def first_states(model: PreTrainedModel) -> LayerStates:
    vocabulary = model.config.get_text_config().vocab_size
    return reference_states(model, some_tokens() % vocabulary)


@every_architecture
def test_every_layer_its_attention_and_its_mlp_have_figures(name: str, converted: Convert) -> None:
    model = tiny(name)
    states = first_states(model)
    found = measured(model, recipe("mxfp8_e4m3", tier="B"), converted, states)

    assert found.absent == {}
    assert set(found.errors) == {
        f"{layer}.{part}" for layer in states.layers for part in ("attention", "mlp", "layer")
    }
    assert len(states.layers) == 2
    for place, error in found.errors.items():
        # fp8_e4m3 rounds to 3 bits: by 1/16 at most, and over a sublayer's products by a few times that
        assert 0.01 < error.norm < 0.3, place
        assert error.norm <= error.norm_99, place
        assert 0 < error.gain_99 <= error.norm_99, place
        assert len(error.sketch) == PROJECTIONS, place
        # 64 sums of mean square 1: their root mean square is 1 ± 0.09
        assert math.hypot(*error.sketch) / 8 == pytest.approx(100, rel=0.45), place


@every_architecture
def test_what_changes_nothing_has_an_error_of_exactly_zero(name: str, converted: Convert) -> None:
    for error in measured(tiny(name), recipe("fp32"), converted).errors.values():
        assert (error.gain, error.gain_99, error.norm, error.norm_99, error.sketch) == (0, 0, 0, 0, ())
        assert error.size > 0


@every_architecture
def test_an_mlp_feels_nothing_of_its_attention_nor_of_other_layers(name: str, converted: Convert) -> None:
    """Tier A leaves attention as it is: the MLP's figures are those of tier B to the bit, and attention's are
    exactly zero."""
    model = tiny(name)
    states = first_states(model)
    alone, both = (measured(model, recipe("mxfp4_e2m1", tier=tier), converted, states) for tier in "AB")

    for place, error in both.errors.items():
        if place.endswith(".mlp"):
            assert alone.errors[place] == error
        elif place.endswith(".attention"):
            assert alone.errors[place].norm == 0 < error.norm
        else:
            assert alone.errors[place] != error  # the whole layer feels both


@every_architecture
def test_a_model_in_bfloat16_and_the_step_bf16_are_measured_and_leave_the_states_alone(
    name: str, converted: Convert
) -> None:
    model = tiny(name)
    states = first_states(model)
    before = states.digest
    in_bf16 = measured(model, recipe("bf16"), converted, states)
    of_bf16 = measured(model.bfloat16(), recipe("mxfp8_e4m3", tier="B"), converted, states)  # changes `model`
    for found, least in ((in_bf16, 1e-3), (of_bf16, 1e-2)):
        assert found.absent == {}
        assert all(least < error.norm < 0.5 for error in found.errors.values())
    assert states.digest == before


def test_equals_a_computation_by_hand(tiny_llama: LlamaForCausalLM, converted: Convert) -> None:
    states = first_states(tiny_llama)
    x = states.layers["model.layers.1"].float()
    layer = tiny_llama.model.layers[1]
    positions = torch.arange(32).unsqueeze(0)
    mask = torch.full((32, 32), torch.finfo(torch.float32).min).triu(1)[None, None]
    embeddings = tiny_llama.model.rotary_emb(x, positions)
    normed = layer.input_layernorm(x)
    attention = layer.self_attn(normed, position_embeddings=embeddings, attention_mask=mask)[0]
    h = layer.post_attention_layernorm(x + attention)

    def product(value: Tensor, linear: nn.Linear) -> Tensor:
        return fake_quantize(value, "fp4_e2m1") @ fake_quantize(linear.weight, "fp4_e2m1").mT

    y = layer.mlp(h).double()[0]
    inner = nn.functional.silu(product(h, layer.mlp.gate_proj)) * product(h, layer.mlp.up_proj)
    error = product(inner, layer.mlp.down_proj).double()[0] - y
    gain = (error * y).sum(-1) / y.square().sum(-1)
    norm = error.norm(dim=-1) / y.norm(dim=-1)
    direction = (error / error.norm(dim=-1, keepdim=True)).flatten() / math.sqrt(32)
    found = measured(tiny_llama, recipe("mxfp4_e2m1", tier="B"), converted, states).errors[
        "model.layers.1.mlp"
    ]

    assert found.gain == pytest.approx(gain.quantile(0.5).item(), abs=1e-6)
    assert found.gain_99 == pytest.approx(gain.abs().quantile(0.99).item(), abs=1e-6)
    assert found.norm == pytest.approx(norm.quantile(0.5).item(), rel=1e-5)
    assert found.norm_99 == pytest.approx(norm.quantile(0.99).item(), rel=1e-5)
    assert found.size == pytest.approx((y.norm(dim=-1) / x[0].norm(dim=-1)).quantile(0.5).item(), rel=1e-5)
    # rounded to hundredths
    assert found.sketch == pytest.approx((100 * direction @ signs(32 * 64).double()).tolist(), abs=0.51)


def test_depth_amplifies_nothing(tiny_llama: LlamaForCausalLM, converted: Convert) -> None:
    states = first_states(tiny_llama)
    made = recipe("mxfp4_e2m1", tier="B")
    before = measured(tiny_llama, made, converted, states).errors
    tiny_llama.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    after = measured(tiny_llama, made, converted, states).errors

    moved = {place for place in before if before[place] != after[place]}
    assert moved == {"model.layers.0.mlp", "model.layers.0.layer"}


@pytest.mark.parametrize("part", ["input_layernorm", "post_attention_layernorm"])
def test_a_norm_weight_that_reference_and_case_share_shows_in_the_size(
    part: str, tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    states = first_states(tiny_llama)
    made = recipe("mxfp4_e2m1", tier="B")
    before = measured(tiny_llama, made, converted, states).errors
    tiny_llama.model.layers[0].get_submodule(part).weight.mul_(1.01)
    after = measured(tiny_llama, made, converted, states).errors

    place = f"model.layers.0.{'attention' if part == 'input_layernorm' else 'mlp'}"
    # both parts are about linear in their input, the MLP about quadratic
    assert 0.005 < after[place].size / before[place].size - 1 < 0.03
    assert after["model.layers.1.layer"] == before["model.layers.1.layer"]


@pytest.mark.parametrize("name", ["bloom-560m", "mpt-30b"])
def test_what_a_module_adds_of_the_residual_is_no_part_of_its_update(name: str, converted: Convert) -> None:
    model = tiny(name)
    states = first_states(model)
    layer = model.get_submodule(next(iter(states.layers)))
    outputs = [one for key, one in layer.named_modules() if key.endswith(("4h_to_h", "down_proj"))]
    (last,) = outputs
    for parameter in last.parameters():
        parameter.zero_()
    found = measured(model, recipe("mxfp8_e4m3", tier="A"), converted, states)

    (place,) = found.absent
    assert place == f"{next(iter(states.layers))}.mlp"
    assert found.absent[place] == "its update is zero at 32 of 32 tokens"


# The figures alone


def figures(update: Tensor, error: Tensor, state: Tensor | None = None) -> SublayerError:
    start = torch.ones_like(update) if state is None else state
    found = _figures(update, update + error, None, start)
    assert isinstance(found, SublayerError)
    return found


@pytest.fixture
def update() -> Tensor:
    return torch.randn(32, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def error() -> Tensor:
    return 0.1 * torch.randn(32, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.5])
def test_the_gain_is_signed(factor: float, update: Tensor) -> None:
    found = figures(update, (factor - 1) * update)
    assert found.gain == pytest.approx(factor - 1)
    assert (found.gain_99, found.norm) == pytest.approx((abs(factor - 1), abs(factor - 1)))


def test_an_error_across_the_update_has_no_gain(update: Tensor, error: Tensor) -> None:
    share = (error * update).sum(-1, keepdim=True) / update.square().sum(-1, keepdim=True)
    found = figures(update, error - share * update)
    assert found.gain_99 < 1e-12
    assert found.norm > 0.05


def test_a_longer_error_moves_the_norm_and_not_the_sketch(update: Tensor, error: Tensor) -> None:
    one, two = figures(update, error), figures(update, 2 * error)
    assert two.norm == pytest.approx(2 * one.norm)
    assert two.sketch == one.sketch
    assert figures(update, -error).sketch == tuple(-value for value in one.sketch)


def test_another_error_of_the_same_length_moves_the_sketch_by_its_distance(
    update: Tensor, error: Tensor
) -> None:
    turned = error.clone()
    turned[:16] = -turned[:16]  # half of the tokens: as vectors 2 * sqrt(1/2) apart
    one, two = figures(update, error), figures(update, turned)
    assert two.norm == one.norm
    assert math.dist(one.sketch, two.sketch) / math.hypot(*one.sketch) == pytest.approx(
        math.sqrt(2), rel=0.35
    )


def test_one_token_of_extreme_values_decides_nothing(update: Tensor, error: Tensor) -> None:
    one = figures(update, error)
    wide = torch.ones(32, 1, dtype=torch.float64)
    wide[0] = 1e4
    extreme = figures(update * wide, error * wide, wide.expand(32, 48))
    assert extreme.sketch == one.sketch
    assert (extreme.gain, extreme.norm) == pytest.approx((one.gain, one.norm))


def test_streams_before_the_tokens_belong_to_their_token(update: Tensor, error: Tensor) -> None:
    """[streams, 1, tokens, width], as Gemma 3n has its hidden states."""

    def in_streams(value: Tensor) -> Tensor:
        return value.view(32, 4, 12).movedim(0, 1).unsqueeze(1)

    found = figures(in_streams(update), in_streams(error), torch.ones(4, 1, 32, 12))
    assert found == figures(update, error)


def test_the_size_is_relative_to_the_layer_s_input(update: Tensor, error: Tensor) -> None:
    doubled = torch.full_like(update, 2.0)
    assert figures(update, error, doubled).size == pytest.approx(figures(update, error).size / 2)


@pytest.mark.parametrize(
    ("value", "reason"), [(torch.nan, "NaN or infinite"), (torch.inf, "NaN or infinite"), (0.0, "zero at 1")]
)
def test_what_has_no_figure_says_why(value: float, reason: str, update: Tensor) -> None:
    spoilt = update.clone()
    spoilt[3] = value
    found = _figures(spoilt, spoilt + 1, None, torch.ones_like(update))
    assert isinstance(found, str)
    assert reason in found


def test_signs_are_the_bits_of_splitmix64() -> None:
    def word(counter: int) -> int:
        z = (20251121 + counter * 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    found = signs(1000)
    assert found.dtype == torch.int8
    assert found.shape == (1000, 64)
    for row in (0, 1, 999):
        assert found[row].tolist() == [1 - 2 * (word(row + 1) >> bit & 1) for bit in range(64)]
    # 64,000 fair signs: their mean is 0 ± 0.004
    assert abs(found.double().mean()) < 0.02


# What cannot be measured


def test_a_layer_without_a_part_says_so(tiny_llama: LlamaForCausalLM, converted: Convert) -> None:
    tiny_llama.model.layers[0].mlp = nn.Identity()
    found = measured(tiny_llama, recipe("mxfp8_e4m3", tier="B"), converted)
    assert found.absent == {"model.layers.0.mlp": "the layer has no linear module of role mlp"}
    assert "model.layers.0.layer" in found.errors


def test_a_layer_that_is_called_twice_says_so(tiny_llama: LlamaForCausalLM, converted: Convert) -> None:
    tiny_llama.model.layers[1] = tiny_llama.model.layers[0]
    found = measured(tiny_llama, recipe("mxfp8_e4m3", tier="B"), converted)
    assert found.errors == {}
    assert set(found.absent) == {f"model.layers.0.{part}" for part in ("attention", "mlp", "layer")}
    assert all("calls it 2 times" in reason for reason in found.absent.values())


def test_parts_that_lie_directly_in_a_layer_are_told_only_if_they_are_a_chain() -> None:
    class Layer(nn.Module):
        def __init__(self, names: list[str]) -> None:
            super().__init__()
            for name in names:
                setattr(self, name, nn.Linear(4, 4))

    class Model(nn.Module):
        def __init__(self, names: list[str]) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Layer(names)])

    two, _ = sublayers(Model(["fc1", "fc2"]))
    assert two["layers.0.mlp"].modules == ("layers.0.fc1", "layers.0.fc2")
    found, absent = sublayers(Model(["mlp_gate", "mlp_up", "mlp_down"]))
    assert set(found) == {"layers.0.layer"}
    assert absent["layers.0.mlp"] == "no module holds its 3 linear modules: its input cannot be told"


# The model afterwards


def test_the_model_is_left_converted_and_without_hooks(
    tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    ids = torch.arange(32).reshape(1, 32)
    states = reference_states(tiny_llama, ids)
    reference = logits(tiny_llama, ids)
    conversion = converted(tiny_llama, recipe("mxfp8_e4m3", tier="B"))
    before = logits(tiny_llama, ids)
    sublayer_errors(conversion, states)

    assert torch.equal(logits(tiny_llama, ids), before)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in tiny_llama.modules())
    conversion.undo()
    assert torch.equal(logits(tiny_llama, ids), reference)


def test_a_failing_forward_leaves_the_model_converted_and_without_hooks(
    tiny_llama: LlamaForCausalLM, converted: Convert
) -> None:
    ids = torch.arange(32).reshape(1, 32)
    states = reference_states(tiny_llama, ids)
    conversion = converted(tiny_llama, recipe("mxfp8_e4m3", tier="B"))
    before = logits(tiny_llama, ids)
    states.tokens[0, 0] = 96  # no such token
    with pytest.raises(IndexError):
        sublayer_errors(conversion, states)

    assert torch.equal(logits(tiny_llama, ids), before)
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in tiny_llama.modules())
