"""The house kernel on any shape, axis, stride and dtype: the oracle's bits, or a clear refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.conformance.verify.verifier import compare
from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0
from mxcheck.formats.spec import ROUNDINGS, SCALE_RULES, CastSpec, cast_spec
from mxcheck.kernels import block_views, rules
from mxcheck.kernels.api import check_parts
from mxcheck.kernels.block_views import DTYPES
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager

VIEWS = {
    "as it is": lambda x: x,
    "transposed": lambda x: x.transpose(0, -1),
    "every other": lambda x: x[..., ::2],
    "from the second": lambda x: x[..., 1:] if x.shape[-1] > 1 else x,
    "expanded": lambda x: x.unsqueeze(0).expand(3, *x.shape),
}


def wide(shape: tuple[int, ...], seed: int) -> Tensor:
    """Gaussian numbers over many binades, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.randint(-20, 5, shape, generator=generator)
    return torch.ldexp(torch.randn(shape, generator=generator), scale) * (scale != 0)


def any_bits(shape: tuple[int, ...], seed: int) -> Tensor:
    """fp32 of any bits: subnormals, NaN and Inf among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(1 << 31), 1 << 31, shape, generator=generator).int().view(torch.float32)


def integers(x: Tensor, seed: int) -> Tensor:
    """Random integers of stochastic rounding, the largest and the smallest among them."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.tensor([0, 1 << 31, (1 << 32) - 1])[torch.randint(3, x.shape, generator=generator)]
    plain = torch.randint(1 << 32, x.shape, generator=generator)
    return torch.where(torch.randint(2, x.shape, generator=generator) == 0, edges, plain)


def spec_of(cell: Cell, x: Tensor, seed: int, **others: Any) -> CastSpec:
    random = integers(x, seed) if cell.rounding == "stochastic" else None
    return cell.spec(random=random, **others)


CELLS = {cell.id: cell for cell in cells("full")}
E8M0_CELLS = [name for name, cell in CELLS.items() if cell.spec().block.scale == E8M0]
SHAPES = st.lists(st.integers(1, 70), min_size=1, max_size=3).filter(
    lambda sizes: len(sizes) < 3 or sizes[0] < 9
)
any_cell = st.sampled_from(sorted(CELLS))
seeds = st.integers(0, 2**16)


@settings(max_examples=300)
@given(
    shape=SHAPES,
    view=st.sampled_from(sorted(VIEWS)),
    name=any_cell,
    dtype=st.sampled_from(DTYPES),
    block_size=st.sampled_from([1, 3, 16, 32, 64]),
    numbers=st.sampled_from([wide, any_bits]),
    seed=seeds,
    data=st.data(),
)
def test_any_layout(
    shape: list[int],
    view: str,
    name: str,
    dtype: torch.dtype,
    block_size: int,
    numbers: Callable[[tuple[int, ...], int], Tensor],
    seed: int,
    data: st.DataObject,
) -> None:
    x = VIEWS[view](numbers(tuple(shape), seed).to(dtype))
    axis = data.draw(st.integers(-x.dim(), x.dim() - 1), label="axis")
    size = {"block_size": block_size} if name in E8M0_CELLS else {}
    spec = spec_of(CELLS[name], x, seed, axis=axis, **size)
    assert not compare(quantize_eager, x, spec).counts
    assert not compare(fake_quantize_eager, x, spec).counts


@settings(max_examples=100)
@given(shape=SHAPES, name=any_cell, dtype=st.sampled_from(DTYPES), seed=seeds, data=st.data())
def test_codes_and_values_agree(
    shape: list[int], name: str, dtype: torch.dtype, seed: int, data: st.DataObject
) -> None:
    x = any_bits(tuple(shape), seed).to(dtype)
    spec = spec_of(CELLS[name], x, seed, axis=data.draw(st.integers(-x.dim(), x.dim() - 1), label="axis"))
    values = fake_quantize_eager(x, spec)
    assert same_bits(check_parts(quantize_eager, quantize_eager(x, spec), x, spec).dequantize(dtype), values)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """All NaN are the same."""
    integer = torch.int32 if one.dtype == torch.float32 else torch.int16
    same = (one.view(integer) == other.view(integer)) | (one.isnan() & other.isnan())
    return one.dtype == other.dtype and bool(same.all())


# Invariants


def shrinks_amax(cell: Cell) -> bool:
    """Casts that a second one changes. The scale of `even` counts on amax being rounded to nearest; where it
    is not, the second scale is one lower, and E4M3, whose largest significand is 1.75, saturates 1.875."""
    return (cell.format, cell.scale_rule) == ("fp8_e4m3", "even") and cell.rounding in ("zero", "stochastic")


@settings(max_examples=300)
@given(
    name=st.sampled_from([name for name in CELLS if name != "nvfp4-amax" and not shrinks_amax(CELLS[name])]),
    numbers=st.sampled_from([wide, any_bits]),
    block_size=st.sampled_from([1, 16, 32]),
    seed=seeds,
)
def test_quantizing_twice_changes_no_value(
    name: str, numbers: Callable[[tuple[int, ...], int], Tensor], block_size: int, seed: int
) -> None:
    """Where fp32 holds the values, whatever the rule and rounding, but for one pair and for NVFP4. (The scale
    may become a smaller one.)"""
    x = numbers((12, 32), seed)
    if CELLS[name].spec().block.whole_tensor:
        x = x[:1]
    size = {"block_size": block_size} if name in E8M0_CELLS else {}
    once = fake_quantize_eager(x, spec_of(CELLS[name], x, seed, **size))
    twice = fake_quantize_eager(once, spec_of(CELLS[name], x, seed + 1, **size))
    fits = ~once.isinf().any(1)
    assert same_bits(twice[fits], once[fits])


def test_but_for_a_scale_that_counts_on_rounding_to_nearest() -> None:
    spec = CastSpec(format="fp8_e4m3", scale_rule="even", rounding="zero")
    once = fake_quantize_eager(torch.tensor([1.95]), spec)
    assert (once.item(), fake_quantize_eager(once, spec).item()) == (1.875, 1.75)


def test_and_for_nvfp4_where_a_block_scale_is_subnormal() -> None:
    """Rounded up from 1.6 to 2 steps, it makes 4.8 of an amax of 6; that becomes 4, the next scale 1 step."""
    x = torch.zeros(32)
    x[0], x[16] = 448.0 * 6, 1.6 * 2.0**-9 * 6
    once = fake_quantize_eager(x, cast_spec("nvfp4"))
    twice = fake_quantize_eager(once, cast_spec("nvfp4"))
    assert (once[16].item(), twice[16].item()) == (4 * 2 * 2.0**-9, 6 * 2.0**-9)


@settings(max_examples=50)
@given(seed=seeds)
def test_not_for_nvfp4_where_they_are_normal(seed: int) -> None:
    x = wide((4, 64), seed)
    x[:, ::16] = 1.0 + x[:, ::16].abs()
    once = fake_quantize_eager(x, cast_spec("nvfp4"))
    assert (quantize_eager(x, cast_spec("nvfp4"))[1] >= 8).all()
    assert same_bits(fake_quantize_eager(once, cast_spec("nvfp4")), once)


@settings(max_examples=150)
@given(name=any_cell, power=st.integers(-60, 60), seed=seeds)
def test_a_power_of_two_shifts_the_scale_only(name: str, power: int, seed: int) -> None:
    cell = CELLS[name]
    x = wide((6, 70), seed)
    x[:, ::16] = 1.0  # no zero blocks, whose scale stays
    spec = spec_of(cell, x, seed)
    (codes, *scales), (moved_codes, *moved) = (
        quantize_eager(values, spec) for values in (x, torch.ldexp(x, torch.tensor(power)))
    )
    assert torch.equal(moved_codes, codes)
    if name in E8M0_CELLS:
        assert torch.equal(moved[0].int(), scales[0].int() + power)
    else:
        assert torch.equal(moved[-1], scales[-1] * 2.0**power)
        assert all(map(torch.equal, moved[:-1], scales[:-1]))


@settings(max_examples=150)
@given(name=any_cell, numbers=st.sampled_from([wide, any_bits]), seed=seeds)
def test_negation_flips_signs_only(
    name: str, numbers: Callable[[tuple[int, ...], int], Tensor], seed: int
) -> None:
    cell = CELLS[name]
    x = numbers((6, 70), seed)
    element, spec = cell.spec().element, spec_of(cell, x, seed)
    (codes, *scales), (negated, *same) = quantize_eager(x, spec), quantize_eager(-x, spec)
    assert all(map(same_bits_or_codes, same, scales))
    if element.twos_complement:
        expected = -codes.int() & 0xFF
    else:
        poisoned = fake_quantize_eager(x, spec).isnan() & (codes == 0)
        expected = torch.where(poisoned, codes, codes ^ element.sign_bit).int()
    assert torch.equal(negated.int(), expected)


def same_bits_or_codes(one: Tensor, other: Tensor) -> bool:
    return same_bits(one, other) if one.is_floating_point() else torch.equal(one, other)


@settings(max_examples=100)
@given(
    name=st.sampled_from([*E8M0_CELLS, "nvfp4-amax"]),
    order=st.permutations(range(8)),
    axis=st.sampled_from([0, 1]),
    seed=seeds,
)
def test_permuting_blocks_permutes_results(name: str, order: list[int], axis: int, seed: int) -> None:
    cell = CELLS[name]
    size = cell.spec().block_size or 0
    shape = (3, 8 * size)[:: 1 if axis == 1 else -1]
    x = wide(shape, seed)
    places = (torch.tensor(order)[:, None] * size + torch.arange(size)).flatten()
    spec = spec_of(cell, x, seed, axis=axis)
    moved_spec = replace(spec, random=None if spec.random is None else spec.random.index_select(axis, places))
    codes, scales, *tensor_scale = quantize_eager(x, spec)
    moved = quantize_eager(x.index_select(axis, places), moved_spec)
    assert torch.equal(moved[0], codes.index_select(axis, places))
    assert torch.equal(moved[1], scales.index_select(axis, torch.tensor(order)))
    assert list(moved[2:]) == tensor_scale


@settings(max_examples=50)
@given(name=any_cell, order=st.permutations(range(6)), seed=seeds)
def test_permuting_rows_permutes_results(name: str, order: list[int], seed: int) -> None:
    cell, rows = CELLS[name], torch.tensor(order)
    x = any_bits((6, 40), seed)
    spec = spec_of(cell, x, seed)
    moved_spec = replace(spec, random=None if spec.random is None else spec.random[rows])
    assert same_bits(fake_quantize_eager(x[rows], moved_spec), fake_quantize_eager(x, spec)[rows])


@pytest.mark.parametrize(
    "name",
    ["mxfp6_e2m3-floor-stochastic", "mxfp8_e4m3-reciprocal-nan_stays", "nvfp4-amax", "e4m3_tensor-amax"],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(50, 70, 3), (1, 300, 7)], ids=["rows", "one row"])
def test_chunks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, axis: int, shape: tuple[int, ...], name: str
) -> None:
    x = wide(shape, 0)
    spec = spec_of(CELLS[name], x, 0, axis=axis)
    whole = (*quantize_eager(x, spec), fake_quantize_eager(x, spec))
    monkeypatch.setattr(block_views, "_CPU_CHUNK", 100)
    assert all(map(torch.equal, whole, (*quantize_eager(x, spec), fake_quantize_eager(x, spec))))


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_input_is_left_alone_and_no_gradient_flows(dtype: torch.dtype, name: str) -> None:
    x = wide((4, 40), 1).to(dtype).requires_grad_()
    before = x.detach().clone()
    assert not any(part.requires_grad for part in quantize_eager(x, cast_spec(name)))
    result = fake_quantize_eager(x, cast_spec(name))
    assert torch.equal(x.detach(), before)
    assert (result.dtype, result.requires_grad, result.is_contiguous()) == (dtype, False, True)


def test_a_poisoned_block_is_nan_throughout_and_its_neighbour_is_not() -> None:
    x = torch.ones(2, 64)
    x[0, 3], x[1, 40] = torch.nan, -torch.inf
    result = fake_quantize_eager(x, CastSpec(format="fp8_e5m2"))
    assert result.isnan().view(2, 2, 32).all(-1).tolist() == [[True, False], [False, True]]
    assert result.isnan().sum() == 64


def test_every_rule_and_rounding_is_implemented() -> None:
    assert {*rules.SCALE_RULES, "amax"} == set(SCALE_RULES)
    assert set(rules.ROUNDINGS) == set(ROUNDINGS)


STOCHASTIC = {"rounding": "stochastic"}


@pytest.mark.parametrize("name", ["fp8_e4m3", "nvfp4", "e4m3_tensor", "e5m2_row"])
@pytest.mark.parametrize("cast", [quantize_eager, fake_quantize_eager], ids=["quantize", "fake_quantize"])
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        pytest.param([1.0], TypeError, "must be a torch.Tensor, got list", id="list"),
        pytest.param(torch.ones(3).double(), TypeError, "torch.float64; allowed: torch.float32", id="double"),
        pytest.param(torch.ones(3).int(), TypeError, "dtype torch.int32; allowed", id="int"),
        pytest.param(torch.ones(3).bool(), TypeError, "dtype torch.bool; allowed", id="bool"),
        pytest.param(torch.ones(3).cfloat(), TypeError, "dtype torch.complex64; allowed", id="complex"),
        pytest.param(torch.ones(0, 3), ValueError, r"x is empty \(shape \(0, 3\)\)", id="empty"),
        pytest.param(torch.ones(3, 0), ValueError, r"x is empty \(shape \(3, 0\)\)", id="empty axis"),
        pytest.param(torch.tensor(1.0), ValueError, "0 dimensions", id="scalar"),
    ],
)
def test_wrong_input(cast: Any, x: Any, name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        cast(x, cast_spec(name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cast", [quantize_eager, fake_quantize_eager], ids=["quantize", "fake_quantize"])
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param({"axis": 2}, "allowed: -2 to 1", id="axis"),
        pytest.param({"axis": -3}, "allowed: -2 to 1", id="negative axis"),
        pytest.param({"block_size": 0}, "block size must be at least 1, got 0", id="block size"),
        pytest.param({"tail": "error"}, "33 elements", id="tail"),
        pytest.param(STOCHASTIC, "needs random=an int64 tensor of shape .* got NoneType", id="no integers"),
        pytest.param({**STOCHASTIC, "random": [1]}, "got list", id="integers in a list"),
        pytest.param({**STOCHASTIC, "random": torch.ones(2, 33)}, "got torch.float32", id="random numbers"),
        pytest.param(
            {**STOCHASTIC, "random": torch.ones(33).long()},
            r"of shape \(33,\)",
            id="integers of another shape",
        ),
        pytest.param(
            {**STOCHASTIC, "random": torch.full((2, 33), 1 << 32)},
            "from 4294967296 to 4294967296",
            id="too large",
        ),
        pytest.param({**STOCHASTIC, "random": torch.full((2, 33), -1)}, "from -1 to -1", id="negative"),
    ],
)
def test_wrong_casts(cast: Any, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        cast(torch.ones(2, 33), CastSpec(format="fp8_e4m3", **spec))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nvfp4", "e4m3_tensor", "e5m2_row"])
def test_an_axis_out_of_range_for_real_scales(name: str) -> None:
    with pytest.raises(ValueError, match="axis 2 is out of range"):
        quantize_eager(torch.ones(2, 33), cast_spec(name, axis=2))
