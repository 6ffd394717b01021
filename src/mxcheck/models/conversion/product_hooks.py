"""Intercept the operands of products with a torch function mode on the functions that multiply matrices.

A converted module keeps its class and its forward; while that runs, the operands of every product pass
through the recipe's casts. One mechanism therefore covers `nn.Linear`, its subclasses, `Conv1D`, experts
stored as 3-D parameters, and the two products of attention in every architecture that computes them eagerly.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Cast = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """Positions and names of the two operands among a function's arguments."""

    first: tuple[int, str]
    second: tuple[int, str]


_BINARY = Arguments(first=(0, "input"), second=(1, "other"))
_MATRIX = Arguments(first=(0, "input"), second=(1, "mat2"))
_ADDED = Arguments(first=(1, "mat1"), second=(2, "mat2"))
_BATCHED = Arguments(first=(1, "batch1"), second=(2, "batch2"))

#: Every product whose operands mxcheck casts.
PRODUCTS: Mapping[Callable[..., Any], Arguments] = {
    torch.nn.functional.linear: Arguments(first=(0, "input"), second=(1, "weight")),
    torch.matmul: _BINARY,
    Tensor.matmul: _BINARY,
    Tensor.__matmul__: _BINARY,
    torch.mm: _MATRIX,
    Tensor.mm: _MATRIX,
    torch.bmm: _MATRIX,
    Tensor.bmm: _MATRIX,
    torch.addmm: _ADDED,
    Tensor.addmm: _ADDED,
    torch.baddbmm: _BATCHED,
    Tensor.baddbmm: _BATCHED,
}
#: Attention functions that hide their operands.
FUSED = (torch.nn.functional.scaled_dot_product_attention, torch.einsum)

_BUSY: ContextVar[str] = ContextVar("mxcheck_busy", default="")


@dataclass(slots=True)
class Call:
    """One product before it is computed."""

    func: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]

    def get(self, place: tuple[int, str]) -> Tensor:
        position, keyword = place
        value: Tensor = self.args[position] if position < len(self.args) else self.kwargs[keyword]
        return value

    def set(self, place: tuple[int, str], value: Tensor) -> None:
        position, keyword = place
        if position < len(self.args):
            self.args[position] = value
        else:
            self.kwargs[keyword] = value

    def widen(self) -> None:
        """Convert every operand, the bias too, to fp32."""
        self.args = [_wide(value) for value in self.args]
        self.kwargs = {name: _wide(value) for name, value in self.kwargs.items()}

    def __call__(self) -> Tensor:
        result: Tensor = self.func(*self.args, **self.kwargs)
        return result


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


class LinearCast(TorchFunctionMode):
    """While active, apply `cast` to the activation of every product, and `result` to its result.

    With `wide`, products are computed in fp32 and rounded once to the activation's dtype: for casts whose
    values a 16-bit type cannot hold. `weights` are the storages of the module's parameters. `observe`
    receives both operands of each product before any change.
    """

    def __init__(
        self,
        cast: Cast,
        *,
        result: Cast | None,
        wide: bool,
        weights: Container[int],
        observe: Callable[[Tensor, Tensor], None] = lambda _first, _second: None,
    ) -> None:
        super().__init__()
        self._cast, self._result, self._wide = cast, result, wide
        self._weights = weights
        self._observe = observe
        self.products = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        places = PRODUCTS.get(func)
        if places is None or busy():
            return func(*args, **(kwargs or {}))
        self.products += 1
        call = Call(func, list(args), dict(kwargs or {}))
        x = call.get(places.first)
        if storage(x) in self._weights:
            raise ValueError(
                f"a product ({func.__name__}) takes the weight as its first operand, where mxcheck expects "
                f"the activation; it cannot be cast"
            )
        self._observe(x, call.get(places.second))
        if self._wide:
            call.widen()
        call.set(places.first, self._cast(call.get(places.first)))
        with undisturbed("product"):
            result = call().to(x.dtype)
        return result if self._result is None else self._result(result)


class AttentionCast(TorchFunctionMode):
    """While active, cast both operands of every product except linear ones, along the axes over which the
    product sums: the last of the first operand, the second to last of the second.

    `weights` are the storages of the module's parameters: a product with one of them is linear. `observe`
    receives the operands as they enter the product.
    """

    def __init__(
        self,
        first: Cast,
        second: Cast,
        *,
        wide: bool,
        weights: Container[int],
        observe: Callable[[Tensor], None],
    ) -> None:
        super().__init__()
        self._first, self._second, self._wide = first, second, wide
        self._weights = weights
        self._observe = observe
        self.products = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in FUSED and not busy():
            raise ValueError(
                f"attention calls torch's {func.__name__}, whose operands mxcheck cannot cast; "
                f"load the model with attn_implementation='eager'"
            )
        places = PRODUCTS.get(func)
        if places is None or func is torch.nn.functional.linear or busy():
            return func(*args, **(kwargs or {}))
        call = Call(func, list(args), dict(kwargs or {}))
        if storage(call.get(places.second)) in self._weights:
            return call()
        self.products += 1
        dtype = call.get(places.first).dtype
        if self._wide:
            call.widen()
        for place, cast in ((places.first, self._first), (places.second, self._second)):
            call.set(place, cast(call.get(place)))
            self._observe(call.get(place))
        return call().to(dtype)


@contextmanager
def undisturbed(what: str) -> Iterator[None]:
    """Mark code that our modes must not touch: a `cast`, whose kernel may add and multiply, and the `product`
    of a linear module, which the surrounding attention must not cast again."""
    token = _BUSY.set(what)
    try:
        yield
    finally:
        _BUSY.reset(token)


def busy() -> bool:
    """Return whether a cast, or a product with already cast operands, is being computed."""
    return bool(_BUSY.get())


def casting() -> bool:
    """Return whether a cast is being computed."""
    return _BUSY.get() == "cast"


def storage(value: Tensor) -> int:
    """Return the address of a tensor's memory, the same for every view of it."""
    return value.untyped_storage().data_ptr()
