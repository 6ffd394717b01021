"""Inputs of mxcheck's own get the rows that a kernel wants; what is cast of a case never does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.kernels.api import fake_quantize, fake_quantize_with, quantize
from mxcheck.kernels.domain import NotSupported, domain
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager
from mxcheck.kernels.grown import as_it_is, growing

X = torch.randn(3, 40, 96, generator=torch.Generator().manual_seed(0))


@domain(rows_multiple=128, least_rows=300)
def tiles(x: torch.Tensor, spec: CastSpec) -> Any:
    rows = x.numel() // x.shape[spec.axis]
    assert rows >= 300
    assert rows % 128 == 0
    return quantize_eager(x, spec)


@domain(rows_multiple=128)
def values(x: torch.Tensor, spec: CastSpec) -> Any:
    assert x.numel() // x.shape[spec.axis] % 128 == 0
    return fake_quantize_eager(x, spec)


@domain(columns_multiple=128)
def wide(x: torch.Tensor, spec: CastSpec) -> Any:
    return quantize_eager(x, spec)


@domain(rows_multiple=128)
def wrong_shape(x: torch.Tensor, spec: CastSpec) -> Any:
    codes, scales = quantize_eager(x, spec)
    return codes[:1], scales


@pytest.mark.parametrize("format", BLOCK_FORMATS)
@pytest.mark.parametrize("axis", [-1, -2, 0])
def test_a_grown_input_gets_the_bits_of_its_own(format: str, axis: int) -> None:
    expected = quantize(X, format, axis=axis)
    with growing():
        found = quantize(X, format, axis=axis, kernel=tiles)
        of_values = fake_quantize(X, format, axis=axis, kernel=values)
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.scales, expected.scales)
    assert (found.tensor_scale is None) == (expected.tensor_scale is None)
    assert found.spec == expected.spec
    assert torch.equal(of_values, expected.dequantize())


def test_what_is_of_a_case_is_refused() -> None:
    spec = cast_spec("fp8_e4m3")
    with pytest.raises(NotSupported, match="at least 300 rows, got 120"):
        fake_quantize_with(X, spec, tiles)
    with (
        growing(),
        as_it_is(),
        pytest.raises(NotSupported, match="outside of its domain: at least 300 rows, got 120"),
    ):
        fake_quantize_with(X, spec, tiles)
    with growing(whatever_comes=True), growing(), as_it_is():
        fake_quantize_with(X, spec, tiles)
    with pytest.raises(NotSupported):
        fake_quantize_with(X, spec, tiles)


def test_columns_do_not_grow() -> None:
    with growing(), pytest.raises(NotSupported, match="columns that 128 divides, got 96"):
        fake_quantize_with(X, cast_spec("fp8_e4m3"), wide)


def test_a_wrong_result_of_a_grown_input_is_refused() -> None:
    with growing(), pytest.raises(ValueError, match=r"returned codes of shape \(1, 96\)"):
        fake_quantize_with(X, cast_spec("fp8_e4m3"), wrong_shape)
