"""`mxcheck.quantize` and `mxcheck.fake_quantize`: the public casts, by the house kernel or the user's."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

from mxcheck.formats.choices import choose
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.eager import check_input, fake_quantize_eager, quantize_eager, scales_shape
from mxcheck.kernels.quantized import QuantizedTensor

# A kernel returns (codes, scales), or the values of the cast.
Kernel = Callable[[Tensor, CastSpec], "tuple[Tensor, Tensor] | Tensor"]

# name -> (codes and scales, values)
_OWN: dict[str, tuple[Kernel, Kernel]] = {
    "auto": (quantize_eager, fake_quantize_eager),
    "eager": (quantize_eager, fake_quantize_eager),
}


def quantize(
    x: Tensor,
    format: str,
    *,
    axis: int = -1,
    block_size: int = 32,
    scale_rule: str = "floor",
    rounding: str = "even",
    tail: str = "pad",
    kernel: str | Kernel = "auto",
) -> QuantizedTensor:
    """Quantize to an MX format (OCP MX v1.0, section 6.3).

    Args:
        x: fp32, bf16 or fp16, any shape and strides, not empty.
        format: a name of `mxcheck.formats.elements.ELEMENT_FORMATS`.
        axis, block_size, scale_rule, rounding, tail: as in `CastSpec`.
        kernel: `auto` or `eager` (the house kernel), a callable `f(x, spec)` that returns
            (codes, scales), or where to find one: `package.module:function`.

    Raises:
        TypeError: x is no tensor of these dtypes; the kernel returned values instead of codes.
        ValueError: an argument that is not allowed; a kernel that cannot be found, or whose result has
            the wrong shape, dtype or device.
    """
    spec = CastSpec(
        format=format, axis=axis, block_size=block_size, scale_rule=scale_rule, rounding=rounding, tail=tail
    )
    check_input(x, spec)
    function = resolve_kernel(kernel)[0]
    result = function(x, spec)
    if isinstance(result, Tensor):
        raise TypeError(
            f"kernel {_name(function)} returned values, not (codes, scales): quantize needs codes; "
            f"fake_quantize takes either"
        )
    return _quantized(function, result, x, spec)


def fake_quantize(
    x: Tensor,
    format: str,
    *,
    axis: int = -1,
    block_size: int = 32,
    scale_rule: str = "floor",
    rounding: str = "even",
    tail: str = "pad",
    kernel: str | Kernel = "auto",
) -> Tensor:
    """Quantize to an MX format and back: x's shape and dtype.

    Arguments and errors are those of `quantize`; here the kernel may return values as well. Values are
    exact in fp32, then rounded once to x's dtype. No gradient flows through.
    """
    spec = CastSpec(
        format=format, axis=axis, block_size=block_size, scale_rule=scale_rule, rounding=rounding, tail=tail
    )
    return fake_quantize_with(x, spec, resolve_kernel(kernel)[1])


def fake_quantize_with(x: Tensor, spec: CastSpec, function: Kernel) -> Tensor:
    """`fake_quantize` by a resolved kernel: what a converted model calls at each forward."""
    check_input(x, spec)
    result = function(x, spec)
    if not isinstance(result, Tensor):
        return _quantized(function, result, x, spec).dequantize(x.dtype)
    _check_result(function, "values", result, x, x.shape, x.dtype)
    return result


def resolve_kernel(kernel: str | Kernel) -> tuple[Kernel, Kernel]:
    """The functions that a `kernel` argument names, for `quantize` and for `fake_quantize`.

    Raises:
        ValueError: nothing by that name, or it cannot be called.
    """
    if not isinstance(kernel, str):
        if not callable(kernel):
            raise ValueError(f"kernel must be a name or a callable f(x, spec), got {kernel!r}")
        return kernel, kernel
    if kernel in _OWN:
        return _OWN[kernel]
    module_name, colon, attribute = kernel.partition(":")
    if not (module_name and colon and attribute):
        choose("kernel", kernel, [*_OWN, "<package.module:function>"])
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise ValueError(f"kernel {kernel!r}: there is no module {error.name!r} on sys.path") from error
    if not hasattr(module, attribute):
        own = [
            name for name, value in vars(module).items() if getattr(value, "__module__", "") == module_name
        ]
        choose(f"function of module {module_name!r}:", attribute, own)
    function: Kernel = getattr(module, attribute)
    if not callable(function):
        raise ValueError(f"kernel {kernel!r} is not callable: its type is {type(function).__name__}")
    return function, function


def _quantized(function: Kernel, result: object, x: Tensor, spec: CastSpec) -> QuantizedTensor:
    match result:
        case (Tensor() as codes, Tensor() as scales):
            _check_result(function, "codes", codes, x, x.shape, torch.uint8)
            _check_result(function, "scales", scales, x, scales_shape(x, spec), torch.uint8)
            return QuantizedTensor(codes=codes, scales=scales, spec=spec)
    got = type(result).__name__
    raise TypeError(f"kernel {_name(function)} must return (codes, scales) or a tensor, got {got}")


def _check_result(
    function: Kernel, what: str, result: Tensor, x: Tensor, shape: torch.Size, dtype: torch.dtype
) -> None:
    got = (tuple(result.shape), result.dtype, result.device)
    expected = (tuple(shape), dtype, x.device)
    if got != expected:
        raise ValueError(
            f"kernel {_name(function)} returned {what} of shape {got[0]}, {got[1]} on {got[2]}; "
            f"expected {expected[0]}, {expected[1]} on {expected[2]}"
        )


def _name(function: Kernel) -> str:
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', repr(function))}"
