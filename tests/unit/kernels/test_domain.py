"""What an implementation is made for: what lies outside, and how it is declared."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

import mxcheck
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.kernels.domain import Domain, NotSupported, domain, domain_of
from mxcheck.kernels.eager import quantize_eager

X = torch.ones(4, 64)
SPEC = cast_spec("fp8_e4m3")


@pytest.mark.parametrize(
    ("limits", "x", "spec", "why"),
    [
        ({"formats": ["fp4_e2m1"]}, X, SPEC, "no format fp8_e4m3"),
        ({"scale_rules": ["rceil"]}, X, SPEC, "no scale rule floor"),
        ({"roundings": ["even"]}, X, cast_spec("fp8_e4m3", rounding="away"), "no rounding away"),
        ({"nonfinite": ["element"]}, X, SPEC, "no NaN/Inf policy block"),
        ({"block_sizes": [16]}, X, SPEC, "no block size 32"),
        ({"dtypes": [torch.bfloat16]}, X, SPEC, "no cast from float32"),
        ({"axes": [-1]}, X, cast_spec("fp8_e4m3", axis=0), "no blocks along axis 0 of 2"),
        ({"ranks": [3]}, X, SPEC, "no input of 2 dimensions"),
        ({"least_rows": 16}, X, SPEC, "at least 16 rows, got 4"),
        ({"most_rows": 2}, X, SPEC, "at most 2 rows, got 4"),
        ({"rows_multiple": 8}, X, SPEC, "rows that 8 divides, got 4"),
        ({"least_columns": 128}, X, SPEC, "at least 128 columns, got 64"),
        ({"most_columns": 32}, X, SPEC, "at most 32 columns, got 64"),
        ({"columns_multiple": 128}, X, SPEC, "columns that 128 divides, got 64"),
        ({"ragged": False}, X[:, :40], SPEC, "columns that the block size 32 divides, got 40"),
        ({"contiguous": True}, X.T, SPEC, "a contiguous input, got strides (1, 64)"),
    ],
)
def test_each_limit_refuses_what_lies_outside_and_nothing_else(
    limits: dict[str, object], x: Tensor, spec: CastSpec, why: str
) -> None:
    made_for = Domain(**limits)  # type: ignore[arg-type]
    assert made_for.refuses(x, spec) == why
    assert Domain().refuses(x, spec) == ""
    assert next(iter(limits)) in made_for.words


def test_an_address_is_what_an_alignment_divides() -> None:
    memory = torch.ones(128)
    assert Domain(alignment=16).refuses(memory[4:68].view(2, 32), SPEC) == ""
    why = Domain(alignment=16).refuses(memory[1:65].view(2, 32), SPEC)
    assert why == f"an address that 16 divides, got {memory.data_ptr() + 4:#x}"
    assert Domain(alignment=16).words == "alignment 16"


def test_rows_are_all_that_blocks_do_not_run_along() -> None:
    along_the_first = cast_spec("fp8_e4m3", axis=0)
    assert Domain(rows_multiple=12, columns_multiple=32).refuses(torch.ones(32, 3, 4), along_the_first) == ""
    assert Domain(axes=(0,)).refuses(torch.ones(32, 4), cast_spec("fp8_e4m3", axis=-2)) == ""


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"formats": ["fp8_e4m4"]}, "fp8_e4m3"),
        ({"formats": "fp8_e4m3"}, "formats of a Domain must be a tuple or a set that is not empty, got"),
        ({"dtypes": []}, "dtypes of a Domain must be a tuple"),
        ({"dtypes": [torch.float64]}, r"dtypes of a Domain are torch.float32, .* got torch.float64"),
        ({"axes": ["last"]}, "axes of a Domain are integers, got 'last'"),
        ({"most_rows": 8, "least_rows": 9}, "most_rows of a Domain must be None or an integer from 9, its"),
        ({"most_columns": 100, "columns_multiple": 128}, r"None or an integer from 128, its .* got 100"),
        ({"most_columns": 1.5}, r"most_columns of a Domain must be None or an integer from 1, .* got 1.5"),
        ({"alignment": 24}, r"alignment of a Domain must be 1, 2, 4, 8, 16, 32, 64 bytes, got 24"),
        ({"rows_multiple": 0}, "rows_multiple of a Domain must be an integer from 1, got 0"),
        ({"ragged": 1}, "ragged of a Domain must be True or False, got 1"),
    ],
)
def test_a_limit_that_is_none_is_refused_in_one_line(limits: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        domain(**limits)
    assert "\n" not in str(caught.value)


@mxcheck.domain(dtypes=[torch.bfloat16])
def of_bf16(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    return quantize_eager(x, spec)


def test_the_public_casts_refuse_what_lies_outside() -> None:
    assert domain_of(of_bf16) == domain_of(partial(of_bf16)) == Domain(dtypes=(torch.bfloat16,))
    assert domain_of(quantize_eager) == Domain()
    assert domain_of(lambda x, spec: quantize_eager(x, spec)) is None
    with pytest.raises(NotSupported, match=r"^outside of its domain: no cast from float32$"):
        mxcheck.quantize(X, "fp8_e4m3", kernel=of_bf16)
    assert mxcheck.quantize(X.bfloat16(), "fp8_e4m3", kernel=of_bf16).codes.shape == X.shape


def test_an_attribute_that_is_no_domain_is_refused() -> None:
    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        return quantize_eager(x, spec)

    cast.mxcheck_domain = {"dtypes": ["bfloat16"]}  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"mxcheck_domain must be a mxcheck.Domain, got dict"):
        domain_of(cast)
