"""bitsandbytes itself, on the CPU, against exact arithmetic."""

import logging
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mxcheck.kernels.digest import WeightDigest, digest
from mxcheck.models.backends.backend import backend
from mxcheck.models.backends.bnb_backend import BitsAndBytes

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

BNB = backend("bnb_int8")
assert isinstance(BNB, BitsAndBytes)
THRESHOLD = BNB.threshold
UNIT = 2.0**-24  # fp32's unit roundoff
HALF_UNIT = 2.0**-11  # float16's
# What the library's CPU path takes 1 / 127^2 for, and so how far its products may be off, relatively.
CONSTANT = 6.200124e-05 * 127**2 - 1


def linear(*, bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    module = nn.Linear(128, 96, bias=bias)
    nn.init.normal_(module.weight, std=0.05)
    return module.requires_grad_(False)


def activation(*, outliers: bool) -> Tensor:
    """[2, 8, 128] below the threshold, or with two columns that reach it."""
    x = torch.randn(2, 8, 128, generator=torch.Generator().manual_seed(1)).clamp(-5, 5)
    if outliers:
        x[0, 3, 7], x[1, 2, 100] = THRESHOLD, -40.0
    return x


def held(module: nn.Module) -> tuple[Tensor, Tensor]:
    layer = BNB._layer(module)
    return layer.weight.CB, layer.weight.SCB


def exact_codes(row: list[float]) -> list[Fraction]:
    """127 v / amax, not yet rounded."""
    amax = max(abs(Fraction(value)) for value in row)
    return [127 * Fraction(value) / amax for value in row]


def weights_with_ties() -> Tensor:
    """fp32 [64, 32], seven elements of each row being half its amax: 63.5, an exact tie."""
    weight = torch.randn(64, 32, generator=torch.Generator().manual_seed(2)).half().float()
    amax = weight.abs().amax(1, keepdim=True)
    weight[:, :1] = amax
    weight[:, 4::4] = amax / 2 * weight[:, 4::4].sign()
    return weight


def test_codes_and_scales_are_those_of_the_paper_but_at_exact_ties() -> None:
    module = nn.Linear(32, 64)
    module.weight = nn.Parameter(weights_with_ties(), requires_grad=False)
    codes, scales = held(module)
    half = module.weight.half()  # the library rounds to float16 first
    assert codes.dtype == torch.int8
    assert torch.equal(scales, half.abs().amax(1).float())
    ties = 0
    for row, got in zip(half.tolist(), codes.tolist(), strict=True):
        for quotient, code in zip(exact_codes(row), got, strict=True):
            tie = quotient.denominator == 2
            ties += tie
            if tie:
                assert abs(quotient - code) == Fraction(1, 2)
            else:
                assert code == round(quotient)
    assert ties >= 64 * 7


def test_the_digest_is_of_these_codes_and_scales() -> None:
    module = linear()
    codes, scales = held(module)
    replacement = BNB.replace(module)
    assert replacement.weight_digest == WeightDigest(codes=digest(codes), scales=digest(scales))
    assert replacement.weight_bytes == 96 * 128 + 96 * 4
    module.weight[0, 0] += 0.05
    assert BNB.replace(module).weight_digest != replacement.weight_digest


def product(x: Tensor, module: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """LLM.int8()'s result from its operands in float64: of the int8 part, of the outlier columns, and the sum
    of the magnitudes of the latter's terms."""
    (codes_x, scales_x, columns, values), (codes_w, scales_w) = BNB.operand(x), held(module)
    scaled = [
        codes.double() * scales.double()[:, None] / 127
        for codes, scales in ((codes_x, scales_x), (codes_w, scales_w))
    ]
    outliers, weights = values.double(), scaled[1][:, columns]
    return scaled[0] @ scaled[1].t(), outliers @ weights.t(), outliers.abs() @ weights.abs().t()


@pytest.mark.parametrize("outliers", [False, True], ids=["no_outliers", "outliers"])
def test_the_result_is_the_product_of_these_operands(outliers: bool) -> None:
    module, x = linear(bias=False), activation(outliers=outliers)
    inner, outer, magnitude = product(x, module)
    got = BNB.replace(module).forward(x).double().reshape(16, 96)
    # int8: exact sums, the constant, four roundings. Outliers: two products of three factors and their sum.
    bound = (CONSTANT + 4 * UNIT) * inner.abs() + 6 * UNIT * magnitude + 2 * UNIT * (inner + outer).abs()
    assert bool(((got - inner - outer).abs() <= bound).all())
    assert bool(outer.any()) == outliers
    assert not bool(((got - inner - outer + inner * 2**-7).abs() <= bound).all())  # a bound that can fail


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_error_is_within_that_of_the_casts(dtype: torch.dtype) -> None:
    module, x = linear(), activation(outliers=False).to(dtype)
    got = BNB.replace(module).forward(x)
    assert got.dtype == dtype
    assert got.shape == (2, 8, 96)
    rows, weight = x.double().reshape(16, 128), module.weight.double()
    exact = rows @ weight.t() + module.bias.double()

    def cast_error(values: Tensor) -> Tensor:
        """Half a step, and the rounding to float16 (which may also move amax) before it."""
        amax = values.abs().amax(1, keepdim=True)
        return (amax / 254 + 2 * HALF_UNIT * amax).expand_as(values)

    errors = cast_error(rows), cast_error(weight)
    magnitude = rows.abs() @ weight.abs().t() + module.bias.abs().double()
    bound = errors[0] @ weight.abs().t() + rows.abs() @ errors[1].t() + errors[0] @ errors[1].t()
    # The product, the bias and the sum are rounded to x's dtype.
    bound += (CONSTANT + 4 * torch.finfo(dtype).eps) * (magnitude + bound)
    difference = (got.double().reshape(16, 96) - exact).abs()
    assert bool((difference <= bound).all())
    assert float(difference.norm() / exact.norm()) > 2.0**-10  # it is quantized


def test_a_conv1d_is_its_transposed_linear() -> None:
    module, x = linear(), activation(outliers=True)
    conv = Conv1D(96, 128)
    conv.weight = nn.Parameter(module.weight.t().contiguous(), requires_grad=False)
    conv.bias = module.bias
    ours, theirs = BNB.replace(module), BNB.replace(conv)
    assert theirs.weight_digest == ours.weight_digest
    assert torch.equal(theirs.forward(x), ours.forward(x))


def test_the_operand_is_the_row_wise_cast_with_outlier_columns_apart() -> None:
    x = activation(outliers=True)
    codes, scales, columns, values = BNB.operand(x)
    assert columns.tolist() == [7, 100]
    assert torch.equal(values, x.reshape(16, 128)[:, [7, 100]])
    assert not codes[:, columns].any()
    rows = x.reshape(16, 128).half()
    # The outliers themselves are left out of amax; their neighbours in the column are not.
    assert torch.equal(scales, rows.masked_fill(rows.abs() >= THRESHOLD, 0).abs().amax(1).float())
    kept = [column for column in range(128) if column not in (7, 100)]
    for row, got, scale in zip(rows[:, kept].tolist(), codes[:, kept].tolist(), scales.tolist(), strict=True):
        for value, code in zip(row, got, strict=True):
            quotient = 127 * Fraction(value) / Fraction(scale)
            assert code == round(quotient) or (quotient.denominator == 2 and abs(quotient - code) < 1)


def test_the_operand_digest_sees_codes_scales_columns_and_their_values() -> None:
    replacement, x = BNB.replace(linear()), activation(outliers=True)
    before = replacement.operand_digest(x)
    assert before == digest(*BNB.operand(x))
    moved = x.clone()
    moved[0, 3, 7] += 2.0**-20  # an outlier column stays as it is, so every bit of it counts
    other = BitsAndBytes(name="bnb_int8", threshold=50.0).replace(linear())
    for changed in (
        replacement.operand_digest(moved),
        replacement.operand_digest(-x),
        other.operand_digest(x),
    ):
        assert changed != before
    assert replacement.operand_digest(x) == before


def test_an_outlier_changes_the_rows_beside_it() -> None:
    replacement, x = BNB.replace(linear()), activation(outliers=True).reshape(16, 128)
    alone, together = replacement.forward(x[:1]), replacement.forward(x)[:1]
    assert not torch.equal(alone, together)
    calm = activation(outliers=False).reshape(16, 128)
    assert torch.equal(replacement.forward(calm[:1]), replacement.forward(calm)[:1])


def test_module_and_random_numbers_are_left_as_they_were() -> None:
    module, x = linear(), activation(outliers=True)
    before, bits, state = x.clone(), module.weight.clone(), torch.get_rng_state()
    replacement = BNB.replace(module)
    replacement.forward(x)
    replacement.forward(x.half())  # the library casts its bias in place
    replacement.operand_digest(x.half())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(module.weight, bits)
    assert module.bias.dtype == torch.float32
    assert torch.equal(x, before)
    expected = replacement.forward(x)
    module.weight.zero_()
    assert torch.equal(replacement.forward(x), expected)


def test_no_message_at_each_call(caplog: pytest.LogCaptureFixture) -> None:
    module, x = linear(), activation(outliers=False)
    replacement = BNB.replace(module)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        replacement.forward(x)
        assert caplog.records == []
        BNB._layer(module)(x)  # the library by itself has one
    assert "inputs will be cast from torch.float32" in caplog.text


def test_weights_beyond_float16_are_refused() -> None:
    module = linear()
    assert BNB.refuses(module) is None
    module.weight[3, 4] = -70000.0
    said = BNB.refuses(module)
    assert said is not None
    assert "70000 is beyond 65504" in said


def test_other_modules_and_devices_are_refused() -> None:
    said = BNB.refuses(nn.Embedding(4, 4))
    assert said is not None
    assert "no nn.Linear" in said
    assert BNB.missing("cpu") is None
    assert BNB.missing("mps") == "needs a model on cpu or cuda, and this one is on mps"
