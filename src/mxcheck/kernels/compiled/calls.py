"""The kernel `cpp`: eager's casts on a CPU, by compiled code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mxcheck.formats.blocks import BLOCK_FORMATS, E4M3, E8M0
from mxcheck.formats.codes import E8M0_BIAS, code_values, scale_values
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.kernels.block_views import check_input, mark_written, why_unreadable
from mxcheck.kernels.compiled.library import OFF, is_off, library, loaded
from mxcheck.kernels.compiled.plans import CODE_OF, Layout, element_of, layout_of, plan_of
from mxcheck.kernels.domain import NotSupported, domain
from mxcheck.kernels.eager import Parts, fake_quantize_eager, quantize_eager
from mxcheck.kernels.rules import EXPONENT
from mxcheck.kernels.trial_casts import (
    alike,
    all_casts,
    difference,
    drawn,
    inputs,
    near_ties,
    overwrite,
    probing,
)

# Elements from which threads are worth their start.
_THREADED = 1 << 18

Function = Callable[..., Any]
_Checked = tuple[Layout, Tensor, Tensor | None]
_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
_CAST = (*(_POINTER,) * 3, *(_LONG,) * 3, _INT, *(_POINTER,) * 4, _INT)
_DEQUANTIZE = (*(_POINTER,) * 5, ctypes.c_float, *(_LONG,) * 3, _INT, _POINTER, _INT)


@cache
def _functions(compiled: ctypes.CDLL) -> tuple[Function, Function]:
    cast, dequantize = compiled.mx_cast, compiled.mx_dequantize
    cast.argtypes, cast.restype = _CAST, None
    dequantize.argtypes, dequantize.restype = _DEQUANTIZE, _INT
    return cast, dequantize


def is_compiled() -> bool:
    """Return whether there are compiled casts here; compiles them unless that was done before."""
    return not isinstance(library(first_wrong), str)


def _cast_function() -> Function:
    compiled = loaded(first_wrong)
    if isinstance(compiled, str):
        raise NotSupported(compiled)
    return _functions(compiled)[0]


def _threads(numel: int) -> int:
    return torch.get_num_threads() if numel >= _THREADED else 1


@domain()
def quantize_cpp(x: Tensor, spec: CastSpec, out: Parts | None = None) -> Parts:
    """As `quantize_eager`. `out`, if given, is written to and returned: contiguous tensors of the results'
    shapes and dtypes, that share no memory with x.

    Raises:
        NotSupported: x is no plain tensor on a CPU; there is no compiled library here.
    """
    _check_plain(x)
    if is_off():
        raise NotSupported(OFF)
    return quantize_plain(x, spec, out)


@domain()
def fake_quantize_cpp(x: Tensor, spec: CastSpec, out: Tensor | None = None) -> Tensor:
    """As `fake_quantize_eager`; `out` and errors as of `quantize_cpp`."""
    _check_plain(x)
    if is_off():
        raise NotSupported(OFF)
    return fake_quantize_plain(x, spec, out)


def quantize_plain(x: Tensor, spec: CastSpec, out: Parts | None = None) -> Parts:
    """As `quantize_cpp`, of a tensor that is known to be plain (`why_unreadable`) and on a CPU."""
    checked = _checked(x, spec, *(out or ()))
    return _quantize(_cast_function(), checked, out)


def fake_quantize_plain(x: Tensor, spec: CastSpec, out: Tensor | None = None) -> Tensor:
    """As `fake_quantize_cpp`, of a tensor that is known to be plain (`why_unreadable`) and on a CPU."""
    checked = _checked(x, spec, out)
    return _fake_quantize(_cast_function(), checked, out)


def _check_plain(x: Tensor) -> None:
    """Raise NotSupported where x is no plain tensor on a CPU. What is no tensor is `check_input`'s."""
    if isinstance(x, Tensor) and x.device.type != "cpu":
        raise NotSupported(
            f"compiled casts run on a CPU, got a tensor on {x.device}; use kernel='eager' there"
        )
    _check_memory(x)


def _check_memory(*tensors: Tensor | None) -> None:
    if why := why_unreadable(*tensors):
        raise NotSupported(f"compiled casts read plain memory, got {why}; use kernel='eager' there")


def _quantize(
    function: Function, checked: _Checked, out: Parts | None = None, threads: int | None = None
) -> Parts:
    layout, x, _ = checked
    if out is not None:
        mark_written(*out)
    else:
        out = _empty_parts(layout, x)
    tensor_scale = out[2].data_ptr() if layout.has_tensor_scale else None  # type: ignore[misc]
    _call(function, checked, threads, out[0].data_ptr(), None, out[1].data_ptr(), tensor_scale)
    return out


def _call(function: Function, checked: _Checked, threads: int | None, *results: int | None) -> None:
    """Call `mx_cast`. `results`: addresses of codes, values, scales and tensor scale; None: not asked for."""
    layout, x, random = checked
    function(
        layout.address,
        x.data_ptr(),
        None if random is None else random.data_ptr(),
        layout.outer,
        layout.length,
        layout.inner,
        layout.dtype,
        *results,
        threads or _threads(layout.numel),
    )


def _empty_parts(layout: Layout, x: Tensor) -> Parts:
    codes = torch.empty_like(x, dtype=torch.uint8)
    scales = codes.new_empty(layout.scales, dtype=layout.scales_dtype)
    return (
        (codes, scales, codes.new_empty((), dtype=torch.float32))
        if layout.has_tensor_scale
        else (codes, scales)
    )


def _fake_quantize(
    function: Function, checked: _Checked, out: Tensor | None = None, threads: int | None = None
) -> Tensor:
    if out is not None:
        mark_written(out)
    else:
        out = torch.empty_like(checked[1])
    _call(function, checked, threads, None, out.data_ptr(), None, None)
    return out


def _checked(x: Tensor, spec: CastSpec, *out: Tensor | None) -> _Checked:
    """Return the layout, and x and its random integers as the compiled code reads them.

    Raises:
        TypeError, ValueError: as `check_input`.
        NotSupported: the random integers or `out` are no plain tensors.
    """
    if spec.random is not None or any(one is not None for one in out):
        _check_memory(spec.random, *out)
    random = None
    if spec.random is not None or not isinstance(x, Tensor) or not x.numel():
        check_input(x, spec)
        if spec.rounding == "stochastic":
            random = spec.random.contiguous()
        spec = replace(spec, random=None)  # the layout is kept, and these integers need not be
    elif x.dtype not in CODE_OF or spec.rounding == "stochastic":
        check_input(x, spec)
    layout = layout_of(x.shape, x.dtype, spec)
    if not x.is_contiguous() or x.is_neg():
        x = x.detach().contiguous().resolve_neg()
    return layout, x, random


def elements_cpp(values: Tensor, element: ElementFormat, rounding: str) -> Tensor:
    """Return codes (uint8) of contiguous fp32 values at scale 1: the element cast alone, saturating.
    For tests of every input. NaN gets the format's largest NaN code, or an arbitrary one."""
    plan = plan_of(CastSpec(format=element.name, rounding=rounding, block_size=32))
    # No amax changes the scale, and none poisons its block.
    plan.factor, plan.emax, plan.amax_below = 0.0, -E8M0_BIAS, EXPONENT - 1
    plan.element = element_of(element, keeps_nan=bool(element.nan_magnitudes))
    codes, scales = (torch.empty(n, dtype=torch.uint8) for n in (len(values), -(-len(values) // 32)))
    shape = 1, len(values), 1
    _cast_function()(
        *(ctypes.addressof(plan), values.data_ptr(), None, *shape, 0),
        *(codes.data_ptr(), None, scales.data_ptr(), None, 1),
    )
    return codes


def dequantize_cpp(
    codes: Tensor, scales: Tensor, tensor_scale: Tensor | None, spec: CastSpec, dtype: torch.dtype
) -> Tensor | None:
    """Return the values of codes and scales on a CPU, as `QuantizedTensor.dequantize`; None where there is no
    compiled library, and where these are no codes and scales of the cast."""
    compiled = library(first_wrong)
    if isinstance(compiled, str) or not codes.numel():
        return None
    return _dequantize(compiled, codes, scales, tensor_scale, spec, dtype)


def _dequantize(
    compiled: ctypes.CDLL,
    codes: Tensor,
    scales: Tensor,
    tensor_scale: Tensor | None,
    spec: CastSpec,
    dtype: torch.dtype,
    threads: int | None = None,
    values: Tensor | None = None,
) -> Tensor | None:
    layout = layout_of(codes.shape, dtype, replace(spec, random=None) if spec.random is not None else spec)
    got = (codes.dtype, scales.dtype, scales.shape, tensor_scale is not None)
    if got != (torch.uint8, layout.scales_dtype, layout.scales, layout.has_tensor_scale):
        return None
    codes, scales = codes.contiguous(), scales.contiguous()
    if values is None:
        values = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    of_scales = None if layout.scales_dtype == torch.float32 else _table(spec.block.scale)
    seen = _functions(compiled)[1](
        layout.address,
        codes.data_ptr(),
        scales.data_ptr(),
        ctypes.addressof(_table(spec.element.name)),
        None if of_scales is None else ctypes.addressof(of_scales),
        1.0 if tensor_scale is None else float(tensor_scale),
        layout.outer,
        layout.length,
        layout.inner,
        layout.dtype,
        values.data_ptr(),
        threads or _threads(layout.numel),
    )
    return values if seen < 2 * spec.element.sign_bit else None


@cache
def _table(name: str) -> ctypes.Array[ctypes.c_float]:
    """The value of each byte as a code of an element format or kind of scale."""
    name = "fp8_e4m3" if name == E4M3 else name
    values = scale_values() if name == E8M0 else code_values(ELEMENT_FORMATS[name])
    return (ctypes.c_float * 256)(*(values[code % len(values)] for code in range(256)))


def first_wrong(compiled: ctypes.CDLL) -> str:
    """Return a cast that a library computes otherwise than eager; empty where it computes all alike."""
    with probing():
        return _wrong_small(compiled) or _wrong_large(compiled)


def _wrong_small(compiled: ctypes.CDLL) -> str:
    function = _functions(compiled)[0]
    tried = tuple(inputs())
    for spec in all_casts():
        for x, axis in tried:
            asked = drawn(x, spec, axis)
            checked = _checked(x, asked)
            parts, values = _empty_parts(checked[0], x), torch.empty_like(x)
            overwrite(*parts, values)
            _quantize(function, checked, parts)
            _fake_quantize(function, checked, values)
            if wrong := difference(x, asked, (*parts, values)):
                return wrong
    return ""


def _wrong_large(compiled: ctypes.CDLL) -> str:
    """As `first_wrong`, of what only larger inputs reach: lanes and rows beyond a tile, several threads,
    results that are written past the caches, and the way back from codes."""
    function = _functions(compiled)[0]
    for name in BLOCK_FORMATS:
        for shape, axis, times in (
            ((5, 2100), 1, 1),
            ((64, 300), 0, 1 << 4),
            ((64, 1 << 10), 1, 1 << 7 if name == "fp8_e4m3" else 1 << 2),
        ):
            part = near_ties(*shape)
            spec, x = cast_spec(name, axis=axis), part.repeat(times, 1)
            checked = _checked(x, spec)
            parts, values, target = _empty_parts(checked[0], x), torch.empty_like(x), torch.empty_like(x)
            overwrite(*parts, values, target)
            codes, scales, *rest = _quantize(function, checked, parts, 3)
            _fake_quantize(function, checked, values, 3)
            scale = rest[0] if rest else None
            back = _dequantize(compiled, codes, scales, scale, spec, x.dtype, 3, target)
            # Equal parts have equal blocks, and the amax of their whole.
            expected = quantize_eager(part, spec)[0], *(fake_quantize_eager(part, spec),) * 2
            for found, one in zip((codes, values, back), expected, strict=True):
                if found is None or not alike(found.view(times, *shape), one.expand(times, *shape)):
                    return f"{name} of {times} times {shape}"
    return ""
