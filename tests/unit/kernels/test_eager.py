"""The house kernel on any shape, axis, stride and dtype: the oracle's bits, or a clear refusal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mxcheck.conformance.verifier import compare
from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.formats.spec import ROUNDINGS, SCALE_RULES, CastSpec
from mxcheck.kernels import blocks, rules
from mxcheck.kernels.blocks import DTYPES
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager

VIEWS = {
    "as it is": lambda x: x,
    "transposed": lambda x: x.transpose(0, -1),
    "every other": lambda x: x[..., ::2],
    "from the second": lambda x: x[..., 1:] if x.shape[-1] > 1 else x,
    "expanded": lambda x: x.unsqueeze(0).expand(3, *x.shape),
}


def wide(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Gaussian numbers over many binades, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.randint(-20, 5, shape, generator=generator)
    return torch.ldexp(torch.randn(shape, generator=generator), scale) * (scale != 0)


@settings(deadline=None, max_examples=150)
@given(
    shape=st.lists(st.integers(1, 70), min_size=1, max_size=3).filter(
        lambda sizes: len(sizes) < 3 or sizes[0] < 9
    ),
    view=st.sampled_from(sorted(VIEWS)),
    name=st.sampled_from(sorted(ELEMENT_FORMATS)),
    dtype=st.sampled_from(DTYPES),
    block_size=st.sampled_from([1, 3, 16, 32, 64]),
    seed=st.integers(0, 2**16),
    data=st.data(),
)
def test_any_layout(
    shape: list[int],
    view: str,
    name: str,
    dtype: torch.dtype,
    block_size: int,
    seed: int,
    data: st.DataObject,
) -> None:
    x = VIEWS[view](wide(tuple(shape), seed).to(dtype))
    axis = data.draw(st.integers(-x.dim(), x.dim() - 1), label="axis")
    spec = CastSpec(format=name, axis=axis, block_size=block_size)
    assert not compare(quantize_eager, x, spec).counts
    assert not compare(fake_quantize_eager, x, spec).counts


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(50, 70, 3), (1, 300, 7)], ids=["rows", "one row"])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, axis: int, shape: tuple[int, ...]) -> None:
    x = wide(shape, 0)
    spec = CastSpec(format="fp6_e2m3", axis=axis)
    whole = (*quantize_eager(x, spec), fake_quantize_eager(x, spec))
    monkeypatch.setattr(blocks, "_CPU_CHUNK", 100)
    assert all(map(torch.equal, whole, (*quantize_eager(x, spec), fake_quantize_eager(x, spec))))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_input_is_left_alone_and_no_gradient_flows(dtype: torch.dtype) -> None:
    x = wide((4, 40), 1).to(dtype).requires_grad_()
    before = x.detach().clone()
    result = fake_quantize_eager(x, CastSpec(format="mxint8"))
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


@pytest.mark.parametrize("cast", [quantize_eager, fake_quantize_eager], ids=["quantize", "fake_quantize"])
@pytest.mark.parametrize(
    ("x", "spec", "error", "message"),
    [
        pytest.param([1.0], {}, TypeError, "must be a torch.Tensor, got list", id="list"),
        pytest.param(
            torch.ones(3).double(), {}, TypeError, "torch.float64; allowed: torch.float32", id="double"
        ),
        pytest.param(torch.ones(3).int(), {}, TypeError, "dtype torch.int32; allowed", id="int"),
        pytest.param(torch.ones(0, 3), {}, ValueError, r"x is empty \(shape \(0, 3\)\)", id="empty"),
        pytest.param(torch.ones(3, 3), {"axis": 2}, ValueError, "allowed: -2 to 1", id="axis"),
        pytest.param(torch.tensor(1.0), {}, ValueError, "0 dimensions", id="scalar"),
        pytest.param(torch.ones(33), {"tail": "error"}, ValueError, "33 elements", id="tail"),
    ],
)
def test_wrong_input(cast: Any, x: Any, spec: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cast(x, CastSpec(format="fp8_e4m3", **spec))
