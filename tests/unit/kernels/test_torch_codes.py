"""Results in torch's own dtypes of codes: taken where the format is the same, else refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import mxcheck
from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.implementation.disregarded import disregarded
from mxcheck.conformance.verify.verifier import compare
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.kernels.domain import Domain
from mxcheck.kernels.eager import quantize_eager

X = torch.linspace(-3, 3, 256).reshape(4, 64)


def returning(codes: torch.dtype, scales: torch.dtype = torch.uint8) -> Callable[[Tensor, CastSpec], Any]:
    def cast(x: Tensor, spec: CastSpec) -> Any:
        first, second, *others = quantize_eager(x, spec)
        return (first.view(codes), second.view(scales), *others)

    return cast


@pytest.mark.parametrize(
    ("name", "codes", "scales"),
    [
        ("fp8_e4m3", torch.float8_e4m3fn, torch.float8_e8m0fnu),
        ("fp8_e5m2", torch.float8_e5m2, torch.float8_e8m0fnu),
        ("mxint8", torch.uint8, torch.float8_e8m0fnu),
        ("nvfp4", torch.uint8, torch.float8_e4m3fn),
        ("e4m3_row", torch.float8_e4m3fn, torch.float32),
    ],
)
def test_the_same_codes_are_taken(name: str, codes: torch.dtype, scales: torch.dtype) -> None:
    cast = returning(codes, scales)
    seen = compare(cast, X, cast_spec(name))
    assert (seen.error, seen.counts) == ("", {})
    ours, theirs = (mxcheck.quantize(X, name, kernel=kernel) for kernel in ("eager", cast))
    assert theirs.codes.dtype == torch.uint8
    assert torch.equal(ours.dequantize(torch.float32), theirs.dequantize(torch.float32))
    wrong = compare(lambda x, spec: cast(-x, spec), X, cast_spec(name))
    assert wrong.counts["code"]


@pytest.mark.parametrize(
    ("name", "codes", "scales", "line"),
    [
        (
            "fp8_e4m3",
            torch.float8_e4m3fnuz,
            torch.uint8,
            (
                "codes as torch.float8_e4m3fnuz, which has other codes than fp8_e4m3; return torch.uint8 or "
                "torch.float8_e4m3fn"
            ),
        ),
        (
            "fp8_e4m3",
            torch.uint8,
            torch.float8_e4m3fn,
            (
                "scales as torch.float8_e4m3fn, which has other codes than e8m0; return torch.uint8 or "
                "torch.float8_e8m0fnu"
            ),
        ),
        (
            "fp6_e2m3",
            torch.float8_e5m2,
            torch.uint8,
            "codes as torch.float8_e5m2, which has other codes than fp6_e2m3; return torch.uint8",
        ),
        (
            "fp4_e2m1",
            torch.float4_e2m1fn_x2,
            torch.uint8,
            (
                "codes as torch.float4_e2m1fn_x2, which has two codes a byte; return torch.uint8, one code a "
                "byte: mxcheck.unpack_fp4(packed.view(torch.uint8))"
            ),
        ),
    ],
)
def test_other_codes_are_refused_in_one_line(
    name: str, codes: torch.dtype, scales: torch.dtype, line: str
) -> None:
    seen = compare(returning(codes, scales), X, cast_spec(name))
    assert seen.error.endswith(f" returned {line}")
    with pytest.raises(TypeError, match=r"returned (codes|scales) as torch\.float") as caught:
        mxcheck.quantize(X, name, kernel=returning(codes, scales))
    assert "\n" not in str(caught.value)


def test_a_kernel_of_one_format_is_known_by_its_bytes() -> None:
    def of_e4m3(x: Tensor, spec: CastSpec) -> Any:
        spec = cast_spec("fp8_e4m3", axis=spec.axis, block_size=spec.block_size, scale_rule=spec.scale_rule)
        return returning(torch.float8_e4m3fn, torch.float8_e8m0fnu)(x, spec)

    found = disregarded(of_e4m3, Cell(format="fp6_e2m3", scale_rule="floor"), Domain())
    assert found["format"] == "fp8_e4m3"
