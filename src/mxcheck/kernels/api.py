"""`mxcheck.quantize` and `mxcheck.fake_quantize`: the public casts, by the house kernel or the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from mxcheck.formats.blocks import E4M3, FP32
from mxcheck.formats.choices import choose
from mxcheck.formats.spec import CastSpec, cast_spec, scales_shape
from mxcheck.kernels.block_views import check_input
from mxcheck.kernels.calls_triton import fake_quantize_triton, quantize_triton
from mxcheck.kernels.compiled.calls import fake_quantize_cpp, quantize_cpp
from mxcheck.kernels.domain import NotSupported, domain_of
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager
from mxcheck.kernels.grown import along_the_last, cut, grown, learned_limits
from mxcheck.kernels.house import fake_quantize_house, quantize_house
from mxcheck.kernels.outputs import check_out, check_out_parts, put_parts
from mxcheck.kernels.quantized import QuantizedTensor
from mxcheck.kernels.registry import OWN, implementation
from mxcheck.kernels.torch_codes import as_codes

# A kernel returns (codes, scales), for NVFP4 (codes, scales, tensor scale), or the values of the cast.
Kernel = Callable[[Tensor, CastSpec], "tuple[Tensor, ...] | Tensor"]

# name -> (codes and scales, values)
_OWN: dict[str, tuple[Kernel, Kernel]] = {
    "auto": (quantize_house, fake_quantize_house),
    "eager": (quantize_eager, fake_quantize_eager),
    "cpp": (quantize_cpp, fake_quantize_cpp),
    "triton": (quantize_triton, fake_quantize_triton),
}
assert tuple(_OWN) == OWN
# Those that check their input themselves, return what they must, and may be told where to.
_TRUSTED = (*_OWN["auto"], *_OWN["cpp"], *_OWN["triton"])

_TELL: ContextVar[Callable[[Kernel], object] | None] = ContextVar("mxcheck_tell", default=None)


def quantize(
    x: Tensor,
    format: str,
    *,
    axis: int = -1,
    block_size: int | None = None,
    scale_rule: str | None = None,
    rounding: str = "even",
    tail: str = "pad",
    nonfinite: str = "block",
    random: Tensor | None = None,
    kernel: str | Kernel = "auto",
    out: QuantizedTensor | None = None,
) -> QuantizedTensor:
    """Quantize to a block format (OCP MX v1.0, section 6.3).

    Args:
        x: fp32, bf16 or fp16, any shape and strides, not empty.
        format: a name of `mxcheck.formats.blocks.BLOCK_FORMATS`.
        axis, rounding, tail, nonfinite: as in `CastSpec`.
        block_size, scale_rule: as in `CastSpec`; None is the format's own (MX: 32 and `floor`).
        random: for stochastic rounding, int64 of x's shape with values in [0, 2^32).
        kernel: `auto` (the fastest of ours), `eager`, `cpp` or `triton`, a callable `f(x, spec)` that returns
            (codes, scales), or where to find one: `package.module:function`.
        out: the result of an earlier call with the same cast and shape, which is overwritten and returned.
            It shares no memory with x.

    Raises:
        TypeError: x is no tensor of these dtypes; the kernel returned values instead of codes.
        ValueError: an argument that is not allowed; a kernel that cannot be found, or whose result has
            the wrong shape, dtype or device; an `out` that cannot hold the result.
    """
    spec = _asked_for(format, axis, block_size, scale_rule, rounding, tail, nonfinite, random)
    function = resolve_kernel(kernel)[0]
    if out is not None:
        check_out_parts(out, x, spec)
    result = cast_with(x, spec, function, out)
    if isinstance(result, Tensor):
        raise TypeError(
            f"kernel {kernel_name(function)} returned values, not (codes, scales): quantize needs codes; "
            f"fake_quantize takes either"
        )
    return result


def fake_quantize(
    x: Tensor,
    format: str,
    *,
    axis: int = -1,
    block_size: int | None = None,
    scale_rule: str | None = None,
    rounding: str = "even",
    tail: str = "pad",
    nonfinite: str = "block",
    random: Tensor | None = None,
    kernel: str | Kernel = "auto",
    out: Tensor | None = None,
) -> Tensor:
    """Quantize to a block format and back: x's shape and dtype.

    Arguments and errors are those of `quantize`; here the kernel may return values as well, and `out` is a
    contiguous tensor of x's shape, dtype and device that shares no memory with it. Values are element times
    scale in fp32 (exact where the scale is a power of two), then rounded once to x's dtype. No gradient flows
    through.
    """
    spec = _asked_for(format, axis, block_size, scale_rule, rounding, tail, nonfinite, random)
    if out is not None:
        check_out(out, x, spec)
    return fake_quantize_with(x, spec, resolve_kernel(kernel)[1], out)


@lru_cache(maxsize=1024, typed=True)
def _usual_spec(
    format: str, axis: int, block_size: int | None, scale_rule: str | None, *options: str
) -> CastSpec:
    rounding, tail, nonfinite = options
    return cast_spec(
        format,
        axis=axis,
        block_size=block_size,
        scale_rule=scale_rule,
        rounding=rounding,
        tail=tail,
        nonfinite=nonfinite,
    )


def _asked_for(*given: Any) -> CastSpec:
    """`cast_spec`, and nothing that it would not use. The same cast is the same object.

    Raises:
        ValueError: as `cast_spec`; random integers without stochastic rounding.
    """
    *usual, random = given
    try:
        spec = _usual_spec(*usual)
    except TypeError:  # what has no hash is no option either: the error of the option says so
        spec = _usual_spec.__wrapped__(*usual)
    if random is None:
        return spec
    spec = replace(spec, random=random)
    if spec.rounding != "stochastic":
        raise ValueError(
            f"random= is for rounding='stochastic', got rounding={spec.rounding!r}; leave it out, or add that"
        )
    return spec


@contextmanager
def called_kernels(tell: Callable[[Kernel], object]) -> Iterator[None]:
    """Call `tell` with the kernel of every cast that this thread makes within the context."""
    token = _TELL.set(tell)
    try:
        yield
    finally:
        _TELL.reset(token)


def _called(function: Kernel, x: Tensor, spec: CastSpec) -> Any:
    """Call a kernel on an input in its domain. Raises NotSupported for an input outside of it, and ValueError
    for a kernel that overwrites its input (restored here): weights of a model and inputs of later layers are
    such inputs."""
    if (tell := _TELL.get()) is not None:
        tell(function)
        token = _TELL.set(None)  # do not report casts that a kernel makes itself
        try:
            return _called(function, x, spec)
        finally:
            _TELL.reset(token)
    if is_own(function):
        return function(x, spec)
    declared = domain_of(function)
    made_for = learned_limits(function, spec) if declared is None else declared
    if made_for is not None and (why := made_for.refuses(x, spec)):
        larger = grown(x, spec, made_for)
        if larger is not None:
            result = _checked_call(function, larger, along_the_last(spec))
            return cut(_parts_of(function, result, larger, spec), x, spec)
        if declared is not None:
            raise NotSupported(f"outside of its domain: {why}")
    return _checked_call(function, x, spec)


def _parts_of(function: Kernel, result: Any, x: Tensor, spec: CastSpec) -> Any:
    """Check a kernel's result for a grown input, and return it."""
    if isinstance(result, Tensor):
        check_values(function, result, x)
    else:
        check_parts(function, result, x, along_the_last(spec))
    return result


def _checked_call(function: Kernel, x: Tensor, spec: CastSpec) -> Any:
    before = x.detach().clone()
    result = function(x, spec)
    same = (before == x) | (before.isnan() & x.isnan())
    if not bool(same.all()):
        with torch.no_grad():
            x.copy_(before)
        raise ValueError(
            f"kernel {kernel_name(function)} wrote over its input: {int((~same).sum()):,} of {x.numel():,} "
            f"values changed; let it work on a copy"
        )
    return result


def is_own(function: Kernel) -> bool:
    """Return whether a kernel is one of ours."""
    return any(function in own for own in _OWN.values())


def cast_with(
    x: Tensor, spec: CastSpec, function: Kernel, out: QuantizedTensor | Tensor | None = None
) -> QuantizedTensor | Tensor:
    """Cast x by a resolved kernel: codes and scales, or values. `out` has been checked."""
    if function in _TRUSTED and _TELL.get() is None:
        return _trusted(x, spec, function, out)
    check_input(x, spec)
    result = _called(function, x, spec)
    if not isinstance(result, Tensor):
        quantized = check_parts(function, result, x, spec)
        return put_parts(out, quantized) if isinstance(out, QuantizedTensor) else quantized
    check_values(function, result, x)
    return out.copy_(result) if isinstance(out, Tensor) else result


def _trusted(
    x: Tensor, spec: CastSpec, function: Any, out: QuantizedTensor | Tensor | None
) -> QuantizedTensor | Tensor:
    """Cast by a kernel of ours that needs neither checks nor copies."""
    if isinstance(out, QuantizedTensor):
        function(x, spec, out.parts)
        return out
    result = function(x, spec, out)
    if isinstance(result, Tensor):
        return result
    codes, scales, *tensor_scale = result
    return QuantizedTensor(
        codes=codes, scales=scales, spec=spec, tensor_scale=tensor_scale[0] if tensor_scale else None
    )


def fake_quantize_with(x: Tensor, spec: CastSpec, function: Kernel, out: Tensor | None = None) -> Tensor:
    """`fake_quantize` by a resolved kernel: called by a converted model at each forward."""
    result = cast_with(x, spec, function, out)
    if isinstance(result, Tensor):
        return result
    values = result.dequantize(x.dtype)
    return values if out is None else out.copy_(values)


def resolve_kernel(kernel: str | Kernel) -> tuple[Kernel, Kernel]:
    """Return the functions that a `kernel` argument names, for `quantize` and for `fake_quantize`.

    Raises:
        ValueError: no such name, its library is not installed, or it cannot be called.
    """
    if not isinstance(kernel, str):
        if not callable(kernel):
            raise ValueError(f"kernel must be a name or a callable f(x, spec), got {kernel!r}")
        return kernel, kernel
    if kernel in _OWN:
        return _OWN[kernel]
    named = implementation(kernel)
    if (missing := named.missing()) is not None:
        raise ValueError(f"kernel {kernel!r}: {missing}")
    function = load_kernel(named.target)
    return function, function


def load_kernel(target: str) -> Kernel:
    """Return the kernel that `package.module:function` names.

    Raises:
        ValueError: as `load_target`; or it cannot be called with (x, spec).
    """
    function = load_target(target)
    try:
        parameters = signature(function)
    except (TypeError, ValueError):
        return function  # compiled code may not tell its parameters
    try:
        parameters.bind("x", "spec")
    except TypeError as error:
        raise ValueError(
            f"kernel {target!r} takes {parameters}, and is called with (x, spec): {error}"
        ) from error
    return function


def load_target(target: str, kind: str = "kernel") -> Callable[..., Any]:
    """Return the function that `package.module:function` names; `kind` is its name in messages.

    Raises:
        ValueError: no such module or function, or it cannot be called. Errors that the module raises while it
            is imported pass through.
    """
    module_name, _, attribute = target.partition(":")
    if module_name.startswith("."):
        raise ValueError(f"{kind} {target!r}: give the module in full, without a dot before it")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists; something that it imports does not
        raise ValueError(f"{kind} {target!r}: there is no module {error.name!r} on sys.path") from error
    if not hasattr(module, attribute):
        own = [
            name for name, value in vars(module).items() if getattr(value, "__module__", "") == module_name
        ]
        choose(f"function of module {module_name!r}:", attribute, own)
    function: Callable[..., Any] = getattr(module, attribute)
    if not callable(function):
        raise ValueError(f"{kind} {target!r} is not callable: its type is {type(function).__name__}")
    return function


def check_parts(function: Kernel, result: object, x: Tensor, spec: CastSpec) -> QuantizedTensor:
    """Check a kernel's codes and scales, and return them; codes in torch's own dtype of the format
    (float8_e4m3fn, float8_e8m0fnu) as bytes.

    Raises:
        TypeError: not a tuple of tensors, or of the wrong length; a dtype of other codes.
        ValueError: the wrong shape, dtype or device.
    """
    scales_dtype = torch.float32 if spec.block.scale == FP32 else torch.uint8
    parts = [
        ("codes", x.shape, torch.uint8),
        ("scales", torch.Size(scales_shape(tuple(x.shape), spec)), scales_dtype),
        ("tensor scale", torch.Size(()), torch.float32),
    ][: 3 if spec.block.scale == E4M3 else 2]
    names = f"({', '.join(name for name, _, _ in parts)})"
    if not isinstance(result, tuple) or not all(isinstance(part, Tensor) for part in result):
        got = type(result).__name__
        raise TypeError(f"kernel {kernel_name(function)} must return {names} or a tensor, got {got}")
    if len(result) != len(parts):
        raise TypeError(
            f"kernel {kernel_name(function)} must return {names} for {spec.format}, got {len(result)} tensors"
        )
    plain = [
        as_codes(kernel_name(function), name, part, code) if dtype == torch.uint8 else part
        for part, (name, _, dtype), code in zip(
            result, parts, (spec.element.name, spec.block.scale, ""), strict=False
        )
    ]
    for part, (name, shape, dtype) in zip(plain, parts, strict=True):
        _check_result(function, name, part, x, shape, dtype)
    return QuantizedTensor(
        codes=plain[0], scales=plain[1], spec=spec, tensor_scale=plain[2] if len(parts) == 3 else None
    )


def check_values(function: Kernel, result: Tensor, x: Tensor) -> None:
    """Check that a fake quantizer's result has x's shape, dtype and device.

    Raises:
        ValueError: it has not.
    """
    _check_result(function, "values", result, x, x.shape, x.dtype)


def _check_result(
    function: Kernel, what: str, result: Tensor, x: Tensor, shape: torch.Size, dtype: torch.dtype
) -> None:
    got = (tuple(result.shape), result.dtype, result.device)
    expected = (tuple(shape), dtype, x.device)
    if got != expected:
        raise ValueError(
            f"kernel {kernel_name(function)} returned {what} of shape {got[0]}, {got[1]} on {got[2]}; "
            f"expected {expected[0]}, {expected[1]} on {expected[2]}"
        )


def kernel_name(function: Kernel) -> str:
    """Return the place of a kernel: `module:function`."""
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', repr(function))}"
