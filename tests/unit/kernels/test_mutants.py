"""The kernel suite can fail: each fault put into the cast on purpose shows, on the inputs made for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mxcheck.formats.elements import ElementFormat, element_format
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels import eager
from mxcheck.kernels.eager import quantize_eager
from mxcheck.suite.kernels.inputs import INPUTS
from mxcheck.suite.kernels.verify import differences

Codes = tuple[Tensor, Tensor]


def found(name: str, inputs: str, kernel: Callable[[Tensor, CastSpec], Codes] | str = "auto") -> list[str]:
    x = torch.from_numpy(INPUTS[inputs](element_format(name)))
    return differences(x, CastSpec(format=name), kernel)


def ties_away(values: Tensor, binade: Tensor, mantissa_bits: int) -> None:
    step = binade * 2.0**-mantissa_bits
    values.copy_(torch.trunc(values / step + 0.5 * values.sign()) * step)


def truncation(values: Tensor, binade: Tensor, mantissa_bits: int) -> None:
    step = binade * 2.0**-mantissa_bits
    values.copy_(torch.trunc(values / step) * step)


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2", "fp6_e3m2", "fp6_e2m3", "fp4_e2m1", "mxint8"])
@pytest.mark.parametrize("rounding", [ties_away, truncation], ids=lambda rounding: rounding.__name__)
def test_rounding(monkeypatch: pytest.MonkeyPatch, name: str, rounding: Callable[..., None]) -> None:
    monkeypatch.setitem(eager._ROUNDINGS, "even", rounding)
    lines = found(name, "midpoints")
    # Codes and values go one way through the kernel: neither can be wrong alone.
    assert [line.partition(":")[0] for line in lines] == ["code", "fake_quantize", "dequantize"]


def one_up(amax: Tensor, element: ElementFormat) -> Tensor:
    return (amax >> 23) - element.emax + 1


def float_log2(amax: Tensor, element: ElementFormat) -> Tensor:
    exponent = amax.view(torch.float32).log2().floor().clamp(-127, 127)
    return exponent.int() + 127 - element.emax


@pytest.mark.parametrize(
    ("rule", "inputs"),
    [(one_up, "every_code"), (float_log2, "amax_at_powers_of_two")],
    ids=["one_up", "float_log2"],
)
def test_scale(monkeypatch: pytest.MonkeyPatch, rule: Callable[..., Tensor], inputs: str) -> None:
    monkeypatch.setitem(eager._SCALE_RULES, "floor", rule)
    lines = found("fp8_e4m3", inputs)
    assert {line.partition(":")[0] for line in lines} >= {"scale", "fake_quantize"}


def flushed_subnormal_elements(x: Tensor, spec: CastSpec) -> Codes:
    codes, scales = quantize_eager(x, spec)
    field = (codes & (spec.element.sign_bit - 1)) >> spec.element.mantissa_bits
    return torch.where(field == 0, codes & spec.element.sign_bit, codes), scales


def overflow_to_inf(x: Tensor, spec: CastSpec) -> Codes:
    codes, scales = quantize_eager(x, spec)
    by_torch = (x / 2.0 ** (scales.float() - 127)).to(torch.float8_e5m2).view(torch.uint8)
    return torch.where((by_torch & 0x7F) == 0x7C, by_torch, codes), scales


def lost_negative_zero(x: Tensor, spec: CastSpec) -> Codes:
    codes, scales = quantize_eager(x, spec)
    return codes.masked_fill(codes == spec.element.sign_bit, 0), scales


def in_bfloat16(x: Tensor, spec: CastSpec) -> Codes:
    return quantize_eager(x.bfloat16(), spec)


def flushed_subnormal_inputs(x: Tensor, spec: CastSpec) -> Codes:
    return quantize_eager(torch.where(x.abs() < 2.0**-126, x * 0, x), spec)


def scale_one_for_zeros(x: Tensor, spec: CastSpec) -> Codes:
    codes, scales = quantize_eager(x, spec)
    return codes, scales.masked_fill((x == 0).all(-1, keepdim=True), 127)


def nan_overlooked(x: Tensor, spec: CastSpec) -> Codes:
    return quantize_eager(x.nan_to_num(0, None, None), spec)


def inf_saturated(x: Tensor, spec: CastSpec) -> Codes:
    return quantize_eager(torch.where(x.isinf(), x.sign() * torch.finfo().max, x), spec)


@pytest.mark.parametrize(
    ("kernel", "name", "inputs"),
    [
        (flushed_subnormal_elements, "fp8_e4m3", "every_code"),
        (flushed_subnormal_elements, "fp4_e2m1", "every_code"),
        (overflow_to_inf, "fp8_e5m2", "midpoints"),
        (lost_negative_zero, "fp8_e5m2", "zero_and_subnormal"),
        (lost_negative_zero, "fp4_e2m1", "midpoints"),
        (in_bfloat16, "fp8_e4m3", "midpoints"),
        (flushed_subnormal_inputs, "fp8_e5m2", "zero_and_subnormal"),
        (flushed_subnormal_inputs, "mxint8", "amax_at_powers_of_two"),
        (scale_one_for_zeros, "fp6_e2m3", "zero_and_subnormal"),
        (nan_overlooked, "fp8_e4m3", "not_finite"),
        (inf_saturated, "fp8_e4m3", "not_finite"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_faulty_kernel(kernel: Callable[[Tensor, CastSpec], Codes], name: str, inputs: str) -> None:
    assert found(name, inputs, kernel)
    assert not found(name, inputs)


def test_the_description_names_place_bits_and_cause() -> None:
    lines = found("fp4_e2m1", "zero_and_subnormal", lost_negative_zero)
    assert lines[0].startswith("code: ")
    assert "[1, 0] got 0x00, expected 0x08" in lines[0]
    assert "[1, 0] got 0x00000000 (0), expected 0x80000000 (-0) of 0x80000000 (-0)" in lines[1]
