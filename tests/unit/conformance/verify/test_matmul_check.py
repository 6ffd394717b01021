"""The verifier of products: right sums in any order are within the bound, faults made on purpose are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mxcheck.conformance.verify.matmul_check import (
    accumulation_bound,
    decoded,
    exact_product,
    verify,
    verify_product,
)
from mxcheck.formats.codes import scale_values
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.kernels.api import fake_quantize, load_target, quantize
from mxcheck.kernels.block_matmul import matmul, product
from mxcheck.kernels.quantized import QuantizedTensor
from mxcheck.kernels.registry import PRODUCTS

MX = ("fp8_e4m3", "fp8_e5m2", "fp6_e3m2", "fp6_e2m3", "fp4_e2m1", "mxint8")
FORMATS = (*MX, "nvfp4", "e4m3_tensor", "e4m3_row")
LENGTHS = (96, 100, 1024)

each_format = pytest.mark.parametrize("name", FORMATS)
each_mx_format = pytest.mark.parametrize("name", MX)


def quantized(x: Tensor, spec: CastSpec) -> QuantizedTensor:
    return quantize(x, spec.format, axis=spec.axis)


def operands(length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """fp32 [4, length] and [5, length], of one size throughout: no outliers help to find the faults below."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, length, generator=generator), torch.randn(5, length, generator=generator)


def values(a: Tensor, b: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor]:
    return quantized(a, spec).dequantize(), quantized(b, spec).dequantize()


# Right implementations


def permuted(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    left, right = values(a, b, spec)
    order = torch.randperm(a.shape[1], generator=torch.Generator().manual_seed(7))
    return left[:, order] @ right[:, order].T


def one_by_one(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    left, right = values(a, b, spec)
    total = torch.zeros(len(a), len(b))
    for k in range(a.shape[1]):
        total += left[:, k, None] * right[:, k]
    return total


def in_float64(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    left, right = values(a, b, spec)
    return (left.double() @ right.double().T).float()


def in_float64_to_bf16(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    return in_float64(a, b, spec).bfloat16()


def in_float64_to_fp16(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    return in_float64(a, b, spec).half()


@each_format
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    "right", [product, permuted, one_by_one, in_float64, in_float64_to_bf16, in_float64_to_fp16]
)
def test_right_products_are_within(name: str, length: int, right: Callable[..., Tensor]) -> None:
    report = verify_product(right, *operands(length), cast_spec(name))
    assert report.within, str(report)
    assert not report.unjudged


@each_mx_format
def test_sums_within_blocks_scaled_afterwards_are_within(name: str) -> None:
    """As OCP MX v1.0, section 6.1, writes it: both scales times the dot product of the elements."""

    def blockwise(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
        total = torch.zeros(len(a), len(b))
        left, right = quantized(a, spec), quantized(b, spec)
        (element_a, scale_a), (element_b, scale_b) = map(_elements_and_scales, (left, right))
        for block in range(scale_a.shape[1]):
            stretch = slice(32 * block, 32 * block + 32)
            inner = element_a[:, stretch] @ element_b[:, stretch].T
            total += inner * (scale_a[:, block, None] * scale_b[:, block])
        return total

    for length in LENGTHS:
        report = verify_product(blockwise, *operands(length), cast_spec(name))
        assert report.within, str(report)


def _elements_and_scales(x: QuantizedTensor) -> tuple[Tensor, Tensor]:
    return replace(x, scales=torch.full_like(x.scales, 127)).dequantize(), torch.tensor(scale_values())[
        x.scales.int()
    ].float()


def test_the_bound_is_no_looser_than_it_has_to_be() -> None:
    """1 + 2^-24 + 2^-24 + ... from the left: each addition loses all of what it adds."""
    terms = torch.tensor([1.0] + [2.0**-12] * 1023)
    total = torch.zeros(())
    for term in terms:
        total = total + term * term
    assert total == 1
    exact = terms.double().numpy()[None]
    report = verify(total.reshape(1, 1), exact, exact)
    assert 0.99 < report.ratio <= 1


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)], ids=["bf16", "fp16"])
def test_so_is_what_it_allows_for_a_16_bit_result(dtype: torch.dtype, bits: int) -> None:
    tie = np.array([[1 + 2.0**-bits]])
    report = verify(torch.ones(1, 1, dtype=dtype), tie, np.ones((1, 1)))
    assert 0.99 < report.ratio <= 1
    assert not verify(torch.ones(1, 1), tie, np.ones((1, 1))).within


# Faults


def shifted_scales(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    left = quantized(a, spec)
    return matmul(replace(left, scales=left.scales.roll(1, -1)), quantized(b, spec))


def one_scale_off_by_one(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    right = quantized(b, spec)
    scales = right.scales.clone()
    scales[2, 1] += 1
    return matmul(quantized(a, spec), replace(right, scales=scales))


def other_axis(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    left, right = (fake_quantize(x, spec.format, axis=0) for x in (a, b))
    return left @ right.T


def dropped_tail(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    whole = a.shape[1] - a.shape[1] % 32
    return product(a[:, :whole], b[:, :whole], spec)


def tail_not_cut_back(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    """The padding holds what was in memory before, not zeros."""
    missing = -a.shape[1] % 32
    return product(*(torch.cat([x, x[:, :missing]], 1) for x in (a, b)), spec)


def not_quantized(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    del spec
    return a @ b.T


def bf16_accumulator(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    left, right = values(a, b, spec)
    total = torch.zeros(len(a), len(b), dtype=torch.bfloat16)
    for k in range(a.shape[1]):
        total += (left[:, k, None] * right[:, k]).bfloat16()
    return total.float()


def bf16_accumulator_bf16_result(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
    return bf16_accumulator(a, b, spec).bfloat16()


@each_mx_format
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    "fault",
    [
        shifted_scales,
        one_scale_off_by_one,
        other_axis,
        not_quantized,
        bf16_accumulator,
        bf16_accumulator_bf16_result,
    ],
)
def test_faults_exceed_the_bound(name: str, length: int, fault: Callable[..., Tensor]) -> None:
    report = verify_product(fault, *operands(length), cast_spec(name))
    assert not report.within
    if fault is one_scale_off_by_one:
        assert report.index[1] == 2  # the row of b whose scale it is


@each_mx_format
@pytest.mark.parametrize("fault", [dropped_tail, tail_not_cut_back])
def test_a_mishandled_tail_exceeds_the_bound(name: str, fault: Callable[..., Tensor]) -> None:
    assert not verify_product(fault, *operands(100), cast_spec(name)).within


@pytest.mark.parametrize("name", ["nvfp4", "e4m3_tensor", "e4m3_row"])
def test_tf32_operands_exceed_the_bound(name: str) -> None:
    """These decoded values have more than TF32's 11 bits. (MX values do not: there TF32 is exact.)"""

    def tf32(x: Tensor) -> Tensor:
        return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

    def with_tf32(a: Tensor, b: Tensor, spec: CastSpec) -> Tensor:
        left, right = values(a, b, spec)
        return tf32(left) @ tf32(right).T

    assert not verify_product(with_tf32, *operands(96), cast_spec(name)).within


# NaN and Inf


@each_mx_format
def test_a_poisoned_block_makes_the_outputs_that_use_it_nan(name: str) -> None:
    a, b = operands(96)
    a[1, 40] = torch.nan
    b[3, 0] = torch.inf
    spec = cast_spec(name)
    got = product(a, b, spec)
    expected = torch.zeros(4, 5, dtype=torch.bool)
    expected[1], expected[:, 3] = True, True
    assert torch.equal(got.isnan(), expected)
    assert verify_product(product, a, b, spec).within


@pytest.mark.parametrize(
    ("index", "value"),
    [((0, 0), torch.nan), ((0, 0), torch.inf), ((1, 0), 0.0), ((1, 3), torch.inf)],
    ids=["nan-elsewhere", "inf-elsewhere", "number-for-nan", "inf-for-nan"],
)
def test_confused_nans_fail(index: tuple[int, int], value: float) -> None:
    a, b = operands(96)
    a[1, 40] = torch.nan
    b[3, 0] = torch.nan
    spec = cast_spec("fp8_e4m3")
    got = product(a, b, spec)
    got[index] = value
    report = verify(got, decoded(a, spec), decoded(b, spec))
    assert (report.ratio, report.index, report.within) == (math.inf, index, False)


def test_outputs_that_may_overflow_are_counted_not_judged() -> None:
    a, b = operands(64)
    a[2] *= 2.0**125
    b[4, 0] = 2.0**100
    report = verify_product(product, a, b, cast_spec("fp8_e4m3"))
    assert report.within
    assert 0 < report.unjudged <= 5
    assert f"{report.unjudged} outputs not judged" in str(report)


def test_products_that_underflow_are_within() -> None:
    a, b = (x * 2.0**-72 for x in operands(96))
    for name in FORMATS:
        report = verify_product(product, a, b, cast_spec(name))
        assert report.within, f"{name}: {report}"


# exact_product and the bound

_bits = st.integers(-(2**53), 2**53)
_numbers = st.builds(math.ldexp, _bits.map(float), st.integers(-120, 120))


@settings(max_examples=200)
@given(st.lists(st.tuples(_numbers, _numbers), min_size=1, max_size=12), st.booleans())
def test_exact_product_is_that_of_fractions(pairs: list[tuple[float, float]], cancel: bool) -> None:
    if cancel:  # what is left is far smaller than what was added
        pairs = [*pairs, *((-x, y) for x, y in pairs), (2.0**-300, 1.0)]
    a, b = (np.array([side]) for side in zip(*pairs, strict=True))
    products = [Fraction(x) * Fraction(y) for x, y in pairs]
    sums, absolute = exact_product(a, b)
    assert (sums.item(), absolute.item()) == (float(sum(products)), float(sum(map(abs, products))))


@each_format
def test_exact_product_of_decoded_values(name: str) -> None:
    a, b = (decoded(x, cast_spec(name)) for x in operands(40))
    sums, _ = exact_product(a, b)
    for i, row in enumerate(a):
        for j, column in enumerate(b):
            exact = sum(Fraction(x) * Fraction(y) for x, y in zip(row.tolist(), column.tolist(), strict=True))
            assert sums[i, j] == float(exact)


@pytest.mark.parametrize("value", [math.inf, 2.0**481, 2.0**-481])
def test_exact_product_refuses_what_it_would_round(value: float) -> None:
    with pytest.raises(ValueError, match=r"a magnitude in \[2\^-480, 2\^480\]"):
        exact_product(np.array([[1.0, value]]), np.ones((1, 2)))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(1, 2\) and \(1, 3\)"):
        exact_product(np.ones((1, 2)), np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"has the shape \(2, 1\), expected \(1, 2\)"):
        verify(torch.ones(2, 1), np.ones((1, 3)), np.ones((2, 3)))


def test_the_bound_is_higham_s_gamma() -> None:
    u = Fraction(1, 1 << 24)
    for k, roundings in ((1, 0), (2, 0), (1024, 0), (1024, 5)):
        n = k - 1 + roundings
        (bound,) = accumulation_bound(np.array([3.0]), k, roundings)
        assert bound == pytest.approx(float(3 * n * u / (1 - n * u)), rel=1e-15)
    with pytest.raises(ValueError, match="no error bound in fp32"):
        accumulation_bound(np.ones(1), 2**24 + 1)


# matmul itself


def test_operands_that_cannot_be_multiplied_are_refused() -> None:
    a, b = operands(64)
    left, right = quantize(a, "fp8_e4m3"), quantize(b, "fp4_e2m1")
    assert matmul(left, right).shape == (4, 5)  # two formats: a product all the same
    for wrong, words in (
        ((quantize(a, "fp8_e4m3", axis=0), right), "a is quantized along axis 0"),
        ((left, quantize(b[None], "fp8_e4m3")), r"b has the shape \(1, 5, 64\)"),
        ((left, quantize(b.T, "fp8_e4m3")), "a has K = 64 and b has K = 5"),
    ):
        with pytest.raises(ValueError, match=f"both quantized along K: {words}"):
            matmul(*wrong)


def test_one_scale_a_tensor_has_no_axis_to_be_wrong() -> None:
    a, b = operands(64)
    left, right = (quantize(x, "e4m3_tensor", axis=0) for x in (a, b))
    assert torch.equal(matmul(left, right), product(a, b, cast_spec("e4m3_tensor")))


def test_the_product_is_ieee_whatever_the_process_is_set_to(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = operands(64)
    expected = product(a, b, cast_spec("nvfp4"))
    settings = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    seen: list[list[str]] = []
    multiply = torch.matmul

    def spy(*arguments: Tensor) -> Tensor:
        seen.append([setting.fp32_precision for setting in settings])
        return multiply(*arguments)

    monkeypatch.setattr(torch, "matmul", spy)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        chosen = [setting.fp32_precision for setting in settings]
        with torch.autocast("cpu", torch.bfloat16):
            got = product(a, b, cast_spec("nvfp4"))
        assert [setting.fp32_precision for setting in settings] == chosen
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == [["ieee", "ieee"]]
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


# The suite and the peers


def test_every_registered_product_is_there() -> None:
    assert [load_target(target).__name__ for target in PRODUCTS.values()] == ["product", *list(PRODUCTS)[1:]]


@pytest.mark.parametrize("name", list(PRODUCTS)[1:])
def test_peers_refuse_other_axes_and_shapes(name: str) -> None:
    a, b = operands(64)
    product = load_target(PRODUCTS[name])
    format = "e4m3_row" if name == "scaled_mm" else "fp8_e4m3"
    with pytest.raises(ValueError, match="cast along their last axis, got axis 0"):
        product(a, b, cast_spec(format, axis=0))
    with pytest.raises(ValueError, match=r"got the shape \(5, 64, 1\)"):
        product(a, b[..., None], cast_spec(format))
