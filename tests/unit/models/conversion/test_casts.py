"""Casts of operands as functions of tensors."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.api import fake_quantize, quantize
from mxcheck.kernels.domain import NotSupported
from mxcheck.kernels.eager import quantize_eager
from mxcheck.kernels.grown import growing
from mxcheck.kernels.standing_for import house_cast, stand_for
from mxcheck.models.conversion.casts import (
    CastFailedError,
    CastRefusedError,
    activation_cast,
    cast_weight,
    digest_weights,
    identity,
    round_to_bf16,
)
from mxcheck.models.recipes.ladder import BF16
from mxcheck.models.recipes.recipe import Operand

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

every_format = pytest.mark.parametrize("format", BLOCK_FORMATS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
every_axis = pytest.mark.parametrize("axis", [-1, -2])


def some(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@every_format
@every_dtype
@every_axis
def test_activations(format: str, dtype: torch.dtype, axis: int) -> None:
    x = some(3, 40, 72, dtype=dtype)
    y = activation_cast(Operand(format=format), "eager", axis=axis)(x)

    assert (y.shape, y.dtype) == (x.shape, dtype)
    assert torch.equal(y, fake_quantize(x, format, axis=axis))
    assert not torch.equal(y, x)
    if not BLOCK_FORMATS[format].whole_tensor:
        assert not torch.equal(y, fake_quantize(x, format, axis=-3 - axis))  # -1 for -2 and the reverse


@pytest.mark.parametrize(
    ("block_size", "scale_rule", "rounding"),
    [(16, None, "even"), (64, "rceil", "even"), (None, "ceil", "zero")],
)
def test_choices_reach_activations_and_weights(
    block_size: int | None, scale_rule: str | None, rounding: str
) -> None:
    x = some(8, 96)
    operand = Operand(format="fp8_e4m3", block_size=block_size, scale_rule=scale_rule, rounding=rounding)
    expected = fake_quantize(x, "fp8_e4m3", block_size=block_size, scale_rule=scale_rule, rounding=rounding)

    assert torch.equal(activation_cast(operand, "eager")(x), expected)
    assert torch.equal(cast_weight(x, operand, "eager", axis=-1).values, expected)
    assert not torch.equal(expected, fake_quantize(x, "fp8_e4m3"))


def test_nothing_to_cast() -> None:
    x = some(4, 64)
    weight = cast_weight(x, None, "eager", axis=-1)

    assert activation_cast(None, "eager") is identity
    assert identity(x) is x
    assert weight.values is weight.stored[0] is x
    assert weight.nbytes == 0  # it stays, and is counted where it is


@every_dtype
def test_bf16(dtype: torch.dtype) -> None:
    x = some(4, 64, dtype=dtype)
    x[0, :3] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8])  # ties, in fp32 and fp16
    y = activation_cast(Operand(format=BF16), "eager")(x)
    weight = cast_weight(x, Operand(format=BF16), "eager", axis=-1)

    assert y.dtype == dtype
    assert y[0, :3].tolist() == [1, 1 + 2**-6, -1]
    assert torch.equal(y, round_to_bf16(x))
    assert torch.equal(y, x.bfloat16().to(dtype))
    assert torch.equal(weight.values, y)
    assert torch.equal(weight.stored[0], x.bfloat16())
    assert weight.nbytes == 2 * 4 * 64


@every_format
@every_dtype
@every_axis
def test_weights_keep_their_values_codes_and_scales(format: str, dtype: torch.dtype, axis: int) -> None:
    weight = some(5, 48, 96, dtype=dtype)
    cast = cast_weight(weight, Operand(format=format), "eager", axis=axis)
    expected = quantize(weight, format, axis=axis)
    # a 16-bit type does not hold an element times a scale that is no power of two
    kept = dtype if BLOCK_FORMATS[format].scale == E8M0 else torch.float32

    assert cast.values.dtype == kept
    assert torch.equal(cast.values, expected.dequantize(kept))
    assert torch.equal(cast.values.float(), fake_quantize(weight.float(), format, axis=axis))
    assert torch.equal(cast.stored[0], expected.codes)
    assert torch.equal(cast.stored[1], expected.scales)
    assert len(cast.stored) == (3 if format == "nvfp4" else 2)
    assert cast.nbytes == expected.nbytes


def thirds(x: Tensor, _spec: object) -> Tensor:
    """A kernel of somebody's own."""
    return x / 3


def test_the_kernel_that_was_asked_for_casts() -> None:
    x = some(4, 64)
    assert torch.equal(activation_cast(Operand(format="mxint8"), f"{__name__}:thirds")(x), x / 3)
    weight = cast_weight(x, Operand(format="mxint8"), f"{__name__}:thirds", axis=-1)
    assert torch.equal(weight.values, x / 3)
    # no codes of the format stand for thirds; its bytes are those of its shape
    assert (weight.stored, weight.counts) == ((), None)
    assert weight.nbytes == quantize(x, "mxint8").nbytes
    assert digest_weights([weight, cast_weight(x, Operand(format="mxint8"), "eager", axis=-1)]) is None


@every_format
@every_dtype
@every_axis
def test_values_of_weights_are_stored_as_the_codes_that_stand_for_them(
    format: str, dtype: torch.dtype, axis: int
) -> None:
    weight = some(5, 48, 96, dtype=dtype)
    weight[0, :32], weight[1, 3] = -0.0, 0.0
    of_values, of_codes = (
        cast_weight(weight, Operand(format=format), kernel, axis=axis) for kernel in ("eager_values", "eager")
    )
    assert of_values.values.dtype == of_codes.values.dtype
    assert torch.equal(of_values.values, of_codes.values)
    assert (of_values.nbytes, of_values.counts) == (of_codes.nbytes, of_codes.counts)
    assert digest_weights([of_values]) == digest_weights([of_codes])


def test_codes_do_not_stand_for_zeros_of_another_sign() -> None:
    x = some(4, 64)
    x[0, 0] = -0.0
    cast = house_cast(x, Operand(format="fp8_e4m3").spec(axis=-1))
    values = cast.dequantize()
    assert stand_for(cast, values)
    assert not stand_for(cast, torch.where(values == 0, 0.0, values))
    values[1, 1] = torch.nan
    assert not stand_for(cast, values)


def lacks_an_operation(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    x.to(torch.float8_e4m3fn).max()
    return quantize_eager(x, spec)


def test_an_operation_that_torch_lacks_is_no_refusal() -> None:
    """torch raises NotImplementedError of its own; that is an error of the kernel."""
    operand, kernel = Operand(format="fp8_e4m3"), f"{__name__}:lacks_an_operation"
    for call in (
        lambda: activation_cast(operand, kernel)(torch.ones(2, 32)),
        lambda: cast_weight(torch.ones(2, 32), operand, kernel, axis=-1),
    ):
        with pytest.raises(CastFailedError, match=r"NotImplementedError: .*not implemented for"):
            call()


def skips(_x: Tensor, _spec: CastSpec) -> tuple[Tensor, ...]:
    pytest.skip("not on Mondays")


def of_other_scales(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    codes, scales = quantize_eager(x, spec)
    return codes, scales.mT


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (skips, "Skipped: not on Mondays"),
        (
            of_other_scales,
            "ValueError: kernel {kernel} returned scales of shape (96, 1), .* expected (1, 96), .*",
        ),
    ],
)
def test_a_kernel_that_fails_is_told_with_what_it_was_to_cast(kernel: Any, words: str) -> None:
    weight, name = torch.ones(32, 96), f"{__name__}:{kernel.__name__}"
    with pytest.raises(CastFailedError) as raised:
        cast_weight(weight, Operand(format="fp8_e4m3"), name, axis=-2, of="weights of h.0.c_attn")
    of = f"kernel {name} fails at weights of h.0.c_attn, float32 [32, 96] along axis -2: "
    said = str(raised.value)
    assert said.startswith(of), said
    assert re.fullmatch(
        re.escape(words).replace(r"\{kernel\}", name).replace(r"\.\*", ".*"), said.removeprefix(of)
    )


def of_128_rows(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    if len(x) % 128:
        raise NotSupported("whole tiles")
    return quantize_eager(x, spec)


def test_a_probe_that_is_refused_ends_with_what_declares_the_rows() -> None:
    cast = activation_cast(Operand(format="fp8_e4m3"), f"{__name__}:of_128_rows")
    with growing(), pytest.raises(CastRefusedError, match="whole tiles; ") as raised:
        cast(torch.ones(32, 32))
    assert str(raised.value).endswith("a kernel declares: @mxcheck.domain(rows_multiple=128, …)")
    with pytest.raises(CastRefusedError, match=r"whole tiles$"):  # of the case's own shapes none may differ
        cast(torch.ones(32, 32))
