"""Kernels that do not keep to what a kernel is: each in one way."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from mxcheck import CastSpec
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager


def shape(x: Tensor, spec: CastSpec) -> Any:
    codes, scales = quantize_eager(x, spec)
    return codes[..., :-1], scales


def dtype(x: Tensor, spec: CastSpec) -> Any:
    codes, scales = quantize_eager(x, spec)
    return codes, scales.int()


def device(x: Tensor, spec: CastSpec) -> Any:
    codes, scales = quantize_eager(x, spec)
    return codes.to("meta"), scales


def raises(x: Tensor, spec: CastSpec) -> Any:  # noqa: ARG001
    raise RuntimeError("no kernel image is available\nand a second line")


def changes(x: Tensor, spec: CastSpec) -> Any:
    parts = quantize_eager(x, spec)
    x.zero_()
    return parts


def skips(x: Tensor, spec: CastSpec) -> Any:  # noqa: ARG001
    pytest.skip(f"no {spec.format} on this machine")


def nothing(x: Tensor, spec: CastSpec) -> Any:
    quantize_eager(x, spec)


def prints(x: Tensor, spec: CastSpec) -> Any:
    """The only thing that is allowed."""
    print("chatter")  # noqa: T201
    return quantize_eager(x, spec)


def values(x: Tensor, spec: CastSpec) -> Any:
    return fake_quantize_eager(x, spec)


def refuses(x: Tensor, spec: CastSpec) -> Any:
    raise NotImplementedError(f"no {spec.format} here")
