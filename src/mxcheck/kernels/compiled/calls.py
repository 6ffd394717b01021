"""The kernel `cpp`: eager's casts on a CPU, by compiled code."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from mxcheck.formats.blocks import BLOCK_FORMATS, E4M3, E8M0, FP32
from mxcheck.formats.codes import E8M0_BIAS, E8M0_NAN, code_values, scale_values
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.spec import ROUNDINGS, CastSpec, cast_spec, resolve_axis, scales_shape
from mxcheck.kernels.block_views import DTYPES, check_input, mark_written, why_unreadable
from mxcheck.kernels.compiled.library import library
from mxcheck.kernels.domain import NotSupported, domain
from mxcheck.kernels.eager import Parts, fake_quantize_eager, quantize_eager
from mxcheck.kernels.probe import alike, all_casts, difference, drawn, inputs, near_ties, probing
from mxcheck.kernels.rules import EXPONENT, FRACTION_BITS

_ANY = 0x7FFF_FFFF
_NEGATIVE_ZERO = -(1 << 31)
_KINDS = {E8M0: 0, E4M3: 1, FP32: 2}
_WHOLE_TENSOR = 3
_CODE_OF = {dtype: code for code, dtype in enumerate(DTYPES)}
# Elements from which threads are worth their start.
_THREADED = 1 << 18


class _Element(ctypes.Structure):
    """`MxElement` of casts.hpp."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            *("mantissa_bits", "min_normal", "max_value"),
            *("flip", "add", "zero", "nan_above", "nan_code"),
        )
    ]


class _Plan(ctypes.Structure):
    """`MxPlan` of casts.hpp."""

    _fields_ = [
        ("element", _Element),
        ("block_scale", _Element),
        ("rounding", ctypes.c_int32),
        ("scale", ctypes.c_int32),
        ("block", ctypes.c_int64),
        ("factor", ctypes.c_float),
        ("emax", ctypes.c_int32),
        ("above", ctypes.c_int32),
        ("poisoned", ctypes.c_int32),
        ("amax_below", ctypes.c_int32),
        ("divisor", ctypes.c_float),
        ("block_divisor", ctypes.c_float),
    ]


def _bits(value: float) -> int:
    """The bits of an fp32 number, as a signed integer."""
    return ctypes.c_int32.from_buffer(ctypes.c_float(value)).value


def _element(element: ElementFormat, *, keeps_nan: bool = False) -> _Element:
    signed = element.has_negative_zero
    return _Element(
        mantissa_bits=element.mantissa_bits,
        min_normal=_bits(element.min_normal),
        max_value=_bits(element.max_value),
        flip=0 if signed else -1,
        add=element.sign_bit if signed else 1,
        zero=_NEGATIVE_ZERO if signed else 0,
        nan_above=EXPONENT if keeps_nan else _ANY,
        nan_code=max(element.nan_magnitudes, default=0),
    )


def _rule(spec: CastSpec) -> tuple[float, int, int]:
    """Return factor, emax and threshold of a scale rule: see `MxPlan`."""
    element = spec.element
    if spec.scale_rule == "reciprocal":
        return 1 / element.max_value, 0, 0
    significand = {
        "floor": 2.0,
        "ceil": 1.0,
        # Half a step below 2; "at least" is "above the fp32 number before".
        "even": 2 - 2.0 ** -(element.mantissa_bits + 1) - 2.0**-FRACTION_BITS,
        "rceil": element.max_value / 2.0**element.emax,
    }[spec.scale_rule]
    above = int((significand - 1) * (1 << FRACTION_BITS))
    return 1.0, element.emax, min(above, (1 << FRACTION_BITS) - 1)


def _plan(spec: CastSpec) -> _Plan:
    block, ignores_nan = spec.block, spec.nonfinite == "element"
    of_blocks = ELEMENT_FORMATS["fp8_e4m3"]
    factor, emax, above = (1.0, 0, 0) if block.scale != E8M0 else _rule(spec)
    return _Plan(
        element=_element(spec.element, keeps_nan=ignores_nan),
        block_scale=_element(of_blocks),
        rounding=ROUNDINGS.index(spec.rounding),
        scale=_WHOLE_TENSOR if block.whole_tensor else _KINDS[block.scale],
        block=min(spec.block_size or 0, 1 << 62),
        factor=factor,
        emax=emax,
        above=above,
        poisoned=E8M0_NAN - 1 if ignores_nan else E8M0_NAN,
        amax_below=EXPONENT if ignores_nan else _ANY,
        divisor=spec.element.max_value * (of_blocks.max_value if block.scale == E4M3 else 1),
        block_divisor=spec.element.max_value,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """A cast of tensors of one shape and dtype, as the compiled code wants it: `x` is contiguous
    [outer, length, inner] there, and blocks run along `length`."""

    plan: _Plan
    address: int
    outer: int
    length: int
    inner: int
    numel: int
    dtype: int
    scales: tuple[int, ...]
    scales_dtype: torch.dtype
    has_tensor_scale: bool


@lru_cache(maxsize=4096)
def _layout(shape: tuple[int, ...], dtype: torch.dtype, spec: CastSpec) -> _Layout:
    axis, plan = resolve_axis(len(shape), spec.axis), _plan(spec)
    return _Layout(
        plan=plan,
        address=ctypes.addressof(plan),
        outer=prod(shape[:axis]),
        length=shape[axis],
        inner=prod(shape[axis + 1 :]),
        numel=prod(shape),
        dtype=_CODE_OF[dtype],
        scales=scales_shape(shape, spec),
        scales_dtype=torch.float32 if spec.block.scale == FP32 else torch.uint8,
        has_tensor_scale=spec.block.scale == E4M3,
    )


Function = Callable[..., Any]
_Checked = tuple[_Layout, Tensor, Tensor | None]
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
    compiled = library(first_wrong)
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
    checked = _checked(x, spec, *(out or ()))
    return _quantize(_cast_function(), checked, out)


@domain()
def fake_quantize_cpp(x: Tensor, spec: CastSpec, out: Tensor | None = None) -> Tensor:
    """As `fake_quantize_eager`; `out` and errors as of `quantize_cpp`."""
    checked = _checked(x, spec, out)
    return _fake_quantize(_cast_function(), checked, out)


def _quantize(
    function: Function, checked: _Checked, out: Parts | None = None, threads: int | None = None
) -> Parts:
    layout, x, random = checked
    if out is not None:
        mark_written(*out)
    else:
        codes = torch.empty_like(x, dtype=torch.uint8)
        out = codes, codes.new_empty(layout.scales, dtype=layout.scales_dtype)
        if layout.has_tensor_scale:
            out = *out, codes.new_empty((), dtype=torch.float32)
    function(
        layout.address,
        x.data_ptr(),
        None if random is None else random.data_ptr(),
        layout.outer,
        layout.length,
        layout.inner,
        layout.dtype,
        out[0].data_ptr(),
        None,
        out[1].data_ptr(),
        out[2].data_ptr() if layout.has_tensor_scale else None,  # type: ignore[misc]
        threads or _threads(layout.numel),
    )
    return out


def _fake_quantize(
    function: Function, checked: _Checked, out: Tensor | None = None, threads: int | None = None
) -> Tensor:
    layout, x, random = checked
    if out is not None:
        mark_written(out)
    else:
        out = torch.empty_like(x)
    function(
        layout.address,
        x.data_ptr(),
        None if random is None else random.data_ptr(),
        layout.outer,
        layout.length,
        layout.inner,
        layout.dtype,
        None,
        out.data_ptr(),
        None,
        None,
        threads or _threads(layout.numel),
    )
    return out


def _checked(x: Tensor, spec: CastSpec, *out: Tensor | None) -> _Checked:
    """Return the layout, and x and its random integers as the compiled code reads them.

    Raises:
        TypeError, ValueError: as `check_input`.
        NotSupported: x is not on a CPU; it, its random integers or `out` is no plain tensor.
    """
    if isinstance(x, Tensor) and x.device.type != "cpu":
        raise NotSupported(
            f"compiled casts run on a CPU, got a tensor on {x.device}; use kernel='eager' there"
        )
    if why := why_unreadable(x, spec.random, *out):
        raise NotSupported(f"compiled casts read plain memory, got {why}; use kernel='eager' there")
    random = None
    if spec.random is not None or not isinstance(x, Tensor) or not x.numel():
        check_input(x, spec)
        if spec.rounding == "stochastic":
            random = spec.random.contiguous()
        spec = replace(spec, random=None)  # the layout is kept, and these integers need not be
    elif x.dtype not in _CODE_OF or spec.rounding == "stochastic":
        check_input(x, spec)
    return _layout(x.shape, x.dtype, spec), x.detach().contiguous().resolve_neg(), random


def elements_cpp(values: Tensor, element: ElementFormat, rounding: str) -> Tensor:
    """Return codes (uint8) of contiguous fp32 values at scale 1: the element cast alone, saturating.
    For tests of every input. NaN gets the format's largest NaN code, or an arbitrary one."""
    plan = _plan(CastSpec(format=element.name, rounding=rounding, block_size=32))
    # No amax changes the scale, and none poisons its block.
    plan.factor, plan.emax, plan.amax_below = 0.0, -E8M0_BIAS, EXPONENT - 1
    plan.element = _element(element, keeps_nan=bool(element.nan_magnitudes))
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
) -> Tensor | None:
    layout = _layout(codes.shape, dtype, replace(spec, random=None) if spec.random is not None else spec)
    got = (codes.dtype, scales.dtype, scales.shape, tensor_scale is not None)
    if got != (torch.uint8, layout.scales_dtype, layout.scales, layout.has_tensor_scale):
        return None
    codes, scales = codes.contiguous(), scales.contiguous()
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
            if wrong := difference(
                x, asked, (*_quantize(function, checked), _fake_quantize(function, checked))
            ):
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
            codes, scales, *rest = _quantize(function, checked, threads=3)
            values = _fake_quantize(function, checked, threads=3)
            back = _dequantize(compiled, codes, scales, rest[0] if rest else None, spec, x.dtype, threads=3)
            # Equal parts have equal blocks, and the amax of their whole.
            expected = quantize_eager(part, spec)[0], *(fake_quantize_eager(part, spec),) * 2
            for found, one in zip((codes, values, back), expected, strict=True):
                if found is None or not alike(found.view(times, *shape), one.expand(times, *shape)):
                    return f"{name} of {times} times {shape}"
    return ""
