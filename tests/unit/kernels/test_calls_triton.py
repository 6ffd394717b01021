"""What the calls of the Triton kernel do where it cannot cast."""

from __future__ import annotations

import logging

import pytest
import torch

import mxcheck
from mxcheck.formats.spec import cast_spec
from mxcheck.kernels import calls_triton
from mxcheck.kernels.domain import NotSupported
from mxcheck.kernels.eager import quantize_eager
from mxcheck.kernels.house import takes_triton

X = torch.linspace(-3, 3, 96)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer of another test: neither whether Triton is there, nor whether it is sound."""
    monkeypatch.setattr(calls_triton, "_kernel", calls_triton._kernel.__wrapped__)
    monkeypatch.setattr(calls_triton, "is_sound", calls_triton.is_sound.__wrapped__)


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
    assert not takes_triton(X)
    assert not takes_triton(torch.empty(2, device="meta"))


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
        "Triton casts nothing on cpu, eager does: RuntimeError: Failed to find C compiler."
    ]


@pytest.mark.usefixtures("there")
def test_a_kernel_with_other_codes_is_not_sound(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = cast_spec("fp8_e4m3", rounding="zero")
    monkeypatch.setattr(calls_triton, "quantize_triton", quantize_eager)
    assert calls_triton.is_sound(CPU)
    monkeypatch.setattr(calls_triton, "quantize_triton", lambda x, _: quantize_eager(x, other))
    assert not calls_triton.is_sound(CPU)
    assert caplog.messages == ["Triton casts nothing on cpu, eager does: it gives other codes"]
