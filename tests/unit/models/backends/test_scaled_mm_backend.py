"""torch's scaled product against the emulation: the same casts, multiplied in float64."""

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mxcheck.kernels.api import quantize
from mxcheck.kernels.digest import WeightDigest, digest
from mxcheck.models.backends.backend import BACKEND_PRECISIONS, backend
from mxcheck.models.backends.scaled_mm_backend import ScaledMM, product_dtype

UNIT = 2.0**-24  # fp32's unit roundoff
FORMATS = {"scaled_mm_fp8": "e4m3_tensor", "scaled_mm_fp8_row": "e4m3_row"}

BACKENDS: dict[str, ScaledMM] = {
    name: made for name in BACKEND_PRECISIONS if isinstance(made := backend(name), ScaledMM)
}
needs_scaled_mm = pytest.mark.skipif(
    BACKENDS["scaled_mm_fp8"].missing("cpu") is not None, reason=str(BACKENDS["scaled_mm_fp8"].missing("cpu"))
)
every_backend = pytest.mark.parametrize("name", BACKENDS)


def linear(inputs: int = 128, outputs: int = 344, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    module = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    module.weight *= torch.randn(
        outputs, 1
    ).exp()  # rows of different size, so that one scale is not the other
    return module


def activation(inputs: int = 128, rows: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, inputs, generator=generator)
    return x * torch.randn(rows, 1, generator=generator).exp()


def emulated(x: Tensor, weight: Tensor, format: str) -> tuple[Tensor, Tensor]:
    """The product of the cast operands in float64, and the product of their magnitudes."""
    a, b = (
        q.codes.view(torch.float8_e4m3fn).double() * q.scales.double()
        for q in (quantize(operand, format) for operand in (x, weight))
    )
    return a @ b.t(), a.abs() @ b.abs().t()


def worst(got: Tensor, exact: Tensor, magnitude: Tensor, terms: int) -> float:
    """The largest error as a share of its bound, gamma_(K + 4) times the product of the magnitudes.

    In fp32, in any order of summation: K - 1 sums, the product of two codes (exact), and at most four
    roundings more by scales, which may be applied to operands or to the sum, and be multiplied themselves.
    """
    gamma = (terms + 4) * UNIT / (1 - (terms + 4) * UNIT)
    return float(((got.double() - exact).abs() / (gamma * magnitude)).max())


SHAPES = {"wide": (128, 344), "long": (1376, 64), "odd": (33, 7), "single": (1, 1)}


@needs_scaled_mm
@every_backend
@pytest.mark.parametrize("shape", SHAPES)
def test_the_product_is_the_emulation_up_to_accumulation(name: str, shape: str) -> None:
    inputs, outputs = SHAPES[shape]
    module, x = linear(inputs, outputs), activation(inputs)
    assert BACKENDS[name].refuses(module) is None
    got = BACKENDS[name].replace(module).forward(x)
    exact, magnitude = emulated(x, module.weight, FORMATS[name])
    assert worst(got, exact, magnitude, inputs) <= 1


@needs_scaled_mm
@every_backend
def test_another_scale_is_seen(name: str) -> None:
    module, x = linear(), activation()
    got = BACKENDS[name].replace(module).forward(x)
    (other,) = set(FORMATS.values()) - {FORMATS[name]}
    assert worst(got, *emulated(x, module.weight, other), 128) > 100
    exact, magnitude = emulated(x, module.weight, FORMATS[name])
    assert worst(got, exact * (1 + 2.0**-10), magnitude, 128) > 1  # a scale that is off by a thousandth


@needs_scaled_mm
@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_result_has_the_shape_and_dtype_of_a_linear_layer(name: str, dtype: torch.dtype) -> None:
    module, x = linear(bias=True), activation().to(dtype).reshape(2, 24, 128)
    got = BACKENDS[name].replace(module.to(dtype)).forward(x)
    assert got.dtype == dtype
    assert got.shape == (2, 24, 344)
    exact, magnitude = emulated(x.reshape(48, 128), module.weight, FORMATS[name])
    exact, magnitude = exact + module.bias.double(), magnitude + module.bias.abs().double()
    # One rounding to x's dtype on top.
    bound = 134 * UNIT * magnitude + torch.finfo(dtype).eps / 2 * exact.abs()
    assert bool(((got.reshape(48, 344).double() - exact).abs() <= bound * (1 + 2.0**-7)).all())


@needs_scaled_mm
@every_backend
def test_the_digests_are_of_the_house_kernels_codes_and_scales(name: str) -> None:
    module, x = linear(), activation()
    replacement = BACKENDS[name].replace(module)

    def parts(operand: Tensor) -> tuple[Tensor, Tensor]:
        cast = quantize(operand, FORMATS[name])
        scales = torch.tensor(cast.scales.tolist())
        return cast.codes, scales if FORMATS[name] == "e4m3_row" else scales.reshape(1)

    codes, scales = parts(module.weight)
    assert replacement.weight_digest == WeightDigest(codes=digest(codes), scales=digest(scales))
    assert replacement.weight_bytes == 344 * 128 + 4 * (344 if FORMATS[name] == "e4m3_row" else 1)
    assert replacement.operand_digest(x) == digest(*parts(x))
    assert replacement.operand_digest(x.reshape(2, 24, 128)) == replacement.operand_digest(x)
    assert replacement.operand_digest(x * 1.01) != replacement.operand_digest(x)
    module.weight[0, 0] = 2 * module.weight.abs().max()
    assert BACKENDS[name].replace(module).weight_digest != replacement.weight_digest


@needs_scaled_mm
@every_backend
def test_the_module_is_left_as_it_was_and_may_change_later(name: str) -> None:
    module, x = linear(bias=True), activation()
    before = module.weight.clone()
    replacement = BACKENDS[name].replace(module)
    expected = replacement.forward(x)
    assert torch.equal(module.weight, before)
    module.weight.zero_()
    module.bias.zero_()
    assert torch.equal(replacement.forward(x), expected)


@needs_scaled_mm
@every_backend
def test_a_conv1d_is_its_transposed_linear(name: str) -> None:
    module, x = linear(bias=True), activation()
    conv = Conv1D(344, 128)
    conv.weight = nn.Parameter(module.weight.t().contiguous(), requires_grad=False)
    conv.bias = module.bias
    ours, theirs = BACKENDS[name].replace(module), BACKENDS[name].replace(conv)
    assert theirs.weight_digest == ours.weight_digest
    assert torch.equal(theirs.forward(x), ours.forward(x))


@every_backend
def test_other_modules_are_refused(name: str) -> None:
    said = BACKENDS[name].refuses(nn.Embedding(4, 4))
    assert said is not None
    assert "no nn.Linear" in said


def test_what_the_cpu_cannot_do_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Tensor:
        raise NotImplementedError("no kernel\nfor this")

    monkeypatch.setattr(ScaledMM, "_product", refuse)
    said = BACKENDS["scaled_mm_fp8"].missing("cpu")
    assert said == "torch's scaled product does not run on this CPU: no kernel for this"


@pytest.mark.parametrize(
    ("by_row", "capability", "cuda", "expected"),
    [
        pytest.param(False, None, None, torch.float32, id="cpu"),
        pytest.param(True, None, None, torch.float32, id="cpu_row"),
        pytest.param(False, (8, 9), "12.8", torch.float32, id="ada"),
        pytest.param(True, (8, 9), "12.9", torch.bfloat16, id="ada_row"),
        pytest.param(True, (9, 0), "12.8", torch.bfloat16, id="hopper_row_before_12.9"),
        pytest.param(True, (9, 0), "12.9", torch.float32, id="hopper_row"),
        pytest.param(True, (9, 0), "13.0", torch.float32, id="hopper_row_later"),
        pytest.param(True, (10, 0), "13.0", torch.bfloat16, id="blackwell_row"),
    ],
)
def test_the_dtype_that_the_kernel_gives(
    by_row: bool, capability: tuple[int, int] | None, cuda: str | None, expected: torch.dtype
) -> None:
    assert product_dtype(by_row, capability, cuda) == expected


@every_backend
def test_on_cuda(name: str) -> None:
    """Unverified: written without a GPU."""
    if (reason := BACKENDS[name].missing("cuda")) is not None:
        pytest.skip(reason)
    module, x = linear(128, 352), activation()
    got = BACKENDS[name].replace(module.cuda()).forward(x.cuda()).cpu()
    exact, magnitude = emulated(x, module.weight.cpu(), FORMATS[name])
    # FP8 tensor cores add with about 14 bits (Hopper: DeepSeek-V3, arXiv:2412.19437), and the row-wise
    # kernels round to bfloat16.
    bound = 128 * 2.0**-13 * magnitude + 2.0**-8 * exact.abs()
    assert bool(((got.double() - exact).abs() <= bound).all())
    assert BACKENDS[name].refuses(linear(128, 340).cuda()) is not None
