"""`out` of the public casts: written to by every kernel, or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import mxcheck
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.api import Kernel
from mxcheck.kernels.eager import quantize_eager

X = torch.randn(6, 70, generator=torch.Generator().manual_seed(0))


def somebodys(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    return quantize_eager(x, spec)


@pytest.mark.parametrize("kernel", ["auto", "eager", somebodys], ids=["auto", "eager", "somebody's"])
@pytest.mark.parametrize("name", ["fp8_e4m3", "nvfp4", "e5m2_row"])
def test_it_gets_the_result(name: str, kernel: str | Kernel) -> None:
    expected = mxcheck.quantize(X, name, kernel="eager")
    out = mxcheck.quantize(X * 3, name, kernel=kernel)
    places = [part.data_ptr() for part in out.parts]
    assert mxcheck.quantize(X, name, kernel=kernel, out=out) is out
    assert [part.data_ptr() for part in out.parts] == places
    assert all(map(torch.equal, out.parts, expected.parts))
    values = torch.empty_like(X)
    assert mxcheck.fake_quantize(X, name, kernel=kernel, out=values) is values
    assert torch.equal(values, expected.dequantize())


def test_what_values_cannot_go_into() -> None:
    for out, message in (
        ("x", "out must be a torch.Tensor, got str"),
        (
            torch.empty(6, 71),
            r"out must be torch.float32 of shape \(6, 70\) on cpu, got torch.float32 of shape",
        ),
        (torch.empty(6, 70, dtype=torch.float16), "got torch.float16 of shape"),
        (torch.empty(6, 70, device="meta"), "on meta"),
        (torch.empty(70, 6).t(), r"out must be contiguous, got strides \(1, 6\)"),
        (torch.empty(6, 70, requires_grad=True), "out requires a gradient"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            mxcheck.fake_quantize(X, "fp8_e4m3", out=out)  # type: ignore[arg-type]


def test_no_memory_in_common_with_x() -> None:
    memory = torch.zeros(3, 64)
    mxcheck.fake_quantize(memory[:2], "fp8_e4m3", out=torch.zeros(3, 64)[:2])
    mxcheck.fake_quantize(memory[:1], "fp8_e4m3", out=memory[1:2])
    for x, out in (
        (memory, memory),
        (memory[:2], memory[1:]),
        (memory[:, ::2][:1], memory[0, :32].view(1, 32)),
    ):
        with pytest.raises(ValueError, match="out shares memory with x"):
            mxcheck.fake_quantize(x, "fp8_e4m3", out=out)


def test_no_memory_in_common_with_x_by_another_storage() -> None:
    memory = bytearray(4 * 128)
    x, out = (torch.frombuffer(memory, dtype=torch.float32, count=64, offset=4 * at) for at in (0, 32))
    assert x.untyped_storage().data_ptr() != out.untyped_storage().data_ptr()
    with pytest.raises(ValueError, match="out shares memory with x"):
        mxcheck.fake_quantize(x, "fp8_e4m3", out=out)
    random = torch.zeros(64, dtype=torch.int64)
    with pytest.raises(ValueError, match="out shares memory with random"):
        mxcheck.fake_quantize(
            x, "fp8_e4m3", rounding="stochastic", random=random, out=random.view(torch.float32)[64:]
        )


def test_no_memory_in_common_among_the_parts() -> None:
    right = mxcheck.quantize(X, "nvfp4")
    for name, memory in (("scales", right.codes.view(-1)), ("tensor_scale", right.codes.view(-1)[8:])):
        part = getattr(right, name)
        shared = memory[: part.nbytes].view(part.dtype).view(part.shape)
        with pytest.raises(ValueError, match=f"^out.{name} shares memory with out.codes; give a tensor of"):
            mxcheck.quantize(X, "nvfp4", out=replace(right, **{name: shared}))


def test_what_is_no_tensor_is_said_with_out_too() -> None:
    for x, message in (("x", "x must be a torch.Tensor, got str"), (torch.zeros(0, 2), "x is empty")):
        with pytest.raises((TypeError, ValueError), match=message):
            mxcheck.fake_quantize(x, "fp8_e4m3", out=torch.empty(2))  # type: ignore[arg-type]
        with pytest.raises((TypeError, ValueError), match=message):
            mxcheck.quantize(x, "fp8_e4m3", out=mxcheck.quantize(X, "fp8_e4m3"))  # type: ignore[arg-type]


def test_without_memory_nothing_is_shared() -> None:
    x = torch.empty(2, 64, device="meta")
    out = torch.empty_like(x)
    assert mxcheck.fake_quantize(x, "fp8_e4m3", out=out) is out


def test_what_codes_and_scales_cannot_go_into() -> None:
    right = mxcheck.quantize(X, "fp8_e4m3")
    with pytest.raises(
        TypeError, match="out must be a QuantizedTensor, the result of an earlier call, got tuple"
    ):
        mxcheck.quantize(X, "fp8_e4m3", out=right.parts)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="out is of another cast: "):
        mxcheck.quantize(X, "fp8_e4m3", scale_rule="rceil", out=right)
    with pytest.raises(ValueError, match=r"out.codes must be torch.uint8 of shape \(5, 70\)"):
        mxcheck.quantize(X[:5], "fp8_e4m3", out=right)
    short = mxcheck.QuantizedTensor(
        codes=right.codes, scales=right.scales[:, :2].contiguous(), spec=right.spec
    )
    with pytest.raises(ValueError, match=r"out.scales must be torch.uint8 of shape \(6, 3\) on cpu"):
        mxcheck.quantize(X, "fp8_e4m3", out=short)
