"""What the calls of the Triton kernel do where it cannot cast."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import mxcheck
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.kernels import calls_triton
from mxcheck.kernels.domain import NotSupported
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager
from mxcheck.kernels.house import takes_triton

X = torch.linspace(-3, 3, 96)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer of another test: neither whether Triton is there, nor whether it is sound."""
    monkeypatch.setattr(calls_triton, "_kernel", calls_triton._kernel.__wrapped__)
    monkeypatch.setattr(calls_triton, "_is_sound", calls_triton._is_sound.__wrapped__)


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_triton, "find_spec", lambda _: None)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_triton, "find_spec", lambda _: object())


@pytest.mark.usefixtures("absent")
def test_without_triton_it_says_so() -> None:
    for cast in (mxcheck.quantize, mxcheck.fake_quantize):
        with pytest.raises(NotSupported, match="triton is not installed: torch's CUDA build"):
            cast(X, "fp8_e4m3", kernel="triton")
    assert not calls_triton.is_sound(CPU)


@pytest.mark.usefixtures("there")
def test_a_cpu_tensor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Compiled:
        INTERPRETED = False

    monkeypatch.setattr(calls_triton, "_kernel", Compiled)
    with pytest.raises(NotSupported, match="casts on a GPU, got a tensor on cpu; use kernel='eager'"):
        mxcheck.quantize(X, "fp8_e4m3", kernel="triton")


def test_auto_leaves_other_tensors_alone() -> None:
    assert not takes_triton(X, cast_spec("fp8_e4m3"))
    assert not takes_triton(torch.empty(2, device="meta"), cast_spec("fp8_e4m3"))


@pytest.mark.usefixtures("there")
def test_a_kernel_that_fails_is_told_of_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(calls_triton, "quantize_triton", fails)
    with caplog.at_level(logging.WARNING):
        assert not calls_triton.is_sound(CPU)
    assert caplog.messages == [
        "Triton does not cast on cpu, eager does: RuntimeError: Failed to find C compiler."
    ]


def into(cast: Callable[[Tensor, CastSpec], Any], least: int = 0) -> Callable[..., Any]:
    """A cast that writes its result to `out`, but for the `least` first elements of each part."""

    def call(x: Tensor, spec: CastSpec, out: Any = None) -> Any:
        made = cast(x, spec)
        if out is None:
            return made
        parts = zip(out, made, strict=True) if isinstance(made, tuple) else [(out, made)]
        for target, part in parts:
            target.view(-1)[least:].copy_(part.reshape(-1)[least:])
        return out

    return call


@pytest.mark.usefixtures("there")
def test_a_kernel_that_leaves_a_number_unwritten_is_not_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is used again may hold the right number: the trial fills its results first."""
    monkeypatch.setattr(calls_triton, "quantize_triton", into(quantize_eager))
    monkeypatch.setattr(calls_triton, "fake_quantize_triton", into(fake_quantize_eager, least=1))
    assert not calls_triton.is_sound(CPU, cast_spec("fp8_e4m3"))


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("wrong", [quantize_eager, fake_quantize_eager])
def test_a_kernel_with_other_bits_is_not_sound(
    wrong: Callable[[Tensor, CastSpec], object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spec = cast_spec("fp8_e4m3", rounding="stochastic")
    monkeypatch.setattr(calls_triton, "quantize_triton", into(quantize_eager))
    monkeypatch.setattr(calls_triton, "fake_quantize_triton", into(fake_quantize_eager))
    assert calls_triton.is_sound(CPU, spec)

    def changed(x: Tensor, asked: CastSpec) -> object:
        return wrong(x, replace(asked, rounding="zero") if x.dtype == torch.float16 else asked)

    monkeypatch.setattr(calls_triton, wrong.__name__.replace("eager", "triton"), into(changed))
    assert not calls_triton.is_sound(CPU, spec)
    said = "it gives other bits for fp8_e4m3, floor, stochastic, float16"
    assert caplog.messages == [f"Triton does not cast on cpu, eager does: {said}"]
