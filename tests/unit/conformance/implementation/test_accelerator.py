"""Tensors on another device: how they lie in memory, what comes back, and a changed input that is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mxcheck.conformance.implementation.accelerator import carried, lying_alike, on_device
from mxcheck.conformance.verify.verifier import compare
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager

SPEC = CastSpec(format="fp8_e4m3")
WIDE = torch.randn(6, 40, 66, generator=torch.Generator().manual_seed(0))

VIEWS = {
    "contiguous": WIDE,
    "transposed": WIDE.transpose(0, 2),
    "strided": WIDE[::2, :, 3:],
    "expanded": WIDE[:1, :, :33].expand(4, 40, 33),
    "bf16": WIDE.bfloat16()[1:, ::3],
}
each_view = pytest.mark.parametrize("x", VIEWS.values(), ids=VIEWS)


@each_view
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_copy_lies_as_its_original(x: Tensor, device: str) -> None:
    moved = lying_alike(x, device)
    assert moved.device.type == device
    assert (moved.shape, moved.stride(), moved.dtype) == (x.shape, x.stride(), x.dtype)
    assert moved.storage_offset() == x.storage_offset()
    if device == "cpu":
        assert torch.equal(moved, x)
        assert moved.data_ptr() != x.data_ptr()


@each_view
def test_the_kernel_sees_the_strides_and_its_result_comes_back(x: Tensor) -> None:
    seen: list[tuple[int, ...]] = []

    def kernel(x: Tensor, spec: CastSpec) -> Any:
        seen.append(x.stride())
        return quantize_eager(x, spec)

    assert not compare(carried(kernel, "cpu"), x, SPEC).counts
    assert seen == [x.stride()]
    assert not compare(carried(fake_quantize_eager, "cpu"), x, SPEC).counts
    random = torch.zeros(x.shape, dtype=torch.int64)
    stochastic = cast_spec("fp8_e4m3", rounding="stochastic", random=random)
    assert not compare(carried(quantize_eager, "cpu"), x, stochastic).counts


@each_view
def test_a_changed_input_is_seen(x: Tensor) -> None:
    def changes(x: Tensor, spec: CastSpec) -> Any:
        parts = quantize_eager(x, spec)
        x.select(-1, -1).select(-1, 0).select(-1, 0).neg_()
        return parts

    mine = lying_alike(x, "cpu")
    assert compare(carried(changes, "cpu"), mine, SPEC).error == "it changed its input"


def test_nan_is_no_change() -> None:
    x = torch.full((2, 32), torch.nan)
    x[0] = -0.0
    assert not compare(carried(quantize_eager, "cpu"), x, SPEC).counts


def test_a_result_elsewhere_is_refused() -> None:
    def elsewhere(x: Tensor, spec: CastSpec) -> Any:
        codes, scales = quantize_eager(x, spec)
        return codes, scales.to("meta")

    with pytest.raises(ValueError, match=r"elsewhere returned a tensor on meta; expected cpu, where its inp"):
        carried(elsewhere, "cpu")(WIDE, SPEC)


def test_on_the_cpu_a_kernel_is_itself() -> None:
    assert on_device(quantize_eager, "cpu") is quantize_eager
