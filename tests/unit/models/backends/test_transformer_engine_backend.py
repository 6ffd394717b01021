"""What can be held without a GPU: the requirements and the shapes. The rest is unverified."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from mxcheck.models.backends.backend import BACKEND_PRECISIONS, backend
from mxcheck.models.backends.te_backend import TransformerEngine, _padded

BACKENDS: dict[str, TransformerEngine] = {
    name: made for name in BACKEND_PRECISIONS if isinstance(made := backend(name), TransformerEngine)
}
every_backend = pytest.mark.parametrize("name", BACKENDS)

RANGES = {
    "te_fp8_delayed": ((8, 9), None),
    "te_fp8_current": ((8, 9), None),
    "te_mxfp8": ((10, 0), (12, 0)),
}


@every_backend
def test_the_range_of_compute_capabilities_is_the_recipes(name: str) -> None:
    assert (BACKENDS[name].at_least, BACKENDS[name].below) == RANGES[name]


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        pytest.param("te_fp8_delayed", (128, 344), None, id="delayed"),
        pytest.param("te_fp8_current", (128, 344), None, id="current"),
        pytest.param("te_mxfp8", (128, 352), None, id="mxfp8"),
        pytest.param("te_fp8_delayed", (344, 128), "in_features is 344", id="delayed_in"),
        pytest.param("te_fp8_current", (344, 128), "in_features is 344", id="current_in"),
        pytest.param("te_fp8_current", (128, 340), "out_features is 340", id="current_out"),
        pytest.param("te_mxfp8", (48, 128), "in_features is 48", id="mxfp8_in"),
        pytest.param("te_mxfp8", (128, 344), "out_features is 344", id="mxfp8_out"),
    ],
)
def test_shapes(name: str, shape: tuple[int, int], said: str | None) -> None:
    inputs, outputs = shape
    for module in (nn.Linear(inputs, outputs), Conv1D(outputs, inputs)):
        reason = BACKENDS[name].refuses(module)
        assert (reason is None) == (said is None)
        assert said is None or (reason is not None and said in reason)


@every_backend
def test_other_modules_are_refused(name: str) -> None:
    said = BACKENDS[name].refuses(nn.Embedding(32, 32))
    assert said is not None
    assert "no nn.Linear" in said


@pytest.mark.parametrize("rows", [1, 31, 32, 33])
def test_rows_are_filled_up_with_zeros(rows: int) -> None:
    x = torch.randn(rows, 16)
    padded = _padded(x.reshape(1, rows, 16))
    assert padded.shape == (32 if rows <= 32 else 64, 16)
    assert torch.equal(padded[:rows], x)
    assert not padded[rows:].any()


@every_backend
def test_on_cuda(name: str) -> None:
    """Unverified: written without a GPU."""
    if (reason := BACKENDS[name].missing("cuda")) is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    module = nn.Linear(128, 352).cuda().requires_grad_(False)
    x = torch.randn(3, 11, 128, device="cuda")  # 33 rows, which nothing divides
    replacement = BACKENDS[name].replace(module)
    got, expected = replacement.forward(x), module(x)
    assert got.shape == expected.shape
    assert got.dtype == x.dtype
    # Both operands have 4 significant bits: each term is off by at most 2^-4 + 2^-4 + 2^-8 of itself, and by
    # the smallest steps of the operands' ranges, 2^-9 / 448 of an amax.
    weight = module.weight.abs()
    smallest = 2.0**-9 / 448 * 128 * x.abs().max() * weight.max()
    bound = (2.0**-3 + 2.0**-8) * (x.abs() @ weight.t() + module.bias.abs()) + 2 * smallest
    assert bool(((got - expected).abs() <= bound).all())
    assert not torch.equal(got, expected)
    before = replacement.operand_digest(x)
    replacement.forward(x * 3)
    assert replacement.operand_digest(x) == before
    assert torch.equal(replacement.forward(x), got)
