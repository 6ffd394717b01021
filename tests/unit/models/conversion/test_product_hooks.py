"""Every function of torch that multiplies matrices, by position and by keyword."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mxcheck.models.conversion.product_hooks import (
    FUSED,
    PRODUCTS,
    AttentionCast,
    LinearCast,
    storage,
    undisturbed,
)

A = torch.arange(1.0, 13.0).view(3, 4)
B = torch.arange(2.0, 22.0).view(4, 5) / 8
BIAS = torch.ones(3, 5) / 4
AA, BB, BIASES = A.expand(2, 3, 4).clone(), B.expand(2, 4, 5).clone(), BIAS.expand(2, 3, 5).clone()

#: Each product called both ways: A times B, and what is added.
CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {
    "linear": (torch.nn.functional.linear, (A, B.T), {}),
    "linear-keywords": (torch.nn.functional.linear, (), {"input": A, "weight": B.T, "bias": BIAS[0]}),
    "torch.matmul": (torch.matmul, (A, B), {}),
    "torch.matmul-keywords": (torch.matmul, (A,), {"other": B}),
    "Tensor.matmul": (Tensor.matmul, (A, B), {}),
    "operator": (Tensor.__matmul__, (A, B), {}),
    "torch.mm": (torch.mm, (A, B), {}),
    "torch.mm-keywords": (torch.mm, (), {"input": A, "mat2": B}),
    "Tensor.mm": (Tensor.mm, (A, B), {}),
    "torch.bmm": (torch.bmm, (AA, BB), {}),
    "torch.bmm-keywords": (torch.bmm, (), {"input": AA, "mat2": BB}),
    "Tensor.bmm": (Tensor.bmm, (AA, BB), {}),
    "torch.addmm": (torch.addmm, (BIAS, A, B), {}),
    "torch.addmm-keywords": (torch.addmm, (BIAS,), {"mat1": A, "mat2": B}),
    "Tensor.addmm": (Tensor.addmm, (BIAS, A, B), {}),
    "torch.baddbmm": (torch.baddbmm, (BIASES, AA, BB), {"beta": 2.0}),
    "torch.baddbmm-keywords": (torch.baddbmm, (), {"input": BIASES, "batch1": AA, "batch2": BB}),
    "Tensor.baddbmm": (Tensor.baddbmm, (BIASES, AA, BB), {}),
}
every_call = pytest.mark.parametrize("case", CALLS)


def expected(case: str, first: float, second: float) -> Tensor:
    """The result with operands times a power of two, so that not one rounding differs."""
    func, args, kwargs = CALLS[case]

    def scaled(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.shape[-2:] in (BIAS.shape, BIAS[0].shape):
            return x
        return x * (first if x.shape[-2:] == A.shape else second)

    result: Tensor = func(*map(scaled, args), **{key: scaled(value) for key, value in kwargs.items()})
    return result


def times(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * factor


def unseen(_: Tensor) -> None:
    """An observer who looks away."""


def attention(**changes: Any) -> AttentionCast:
    arguments: dict[str, Any] = {"wide": False, "weights": set(), "observe": unseen, **changes}
    return AttentionCast(times(2), times(8), **arguments)


def test_every_product_is_called_here() -> None:
    assert {func for func, _, _ in CALLS.values()} == set(PRODUCTS)


@every_call
def test_a_linear_cast_takes_the_activation_alone(case: str) -> None:
    func, args, kwargs = CALLS[case]
    with LinearCast(times(2), result=None, wide=False, weights=set()) as mode:
        got = func(*args, **kwargs)

    assert mode.products == 1
    assert torch.equal(got, expected(case, 2, 1))
    assert not torch.equal(got, func(*args, **kwargs))


@every_call
def test_a_result_is_cast_after_what_is_added(case: str) -> None:
    func, args, kwargs = CALLS[case]
    with LinearCast(times(2), result=times(4), wide=False, weights=set()):
        got = func(*args, **kwargs)

    assert torch.equal(got, 4 * expected(case, 2, 1))


@every_call
def test_an_attention_cast_takes_both_operands(case: str) -> None:
    func, args, kwargs = CALLS[case]
    seen: list[Tensor] = []
    with attention(observe=seen.append) as mode:
        got = func(*args, **kwargs)
    linear = func is torch.nn.functional.linear

    assert mode.products == (0 if linear else 1)
    assert torch.equal(got, expected(case, 1, 1) if linear else expected(case, 2, 8))
    assert [x.shape[-2:] for x in seen] == ([] if linear else [A.shape, B.shape])
    assert linear or (torch.equal(seen[0], 2 * (AA if seen[0].dim() == 3 else A)))


@every_call
def test_an_attention_cast_leaves_linear_products_alone(case: str) -> None:
    func, args, kwargs = CALLS[case]
    weight = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.shape[-1] == 5]
    with attention(weights={storage(x) for x in weight}) as mode:
        of_a_weight = func(*args, **kwargs)
    with attention() as other, undisturbed("product"):
        in_a_linear = func(*args, **kwargs)

    assert mode.products == other.products == 0
    assert torch.equal(of_a_weight, expected(case, 1, 1))
    assert torch.equal(in_a_linear, expected(case, 1, 1))


@every_call
def test_a_linear_module_inside_of_attention_is_cast_once(case: str) -> None:
    func, args, kwargs = CALLS[case]
    with attention() as around, LinearCast(times(2), result=None, wide=False, weights=set()) as inside:
        got = func(*args, **kwargs)

    assert (around.products, inside.products) == (0, 1)
    assert torch.equal(got, expected(case, 2, 1))


@every_call
@pytest.mark.parametrize("kind", ["linear", "attention"])
def test_wide_products_are_computed_in_fp32_and_rounded_once(case: str, kind: str) -> None:
    func, args, kwargs = CALLS[case]
    args, kwargs = bf16(args), dict(zip(kwargs, bf16(tuple(kwargs.values())), strict=True))
    third = times(1 / 3)  # what bfloat16 does not hold
    mode = (
        LinearCast(third, result=None, wide=True, weights=set())
        if kind == "linear"
        else AttentionCast(third, times(1), wide=True, weights=set(), observe=unseen)
    )
    with mode:
        got = func(*args, **kwargs)
    if kind == "attention" and func is torch.nn.functional.linear:
        assert torch.equal(got, func(*args, **kwargs))
        return

    assert got.dtype == torch.bfloat16
    assert torch.equal(got, of_a_third(case).bfloat16())


def of_a_third(case: str) -> Tensor:
    """The same product in fp32. (A, B and what is added are exact in bfloat16.)"""
    func, args, kwargs = CALLS[case]

    def third(x: Any) -> Any:
        return x * (1 / 3) if isinstance(x, Tensor) and x.shape[-2:] == A.shape else x

    result: Tensor = func(*map(third, args), **{key: third(value) for key, value in kwargs.items()})
    return result


def bf16(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.bfloat16() if isinstance(value, Tensor) else value for value in values)


@pytest.mark.parametrize("func", FUSED, ids=lambda function: function.__name__)
def test_fused_functions_are_refused_in_attention_in_one_line(func: Callable[..., Tensor]) -> None:
    x = torch.ones(1, 2, 4, 4)
    arguments = ("bhij,bhkj->bhik", x, x) if func is torch.einsum else (x, x, x)
    with attention(), pytest.raises(ValueError, match=f"^attention calls torch's {func.__name__}") as caught:
        func(*arguments)

    assert "\n" not in str(caught.value)


@every_call
def test_what_a_cast_computes_itself_is_left_alone(case: str) -> None:
    func, args, kwargs = CALLS[case]
    with LinearCast(times(2), result=times(4), wide=True, weights=set()) as mode, undisturbed("product"):
        got = func(*args, **kwargs)

    assert mode.products == 0
    assert torch.equal(got, expected(case, 1, 1))


def test_a_weight_in_the_place_of_the_activation_is_refused_in_one_line() -> None:
    with (
        LinearCast(times(2), result=None, wide=False, weights={storage(B)}),
        pytest.raises(
            ValueError,
            match=r"^a product \(matmul\) takes the weight as its first operand, where mxcheck expects the "
            r"activation; it cannot be cast$",
        ),
    ):
        torch.matmul(B.T, A.T)


def test_other_functions_pass() -> None:
    with attention() as around, LinearCast(times(2), result=times(2), wide=True, weights=set()) as inside:
        got = A * A.sum() + A.T.reshape(3, 4)

    assert torch.equal(got, A * 78 + A.T.reshape(3, 4))
    assert (around.products, inside.products) == (0, 0)


def test_a_view_lies_in_the_storage_of_its_base() -> None:
    assert storage(B) == storage(B.T) == storage(B[1:, 2:]) != storage(B.clone())
