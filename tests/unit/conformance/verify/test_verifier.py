"""The verifier: each kind of mismatch by itself, where it is and how often."""

from __future__ import annotations

import timeit
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import wrong_casts
from torch import Tensor

from mxcheck.conformance.verify.verifier import KINDS, compare, expected_parts, expected_values
from mxcheck.formats.codes import code_values
from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.kernels.api import Kernel
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager
from mxcheck.kernels.kept_settings import SETTINGS, put_settings, settings

X = torch.randn(3, 70, generator=torch.Generator().manual_seed(0))
SPEC = CastSpec(format="fp8_e4m3")


def changed(part: int, **changes: Any) -> Kernel:
    """The house kernel with elements of one part of its result overwritten: `at` gets `value`."""

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        parts = quantize_eager(x, spec)
        parts[part][changes["at"]] = changes["value"]
        return parts

    return kernel


def changed_values(at: Any, value: float) -> Kernel:
    def kernel(x: Tensor, spec: CastSpec) -> Tensor:
        values = fake_quantize_eager(x, spec)
        values[at] = value
        return values

    return kernel


@pytest.mark.parametrize("kernel", [quantize_eager, fake_quantize_eager], ids=["codes", "values"])
@pytest.mark.parametrize("name", ["fp8_e4m3", "mxint8", "nvfp4", "e4m3_tensor", "e5m2_row"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_right_bits_are_no_mismatch(kernel: Kernel, name: str, dtype: torch.dtype) -> None:
    for x in (X, torch.zeros(2, 40), torch.full((2, 3), torch.nan), -X.abs()):
        found = compare(kernel, x.to(dtype), cast_spec(name))
        assert (found.unsupported, dict(found.counts), dict(found.places), found.error) == (None, {}, {}, "")
        assert len(found.got) == (1 if kernel is fake_quantize_eager else 3 if name == "nvfp4" else 2)


@pytest.mark.parametrize(
    ("x", "kernel", "kind", "place"),
    [
        pytest.param(X, changed(0, at=(1, 5), value=0x23), "code", (1, 5), id="code"),
        pytest.param(X, changed(0, at=(2, 69), value=0x7F), "nan", (2, 69), id="nan for a number"),
        pytest.param(X * 0, changed(0, at=(2, 3), value=0x80), "zero sign", (2, 3), id="zero sign"),
        pytest.param(X, changed(1, at=(1, 2), value=3), "scale", (1, 64), id="scale, at its first element"),
        pytest.param(X, changed_values((1, 5), 7.0), "value", (1, 5), id="value"),
        pytest.param(X, changed_values((1, 5), torch.nan), "nan", (1, 5), id="nan for a value"),
        pytest.param(X * 0, changed_values((1, 5), -0.0), "zero sign", (1, 5), id="zero value's sign"),
    ],
)
def test_each_kind(x: Tensor, kernel: Kernel, kind: str, place: tuple[int, ...]) -> None:
    found = compare(kernel, x.abs(), SPEC)
    assert (dict(found.counts), dict(found.places)) == ({kind: 1}, {kind: place})


def test_kinds_are_told_in_their_order() -> None:
    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        codes[0, :3] = torch.tensor([0x7F, 0x80, 0x11])
        scales[1, 0] ^= 1
        return codes, scales

    x = X.abs()
    x[0, 1] = 0
    found = compare(kernel, x, SPEC)
    assert (
        list(found.counts) == ["scale", "code", "nan", "zero sign"] == [k for k in KINDS if k in found.counts]
    )


def test_elements_under_a_wrong_scale_are_told_as_the_scale() -> None:
    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        scales[1, 1] += 1
        codes[1, 32:64] = 0
        codes[2, 0] ^= 1
        return codes, scales

    found = compare(kernel, X, SPEC)
    assert dict(found.counts) == {"scale": 1, "code": 1}
    assert dict(found.places) == {"scale": (1, 32), "code": (2, 0)}


@pytest.mark.parametrize(("axis", "place"), [(0, (32, 1)), (-1, (1, 0))])
def test_a_scales_place_along_either_axis(axis: int, place: tuple[int, int]) -> None:
    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        scales[1, 1 if axis == 0 else 0] += 1
        return codes, scales

    x = X.T[:40] if axis == 0 else X
    assert compare(kernel, x, CastSpec(format="fp8_e4m3", axis=axis)).places == {"scale": place}


@pytest.mark.parametrize(
    ("name", "one", "other", "kinds"),
    [
        ("fp8_e5m2", 0x7F, 0x7D, []),
        ("fp8_e5m2", 0x7F, 0xFE, []),
        ("fp8_e5m2", 0x7F, 0x7C, ["nan"]),
        ("fp8_e4m3", 0x7F, 0xFF, []),
        ("fp8_e4m3", 0x7F, 0x7E, ["nan"]),
    ],
)
def test_nan_codes_are_equal(name: str, one: int, other: int, kinds: list[str]) -> None:
    spec = CastSpec(format=name, scale_rule="rceil", nonfinite="element")
    x = torch.tensor([1.0, torch.nan])
    assert not compare(changed(0, at=1, value=one), x, spec).counts
    assert list(compare(changed(0, at=1, value=other), x, spec).counts) == kinds


@pytest.mark.parametrize("name", ["fp8_e4m3", "mxint8", "nvfp4", "e4m3_tensor", "e5m2_row"])
def test_codes_mean_nothing_where_the_scale_is_nan(name: str) -> None:
    spec = cast_spec(name)
    x = torch.ones(2, 16)
    x[0, 3] = torch.inf
    assert not compare(changed(0, at=(0, slice(None)), value=5), x, spec).counts
    found = compare(changed(0, at=(1, 0), value=5), x, spec)
    whole = name in ("nvfp4", "e4m3_tensor")
    assert dict(found.counts) == ({} if whole else {"code": 1})


def test_a_byte_that_is_no_code_is_a_code_mismatch() -> None:
    spec = CastSpec(format="fp4_e2m1")
    assert dict(compare(changed(0, at=(0, 0), value=0x80), X * 0, spec).counts) == {"code": 1}
    assert dict(compare(changed(0, at=(0, 0), value=0xF0), X, spec).counts) == {"code": 1}


def test_mxint8s_most_negative_code_is_no_zero() -> None:
    spec = CastSpec(format="mxint8")
    assert dict(compare(changed(0, at=(0, 0), value=0x80), X * 0, spec).counts) == {"code": 1}


def test_the_scales_of_nvfp4() -> None:
    spec = cast_spec("nvfp4")
    found = compare(changed(2, at=(), value=1.0), X, spec)
    assert (dict(found.counts), dict(found.places)) == ({"scale": 1}, {"scale": (0, 0)})
    found = compare(changed(1, at=(2, 1), value=0x7F), X, spec)
    assert (dict(found.counts), dict(found.places)) == ({"scale": 1}, {"scale": (2, 16)})
    both = compare(lambda x, s: (lambda c, b, t: (c, b + 1, t * 2))(*quantize_eager(x, s)), X, spec)
    assert dict(both.counts) == {"scale": 3 * 5 + 1}
    nan = X.clone()
    nan[0, 0] = torch.nan
    assert not compare(changed(2, at=(), value=-torch.nan), nan, spec).counts
    assert dict(compare(changed(2, at=(), value=2.0), nan, spec).counts) == {"scale": 1}


@pytest.mark.parametrize(("name", "place"), [("e4m3_row", (1, 0)), ("e5m2_tensor", (0, 0))])
def test_fp32_scales_by_their_bits(name: str, place: tuple[int, int]) -> None:
    spec = cast_spec(name)
    right = quantize_eager(X, spec)[1]
    wrong = torch.nextafter(right[place], torch.tensor(torch.inf))
    found = compare(changed(1, at=place, value=wrong), X, spec)
    assert (dict(found.counts), dict(found.places)) == ({"scale": 1}, {"scale": place})
    zeros = compare(changed(1, at=place, value=-1.0), X * 0, spec)
    assert dict(zeros.counts) == {"scale": 1}


def test_the_scale_of_a_column() -> None:
    found = compare(changed(1, at=(0, 2), value=9.0), X, cast_spec("e4m3_row", axis=0))
    assert (dict(found.counts), dict(found.places)) == ({"scale": 1}, {"scale": (0, 2)})


def refuses(text: str) -> Kernel:
    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        raise NotImplementedError(text)

    return kernel


def test_what_is_not_supported_is_no_mismatch() -> None:
    found = compare(refuses("no such axis here"), X, SPEC)
    assert (found.unsupported, dict(found.counts)) == ("no such axis here", {})
    assert compare(refuses(""), X, SPEC).unsupported == "not supported, no reason given"


def raises(*_: Any) -> tuple[Tensor, ...]:
    raise RuntimeError("CUDA error: misaligned address\nCompile with TORCH_USE_CUDA_DSA")


def in_place(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    parts = quantize_eager(x, spec)
    x[0, 0] = -x[0, 0]
    return parts


@pytest.mark.parametrize(
    ("kernel", "error"),
    [
        pytest.param(raises, "RuntimeError: CUDA error: misaligned address", id="raises"),
        pytest.param(in_place, "it changed its input", id="in place"),
        pytest.param(lambda *_: 3, "must return (codes, scales) or a tensor, got int", id="int"),
        pytest.param(lambda x, _: x.double(), "torch.float64 on cpu; expected (3, 70)", id="dtype"),
        pytest.param(lambda x, _: x[:1], "returned values of shape (1, 70)", id="shape"),
        pytest.param(lambda x, _: (x.byte(), x.byte()), "expected (3, 3), torch.uint8", id="scales"),
        pytest.param(lambda x, s: [*quantize_eager(x, s)], "got list", id="list"),
    ],
)
def test_errors_are_one_line(kernel: Kernel, error: str) -> None:
    x = X.clone()
    found = compare(kernel, x, SPEC)
    assert error in found.error
    assert "\n" not in found.error
    assert (dict(found.counts), dict(found.places)) == ({"error": 1}, {"error": (0, 0)})
    assert found.got == found.expected == ()


def stochastic() -> CastSpec:
    random = torch.randint(1 << 32, X.shape, generator=torch.Generator().manual_seed(1))
    return CastSpec(format="fp8_e4m3", rounding="stochastic", random=random)


@pytest.mark.parametrize("kernel", [wrong_casts.random_integers_zeroed, wrong_casts.truncation])
def test_a_cast_is_judged_by_the_integers_that_it_was_given(kernel: Kernel) -> None:
    spec = stochastic()
    random = spec.random.clone()
    assert compare(kernel, X, spec).counts
    assert torch.equal(spec.random, random)
    assert not compare(quantize_eager, X, spec).counts


def test_random_integers_that_are_changed_are_an_error() -> None:
    found = compare(wrong_casts.random_integers_zeroed, X, stochastic())
    assert (dict(found.counts), found.error) == ({"error": 1}, "it changed its random integers")
    assert not compare(wrong_casts.random_integers_zeroed, X, SPEC).counts


def test_random_integers_may_be_an_array() -> None:
    """As a `CastSpec` may hold them."""
    spec = stochastic()
    array = replace(spec, random=spec.random.numpy())
    seen: list[Any] = []

    def kernel(x: Tensor, given: CastSpec) -> tuple[Tensor, ...]:
        seen.append(given.random)
        return quantize_eager(x, spec)

    assert not compare(kernel, X, array).counts
    assert isinstance(seen[0], np.ndarray)


@pytest.mark.parametrize(("name", "kernel"), wrong_casts.LEAVES_CHANGED.items())
def test_a_setting_that_is_left_changed_is_an_error_and_put_back(name: str, kernel: Kernel) -> None:
    assert list(wrong_casts.LEAVES_CHANGED) == [one.name for one in SETTINGS]
    before = settings()
    found = compare(kernel, X, SPEC)
    assert (dict(found.counts), found.error) == ({"error": 1}, f"it changed {name} and left it so")
    assert settings() == before
    assert not compare(quantize_eager, X * 2.0**-127, SPEC).counts
    assert torch.tensor(2.0**-126) * 0.5 != 0
    assert torch.ones(()).dtype == torch.float32


def test_all_that_is_changed_is_told() -> None:
    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        torch.set_flush_denormal(True)
        return in_place(x, spec)

    x = X.clone()
    told = "it changed torch's flushing of subnormal numbers and left it so, and its input"
    assert compare(kernel, x, SPEC).error == told
    assert torch.equal(x, X)


@pytest.mark.parametrize("error", [NotImplementedError, RuntimeError])
def test_settings_are_put_back_after_an_exception(error: type[Exception]) -> None:
    def kernel(x: Tensor, _: CastSpec) -> tuple[Tensor, ...]:
        torch.set_default_dtype(torch.float64)
        torch.set_flush_denormal(True)
        x.zero_()
        raise error("no")

    before, x = settings(), X.clone()
    found = compare(kernel, x, SPEC)
    assert (found.unsupported or found.error).endswith("no")
    assert settings() == before
    assert torch.equal(x, X)


def test_drawing_random_numbers_is_no_error_and_the_same_each_time() -> None:
    drawn: list[float] = []

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        drawn.append(float(torch.rand(())))
        torch.manual_seed(len(drawn))
        return quantize_eager(x, spec)

    before = torch.get_rng_state()
    assert not compare(kernel, X, SPEC).counts
    assert not compare(kernel, X, SPEC).counts
    assert drawn[0] == drawn[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_an_input_with_a_stride_of_0_is_put_back() -> None:
    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        parts = quantize_eager(x, spec)
        x[0].zero_()
        return parts

    x = X[:1].clone().expand(4, 70)
    assert compare(kernel, x, SPEC).error == "it changed its input"
    assert torch.equal(x, X[:1].expand(4, 70))


def test_an_input_that_is_reshaped_in_place_is_still_there() -> None:
    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        parts = quantize_eager(x, spec)
        x.t_()
        return parts

    x = X.clone()
    assert not compare(kernel, x, SPEC).counts
    assert torch.equal(x, X)


def test_what_was_got_stays_when_a_kernel_uses_its_buffer_again() -> None:
    buffer = torch.zeros(X.shape, dtype=torch.uint8)

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        return buffer.copy_(codes ^ 1), scales

    found = compare(kernel, X, SPEC)
    got = found.got[0].copy()
    buffer.zero_()
    assert np.array_equal(found.got[0], got)


def test_looking_after_the_settings_is_cheap() -> None:
    """It is done in each of thousands of calls: below 50 us, and this machine may be busy."""

    def looked_after() -> None:
        kept, generator = settings(), torch.get_rng_state()
        put_settings(kept)
        torch.set_rng_state(generator)

    assert min(timeit.repeat(looked_after, number=100, repeat=20)) / 100 < 50e-6


def test_values_of_16_bits_are_rounded_once_more() -> None:
    x = torch.tensor([[448.0 * 2.0**120, 3.0]])
    found = compare(fake_quantize_eager, x.bfloat16(), CastSpec(format="fp8_e4m3"))
    assert not found.counts
    assert found.expected[0].dtype == np.float32


def test_expected_values_overflow_16_bits_to_inf() -> None:
    spec = CastSpec(format="mxint8")
    parts = expected_parts(torch.tensor([70000.0]), spec)
    assert expected_values(parts, torch.float16, spec).tolist() == [torch.inf]
    assert expected_values(parts, torch.float32, spec).tolist() == [69632.0]


def test_a_kernel_that_leaves_the_process_is_an_error_like_another() -> None:
    def leaves(*_: object) -> Tensor:
        raise SystemExit(3)

    found = compare(leaves, torch.ones(32), CastSpec(format="fp8_e4m3"))
    assert (found.counts, found.error) == ({"error": 1}, "SystemExit: 3")


@pytest.mark.parametrize("outcome", [pytest.skip, pytest.fail, pytest.xfail])
def test_an_outcome_of_pytest_is_an_error_like_another(outcome: Callable[[str], Any]) -> None:
    """A skip inside a kernel would hide what is wrong elsewhere."""
    found = compare(lambda *_: outcome("not here"), X, SPEC)
    assert dict(found.counts) == {"error": 1}
    assert found.error.endswith(": not here")
    assert found.unsupported is None


def test_an_interrupt_is_none_of_the_kernels() -> None:
    def interrupted(*_: object) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(interrupted, X, SPEC)


# Results that are more than plain tensors


class Labelled(Tensor):
    """A subclass with numbers of its own."""


class Wrapped(Tensor):
    """A subclass that only stands for others, and knows no operation."""

    @staticmethod
    def __new__(cls, like: Tensor) -> Wrapped:
        found: Wrapped = Tensor._make_wrapper_subclass(cls, like.shape, dtype=like.dtype, device=like.device)
        return found

    def __init__(self, like: Tensor) -> None:
        del like

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return args[0]
        raise NotImplementedError(f"no {function}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda values: values.as_subclass(Labelled), id="subclass"),
        pytest.param(torch.nn.Parameter, id="parameter"),
        pytest.param(lambda values: values.requires_grad_() * 1, id="gradient"),
        pytest.param(lambda values: torch._neg_view(-values), id="negated view"),
    ],
)
def test_numbers_are_taken_from_whatever_holds_them(
    made: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    def right(x: Tensor, spec: CastSpec) -> Tensor:
        return made(fake_quantize_eager(x, spec))

    assert not compare(right, X.to(dtype), SPEC).counts
    wrong = compare(lambda x, spec: made(fake_quantize_eager(x, spec) * 2), X.to(dtype), SPEC)
    assert list(wrong.counts) == ["value"]


def test_a_scale_that_requires_a_gradient_is_a_scale() -> None:
    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        return codes.as_subclass(Labelled), scales.requires_grad_()

    assert not compare(kernel, X, cast_spec("e4m3_row")).counts


@pytest.mark.parametrize(
    ("made", "name"), [(Wrapped, "a Wrapped "), (Tensor.to_sparse, "a Tensor (torch.sparse_coo)")]
)
def test_what_holds_no_numbers_is_refused_in_one_line(made: Callable[[Tensor], Tensor], name: str) -> None:
    found = compare(lambda x, spec: made(fake_quantize_eager(x, spec)), X, SPEC)
    assert name in found.error
    assert found.error.endswith("return a torch.Tensor: its own numbers, or what it stands for")


# The last bit


def product_in_fp32(x: Tensor, spec: CastSpec) -> Tensor:
    """NVFP4's values as many make them: the product of both scales is rounded first."""
    codes, scales, tensor_scale = quantize_eager(x, spec)
    blocks = torch.tensor(code_values(ELEMENT_FORMATS["fp8_e4m3"]))[scales.long()] * tensor_scale
    each = blocks.repeat_interleave(16, spec.axis).narrow(spec.axis, 0, x.shape[spec.axis])
    return (torch.tensor(code_values(spec.element))[codes.long()] * each).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [1.0, 2.0**-12, 2.0**-130])
def test_values_of_right_codes_are_not_wrong(size: float, dtype: torch.dtype) -> None:
    x = (X * size).to(dtype)
    assert {*compare(product_in_fp32, x, cast_spec("nvfp4")).counts} <= {"last bit"}


def test_they_are_counted() -> None:
    found = compare(product_in_fp32, X, cast_spec("nvfp4"))
    assert found.counts["last bit"] > 5
    place = found.places["last bit"]
    assert abs(found.got[0][place] - found.expected[0][place]) == np.spacing(abs(found.expected[0][place]))


@pytest.mark.parametrize(
    ("name", "change", "kind"),
    [
        ("e4m3_row", lambda values: torch.nextafter(values, torch.tensor(torch.inf)), "last bit"),
        ("e5m2_tensor", lambda values: values * (1 - 2.0**-24), "last bit"),
        ("e4m3_tensor", lambda values: values * (1 + 2.0**-21), "value"),
        ("nvfp4", lambda values: -values, "value"),
        ("fp8_e4m3", lambda values: torch.nextafter(values, torch.tensor(torch.inf)), "value"),
    ],
)
def test_one_unit_in_the_last_place_and_no_more(
    name: str, change: Callable[[Tensor], Tensor], kind: str
) -> None:
    """Nor in a format whose products are exact."""
    found = compare(lambda x, spec: change(fake_quantize_eager(x, spec)), X.abs() + 1, cast_spec(name))
    assert set(found.counts) == {kind}


def test_an_overflow_is_no_last_bit() -> None:
    x = torch.full((2, 16), torch.finfo(torch.float16).max, dtype=torch.float16)
    found = compare(lambda x, _: torch.full_like(x, torch.inf), x, cast_spec("e4m3_row"))
    assert "last bit" not in found.counts
