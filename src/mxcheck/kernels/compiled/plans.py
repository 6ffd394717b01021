"""What the compiled code is told: a cast and the shape of a tensor, as the structures of casts.hpp."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch

from mxcheck.formats.blocks import E4M3, E8M0, FP32
from mxcheck.formats.codes import E8M0_NAN
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.spec import ROUNDINGS, CastSpec, resolve_axis, scales_shape
from mxcheck.kernels.block_views import DTYPES
from mxcheck.kernels.rules import EXPONENT, FRACTION_BITS

_ANY = 0x7FFF_FFFF
_NEGATIVE_ZERO = -(1 << 31)
_KINDS = {E8M0: 0, E4M3: 1, FP32: 2}
_WHOLE_TENSOR = 3
CODE_OF = {dtype: code for code, dtype in enumerate(DTYPES)}


class Element(ctypes.Structure):
    """`MxElement` of casts.hpp."""

    _fields_ = [
        (name, ctypes.c_int32)
        for name in (
            *("mantissa_bits", "min_normal", "max_value"),
            *("flip", "add", "zero", "nan_above", "nan_code"),
        )
    ]


class Plan(ctypes.Structure):
    """`MxPlan` of casts.hpp."""

    _fields_ = [
        ("element", Element),
        ("block_scale", Element),
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


def element_of(element: ElementFormat, *, keeps_nan: bool = False) -> Element:
    """Return an element format as the compiled code reads it; `keeps_nan`: a NaN stays one."""
    signed = element.has_negative_zero
    return Element(
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


def plan_of(spec: CastSpec) -> Plan:
    """Return a cast as the compiled code reads it."""
    block, ignores_nan = spec.block, spec.nonfinite == "element"
    of_blocks = ELEMENT_FORMATS["fp8_e4m3"]
    factor, emax, above = (1.0, 0, 0) if block.scale != E8M0 else _rule(spec)
    return Plan(
        element=element_of(spec.element, keeps_nan=ignores_nan),
        block_scale=element_of(of_blocks),
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
class Layout:
    """A cast of tensors of one shape and dtype, as the compiled code wants it: `x` is contiguous
    [outer, length, inner] there, and blocks run along `length`."""

    plan: Plan
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
def layout_of(shape: tuple[int, ...], dtype: torch.dtype, spec: CastSpec) -> Layout:
    """Return the cast of a shape and dtype; the last ones are kept."""
    axis, plan = resolve_axis(len(shape), spec.axis), plan_of(spec)
    return Layout(
        plan=plan,
        address=ctypes.addressof(plan),
        outer=prod(shape[:axis]),
        length=shape[axis],
        inner=prod(shape[axis + 1 :]),
        numel=prod(shape),
        dtype=CODE_OF[dtype],
        scales=scales_shape(shape, spec),
        scales_dtype=torch.float32 if spec.block.scale == FP32 else torch.uint8,
        has_tensor_scale=spec.block.scale == E4M3,
    )
