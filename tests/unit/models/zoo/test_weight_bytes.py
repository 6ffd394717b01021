"""What the weights take with codes packed, against figures worked out by hand."""

from collections.abc import Callable

import pytest
import torch
from architectures import tiny
from transformers import PreTrainedModel

from mxcheck.models.conversion.convert import Conversion
from mxcheck.models.recipes.recipe import Casts, Operand, Recipe, recipe

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

# The tiny Llama: hidden 64, intermediate 96, 4 heads of 16, 2 of keys and values, 2 layers, 256 tokens.
MLP = 3 * 64 * 96 * 2  # gate, up and down of two layers: 36,864 elements
ATTENTION = (2 * 64 * 64 + 2 * 64 * 32) * 2  # q and o, k and v: 24,576
EMBEDDING = HEAD = 256 * 64
NORMS = 5 * 64
ALL = 4 * (MLP + ATTENTION + EMBEDDING + HEAD + NORMS)

#: Bytes of the MLP's 6 matrices: codes, and one scale a block along the axis that is summed over.
SCALES_32 = MLP // 32
BY_FORMAT = {
    "fp4_e2m1": MLP // 2 + SCALES_32,
    "fp4_e3m0": MLP // 2 + SCALES_32,
    "fp6_e3m2": MLP * 3 // 4 + SCALES_32,
    "fp6_e2m3": MLP * 3 // 4 + SCALES_32,
    "fp8_e4m3": MLP + SCALES_32,
    "fp8_e5m2": MLP + SCALES_32,
    "mxint8": MLP + SCALES_32,
    "nvfp4": MLP // 2 + MLP // 16 + 6 * 4,  # an E4M3 scale for 16, and an fp32 number a tensor
    "fp8_tensor_e4m3": MLP + 6 * 4,
    "fp8_tensor_e5m2": MLP + 6 * 4,
    "bf16_operands": 2 * MLP,
    "bnb_int8": MLP + (2 * 96 + 64) * 2 * 4,  # an fp32 scale for each output
    "scaled_mm_fp8": MLP + 6 * 4,
    "scaled_mm_fp8_row": MLP + (2 * 96 + 64) * 2 * 4,
}


@pytest.mark.parametrize("precision", BY_FORMAT)
def test_mlp_of_a_llama(precision: str, converted: Convert) -> None:
    conversion = converted(tiny("llama-3.1-8b"), recipe(precision, tier="A"))

    assert conversion.original_bytes == ALL
    assert conversion.weight_bytes == ALL - 4 * MLP + BY_FORMAT[precision]


@pytest.mark.parametrize("block_size", [16, 64, 128])
def test_blocks(block_size: int, converted: Convert) -> None:
    conversion = converted(
        tiny("llama-3.1-8b"), recipe("mxfp4_e2m1", tier="linears", block_size=block_size, weights_only=True)
    )
    # rows of 64, but for down's of 96: a last block that is not full has a scale as well
    rows, of_96 = 2 * (2 * 96 + 2 * 64 + 2 * 32) + 256, 2 * 64
    scales = rows * max(1, 64 // block_size) + of_96 * -(-96 // block_size)

    linears = MLP + ATTENTION + HEAD
    assert conversion.weight_bytes == 4 * (EMBEDDING + NORMS) + linears // 2 + scales


def test_mixed(converted: Convert) -> None:
    conversion = converted(tiny("llama-3.1-8b"), recipe("mixed", tier="D"))
    expected = MLP // 2 + MLP // 32 + ATTENTION * 3 // 4 + ATTENTION // 32

    assert conversion.weight_bytes == 4 * (EMBEDDING + HEAD + NORMS) + expected


@pytest.mark.parametrize(("precision", "divisor"), [("fp32", 1), ("bf16", 2)])
def test_whole_models(precision: str, divisor: int, converted: Convert) -> None:
    conversion = converted(tiny("llama-3.1-8b"), recipe(precision))

    assert conversion.original_bytes == ALL
    assert conversion.weight_bytes == ALL // divisor


def test_a_recipe_without_a_cast_of_weights_saves_nothing(converted: Convert) -> None:
    casts = Casts(activations=Operand(format="fp4_e2m1"))
    conversion = converted(tiny("llama-3.1-8b"), Recipe(precision="a4", roles={"mlp": casts}))

    assert conversion.weight_bytes == conversion.original_bytes == ALL


@pytest.mark.parametrize("precision", ["fp4_e2m1", "fp32", "bf16"])
def test_a_tied_head_is_counted_once_unless_it_is_quantized(precision: str, converted: Convert) -> None:
    model = tiny("qwen1.5-0.5B")  # keys and values have all 4 heads; q, k and v have a bias
    attention, biases = 4 * 64 * 64 * 2, 3 * 64 * 2
    linears = MLP + attention + HEAD
    whole = 4 * (MLP + attention + biases + EMBEDDING + NORMS)
    tier = "linears" if precision == "fp4_e2m1" else None
    conversion = converted(model, recipe(precision, tier=tier))

    assert conversion.original_bytes == whole
    assert (
        conversion.weight_bytes
        == {
            "fp32": whole,
            "bf16": whole // 2,
            # the embedding stays as it is beside the head's codes
            "fp4_e2m1": 4 * (EMBEDDING + NORMS + biases) + linears // 2 + linears // 32,
        }[precision]
    )


def test_a_bf16_model_is_half_as_large_to_begin_with(converted: Convert) -> None:
    conversion = converted(tiny("llama-3.1-8b").to(torch.bfloat16), recipe("nvfp4", tier="A"))

    assert conversion.original_bytes == ALL // 2
    assert conversion.weight_bytes == (ALL - 4 * MLP) // 2 + BY_FORMAT["nvfp4"]


def test_experts(converted: Convert) -> None:
    conversion = converted(tiny("mixtral-8x7b"), recipe("mxfp6_e3m2", tier="A"))
    experts = 4 * MLP

    assert (
        conversion.original_bytes - conversion.weight_bytes == 4 * experts - experts * 3 // 4 - experts // 32
    )
