"""The public casts: the house kernel, the user's, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mxcheck
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.kernels.api import called_kernels, check_parts, resolve_kernel
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager
from mxcheck.kernels.house import fake_quantize_house

X = torch.randn(4, 40, generator=torch.Generator().manual_seed(0))
SPEC = CastSpec(format="fp8_e4m3")

USER_MODULE = """
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager
from mxcheck.kernels.house import fake_quantize_house

def codes(x, spec):
    return quantize_eager(x, spec)

def values(x, spec):
    return fake_quantize_eager(x, spec)

constant = 3
hidden = min  # inspect.signature cannot tell what it takes

class Kernel:
    def __call__(self, x, spec, *, fast=True):
        return codes(x, spec)
made = Kernel()

def of_one(x):
    return x

def of_four(x, spec, axis, block_size):
    return x
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mx_user_casts.py").write_text(USER_MODULE)
    (tmp_path / "mx_user_broken.py").write_text("import mx_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "mx_user_casts"


def test_defaults() -> None:
    quantized = mxcheck.quantize(X, "fp8_e4m3")
    codes, scales = quantize_eager(X, SPEC)
    assert torch.equal(quantized.codes, codes)
    assert torch.equal(quantized.scales, scales)
    assert quantized.spec == SPEC
    assert (codes.shape, scales.shape) == (X.shape, (4, 2))
    assert torch.equal(mxcheck.fake_quantize(X, "fp8_e4m3"), quantized.dequantize())


def test_arguments_reach_the_spec() -> None:
    spec = mxcheck.quantize(X, "mxint8", axis=0, block_size=2, tail="error").spec
    assert spec == CastSpec(format="mxint8", axis=0, block_size=2, tail="error")
    with pytest.raises(ValueError, match="unknown scale rule of mxint8 'flor'"):
        mxcheck.fake_quantize(X, "mxint8", scale_rule="flor")


@pytest.mark.parametrize("function", ["codes", "values"])
def test_a_users_kernel_by_name(user_module: str, function: str) -> None:
    kernel = f"{user_module}:{function}"
    assert torch.equal(mxcheck.fake_quantize(X, "fp8_e4m3", kernel=kernel), fake_quantize_eager(X, SPEC))


@pytest.mark.parametrize("cast", [mxcheck.quantize, mxcheck.fake_quantize])
def test_a_kernel_that_writes_over_its_input_is_refused_and_the_input_put_back(cast: Any) -> None:
    """The input is a model's weight, or what later layers read too."""

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor]:
        parts = quantize_eager(x, spec)
        x.copy_(fake_quantize_eager(x, spec))
        return parts

    x = X.clone()
    with pytest.raises(ValueError, match=r"kernel .*kernel wrote over its input: [\d,]+ of [\d,]+ values"):
        cast(x, "fp4_e2m1", kernel=kernel)
    assert torch.equal(x, X)


def test_nan_in_the_input_is_no_change_of_it() -> None:
    x = torch.full((1, 32), torch.nan)
    codes = mxcheck.quantize(x, "fp8_e4m3", kernel=lambda x, spec: quantize_eager(x, spec)).codes
    assert torch.equal(codes, mxcheck.quantize(x, "fp8_e4m3").codes)


def test_a_users_kernel_as_a_callable() -> None:
    seen: list[CastSpec] = []

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor]:
        seen.append(spec)
        return quantize_eager(x, spec)

    mxcheck.quantize(X, "fp8_e4m3", kernel=kernel)
    mxcheck.fake_quantize(X.bfloat16(), "fp8_e4m3", kernel=kernel)
    assert seen == [SPEC, SPEC]


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        pytest.param("eagr", "unknown kernel 'eagr'; allowed: auto, eager.*did you mean 'eager'", id="name"),
        pytest.param("mx_nowhere.casts:f", "there is no module 'mx_nowhere' on sys.path", id="package"),
        pytest.param("mx_user_casts.sub:f", "there is no module 'mx_user_casts.sub'", id="submodule"),
        pytest.param(
            "mx_user_casts:value", "unknown function of module 'mx_user_casts'.*'values'", id="attribute"
        ),
        pytest.param("mx_user_casts:constant", "is not callable: its type is int", id="not callable"),
        pytest.param(
            "mx_user_casts:of_one",
            r"'mx_user_casts:of_one' takes \(x\), and is called with \(x, spec\): too many positional",
            id="one argument",
        ),
        pytest.param("mx_user_casts:of_four", r"missing a required argument: 'axis'", id="four"),
        pytest.param("mx_user_casts:Kernel", r"too many positional arguments", id="class"),
        pytest.param("mx_user_casts:", "unknown kernel", id="no function"),
        pytest.param(".foo:x", "'.foo:x': give the module in full, without a dot before it", id="relative"),
        pytest.param(3, "must be a name or a callable", id="neither"),
    ],
)
@pytest.mark.usefixtures("user_module")
def test_kernels_that_cannot_be_found(kernel: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        resolve_kernel(kernel)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("user_module")
@pytest.mark.parametrize("name", ["made", "hidden"])
def test_what_takes_two_arguments_or_does_not_tell_is_a_kernel(name: str) -> None:
    assert callable(resolve_kernel(f"mx_user_casts:{name}")[0])


@pytest.mark.usefixtures("user_module")
def test_a_kernels_own_failed_import_is_not_hidden() -> None:
    with pytest.raises(ModuleNotFoundError, match="mx_not_installed"):
        resolve_kernel("mx_user_broken:f")


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        pytest.param(lambda x: x[:2], ValueError, r"values of shape \(2, 40\)", id="shape"),
        pytest.param(lambda x: x.bfloat16(), ValueError, "torch.bfloat16 on cpu; expected", id="dtype"),
        pytest.param(lambda x: (x, x), ValueError, "returned codes of .*float32", id="codes"),
        pytest.param(lambda x: (x.byte(), x.byte()), ValueError, r"scales .*expected \(4, 2\)", id="scales"),
        pytest.param(
            lambda _: None, TypeError, r"must return \(codes, scales\) or a tensor, got None", id="None"
        ),
        pytest.param(lambda x: (x, x, x), TypeError, "got 3 tensors", id="three"),
    ],
)
def test_wrong_results(result: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mxcheck.fake_quantize(X, "fp8_e4m3", kernel=lambda x, _spec: result(x))


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        pytest.param("nvfp4", lambda c, s, _: (c, s), TypeError, "for nvfp4, got 2 tensors", id="two"),
        pytest.param("nvfp4", lambda c, s, t: (c, s, t, t), TypeError, "got 4 tensors", id="four"),
        pytest.param(
            "nvfp4", lambda c, s, _: (c, s, 1.0), TypeError, r"\(codes, scales, tensor scale\)", id="a float"
        ),
        pytest.param(
            "nvfp4",
            lambda c, s, t: (c, s, t.view(1)),
            ValueError,
            r"tensor scale of shape \(1,\)",
            id="shape",
        ),
        pytest.param(
            "nvfp4", lambda c, s, t: (c, s, t.double()), ValueError, "torch.float64 on", id="double"
        ),
        pytest.param("nvfp4", lambda c, s, t: (c, s.float(), t), ValueError, "returned scales", id="scales"),
        pytest.param(
            "nvfp4", lambda c, s, t: (c, s[:, ::2], t), ValueError, r"expected \(4, 3\)", id="blocks"
        ),
        pytest.param("e4m3_row", lambda c, s: (c, s[:, 0]), ValueError, r"expected \(4, 1\)", id="rows"),
        pytest.param("e4m3_row", lambda c, s: (c, s.byte()), ValueError, "torch.float32 on cpu", id="bytes"),
        pytest.param("e4m3_tensor", lambda c, s: (c, s[0, 0]), ValueError, r"expected \(1, 1\)", id="scalar"),
        pytest.param("e4m3_tensor", lambda c, s: (c, s, s), TypeError, "got 3 tensors", id="three"),
        pytest.param(
            "fp8_e4m3", lambda c, s: (c, s.float()), ValueError, "expected .* torch.uint8", id="floats"
        ),
    ],
)
def test_wrong_parts_of_each_kind_of_format(
    name: str, change: Any, error: type[Exception], message: str
) -> None:
    spec = cast_spec(name)
    right = quantize_eager(X, spec)
    found = check_parts(quantize_eager, right, X, spec)
    assert torch.equal(found.scales, right[1])
    assert (found.tensor_scale is None) == (name != "nvfp4")
    with pytest.raises(error, match=message) as caught:
        check_parts(quantize_eager, change(*right), X, spec)
    assert "\n" not in str(caught.value)
    assert "mxcheck.kernels.eager:quantize_eager" in str(caught.value)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 3).int(), "torch.int32; allowed"),
        (torch.ones(2, 3).cdouble(), "torch.complex128; allowed"),
        ([1.0], "must be a torch.Tensor, got list"),
    ],
)
@pytest.mark.parametrize("cast", [mxcheck.quantize, mxcheck.fake_quantize])
def test_wrong_input_is_refused_before_any_kernel_sees_it(cast: Any, x: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        cast(x, "fp8_e4m3", kernel=lambda *_: pytest.fail("it was called"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_size": 0}, "block size must be at least 1, got 0"),
        ({"block_size": 2.0}, "block size must be an integer, got 2.0"),
        ({"axis": 2}, "axis 2 is out of range"),
        ({"axis": 0.5}, "axis must be an integer, got 0.5"),
        ({"rounding": "stochastic"}, "stochastic rounding needs random="),
        ({"format": "nvfp4", "block_size": 32}, "nvfp4 has the block size 16, got 32; leave block_size out"),
        ({"rounding": None}, "unknown rounding None; allowed: even, "),
        ({"axis": None}, "axis must be an integer, got None"),
        ({"format": "fp8_e4m4"}, "unknown format 'fp8_e4m4'.*did you mean 'fp8_e4m3'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        mxcheck.quantize(X, **{"format": "fp8_e4m3", **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cast", [mxcheck.quantize, mxcheck.fake_quantize])
def test_random_integers_that_nothing_would_use(cast: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^random= is for rounding='stochastic', got rounding='even'; leave"
    ):
        cast(X, "fp8_e4m3", random=torch.zeros(X.shape, dtype=torch.int64))


def test_what_a_format_has_by_default() -> None:
    assert mxcheck.quantize(X, "nvfp4").spec == cast_spec("nvfp4")
    assert mxcheck.quantize(X, "e4m3_row").scales.shape == (4, 1)
    for name in BLOCK_FORMATS:
        assert torch.equal(mxcheck.fake_quantize(X, name), mxcheck.quantize(X, name).dequantize())


def test_quantize_needs_codes() -> None:
    with pytest.raises(TypeError, match="fake_quantize_eager returned values, not"):
        mxcheck.quantize(X, "fp8_e4m3", kernel=fake_quantize_eager)


def test_whoever_listens_hears_of_a_kernel_and_not_of_the_casts_that_it_makes() -> None:
    def by_ours(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        found = mxcheck.quantize(x, spec.format)
        return found.codes, found.scales

    heard: list[Any] = []
    with called_kernels(heard.append):
        mxcheck.fake_quantize(torch.ones(1, 32), "fp8_e4m3", kernel=by_ours)
        mxcheck.fake_quantize(torch.ones(1, 32), "fp8_e4m3")
    assert heard == [by_ours, fake_quantize_house]
