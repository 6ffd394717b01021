"""The house kernel `triton`: eager's casts on CUDA tensors, by one Triton kernel. `auto` takes it where it
can.

Triton is imported by the first cast. Without a GPU its interpreter runs the kernel, far more slowly, for
tests: TRITON_INTERPRET=1, set before Triton is imported.

Unverified: no GPU has run it. It is held against the oracle in the interpreter, and compiled for GPUs, by
`make triton`; `make gpu-check` tests and times it on a GPU.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from mxcheck.formats.blocks import E4M3, E8M0, FP32, block_format
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.scale_rules import check_rules
from mxcheck.formats.spec import CastSpec, cast_spec, scales_shape
from mxcheck.kernels.block_views import check_input, mark_written, rows, why_unreadable
from mxcheck.kernels.compiled.library import OFF, is_off
from mxcheck.kernels.domain import NotSupported, domain
from mxcheck.kernels.eager import Parts
from mxcheck.kernels.real_scaled import fp32_quotient
from mxcheck.kernels.trial_casts import difference, drawn, inputs, overwrite, probing

_USUAL = cast_spec("fp8_e4m3")
_BLOCK_SCALE = ELEMENT_FORMATS["fp8_e4m3"]
#: Elements that a program casts at a time. The interpreter's time is a matter of calls, so it gets more.
_TILE, _INTERPRETED_TILE = 1 << 11, 1 << 17
_LARGEST_WIDTH = 1 << 10
#: The interpreter replaces functions of `tl` while it runs, so two threads cannot use it at a time.
_INTERPRETER = Lock()
#: Blocks that a scale of more than a block is applied by.
_SEGMENT = 32
#: dtype -> integers of its size, mantissa bits
_BITS = {torch.float32: (torch.int32, 23), torch.bfloat16: (torch.int16, 7), torch.float16: (torch.int16, 10)}
#: scale rule -> the fraction (of 2^23) above which amax's exponent is rounded up
_ABOVE: Mapping[str, Callable[[ElementFormat], float]] = {
    "floor": lambda _: 1,
    "ceil": lambda _: 0,
    # Half a step below 2; a tie goes up, so "from there on" is written as "above the fp32 number before it".
    "even": lambda element: 1 - 2.0 ** -(element.mantissa_bits + 1) - 2.0**-23,
    "rceil": lambda element: element.max_value / 2.0**element.emax - 1,
    "reciprocal": lambda _: 0,
    "amax": lambda _: 1,  # of scales that are no power of two: not read
}
check_rules("kernels/calls_triton.py: _ABOVE", _ABOVE.keys() - {"amax"})


@domain()
def quantize_triton(x: Tensor, spec: CastSpec, out: Parts | None = None) -> Parts:
    """As `quantize_eager`. `out`, if given, is written to and returned: contiguous tensors of the results'
    shapes and dtypes, that share no memory with x.

    Raises:
        TypeError, ValueError: as `check_input`.
        NotSupported: x is no plain tensor, or not on a GPU and Triton does not interpret; Triton is not
            installed.
    """
    _check(x, spec, *(out or ()))
    given = _given_scales(x, spec)
    if out is not None:
        mark_written(*out)
        if given is not None:
            out[-1].copy_(given)
    else:
        scales = torch.empty(scales_shape(tuple(x.shape), spec), dtype=torch.uint8, device=x.device)
        codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
        if given is None:
            out = codes, scales
        elif spec.block.scale == FP32:
            out = codes, given
        else:
            out = codes, scales, given
    _launch(x, spec, out[0], None if spec.block.scale == FP32 else out[1], given)
    return out


@domain()
def fake_quantize_triton(x: Tensor, spec: CastSpec, out: Tensor | None = None) -> Tensor:
    """As `fake_quantize_eager`, but that a NaN is the same quiet one wherever it comes from; `out` and errors
    as of `quantize_triton`."""
    _check(x, spec, out)
    if out is not None:
        mark_written(out)
    else:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(x, spec, out, None, _given_scales(x, spec))
    return out


def is_sound(device: torch.device, spec: CastSpec = _USUAL) -> bool:
    """Return whether Triton makes a cast on a CUDA device as eager does: codes and values, tried with small
    inputs in each dtype before a process makes it for the first time. Where it does not, or fails (it needs a
    C compiler, and a GPU that it supports), one line is logged."""
    return _is_sound(device, spec.format, spec.scale_rule, spec.rounding, spec.nonfinite)


@cache
def _is_sound(device: torch.device, format: str, scale_rule: str, rounding: str, nonfinite: str) -> bool:
    if find_spec("triton") is None:
        return False
    spec = cast_spec(format, scale_rule=scale_rule, rounding=rounding, nonfinite=nonfinite)
    try:
        with probing():
            wrong = _wrong(device, spec)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told, and eager casts as well)
        wrong = f"{type(error).__name__}: {error}".splitlines()[0]
    if wrong:
        logging.getLogger("mxcheck").warning("Triton does not cast on %s, eager does: %s", device, wrong)
    return not wrong


def _wrong(device: torch.device, spec: CastSpec) -> str:
    for x, axis in inputs(device):
        asked = drawn(x, spec, axis)
        parts, values = quantize_triton(x, asked), fake_quantize_triton(x, asked)
        overwrite(*parts, values)
        found = *quantize_triton(x, asked, parts), fake_quantize_triton(x, asked, values)
        if wrong := difference(x, asked, found):
            return f"it gives other bits for {wrong}"
    return ""


def _check(x: Tensor, spec: CastSpec, *out: Tensor | None) -> None:
    if is_off():
        raise NotSupported(OFF)
    if isinstance(x, Tensor) and x.device.type != "cuda" and not _kernel().INTERPRETED:
        raise NotSupported(f"Triton casts on a GPU, got a tensor on {x.device}; use kernel='eager' there")
    if why := why_unreadable(x, spec.random, *out):
        raise NotSupported(f"Triton casts plain memory, got {why}; use kernel='eager' there")
    check_input(x, spec)


@cache
def _kernel() -> Any:
    if find_spec("triton") is None:
        raise NotSupported("triton is not installed: torch's CUDA build brings the version that it needs")
    return import_module("mxcheck.kernels.casts_triton")


def _given_scales(x: Tensor, spec: CastSpec) -> Tensor | None:
    """Return the fp32 scales that the whole tensor, or a row of it, decides; None for E8M0 formats. NVFP4's
    is of shape ()."""
    if spec.block.scale == E8M0:
        return None
    by_row = spec.block.scale == FP32 and not spec.block.whole_tensor
    # One pass, without a tensor of magnitudes. torch's fp32 division is IEEE's on a GPU too.
    amax = torch.linalg.vector_norm(x.detach(), torch.inf, dim=spec.axis if by_row else None, keepdim=by_row)
    most = spec.element.max_value
    if spec.block.scale == E4M3:
        return fp32_quotient(amax, _BLOCK_SCALE.max_value * most)
    return fp32_quotient(amax, most).reshape(scales_shape(tuple(x.shape), spec))


def _launch(x: Tensor, spec: CastSpec, out: Tensor, scales: Tensor | None, given: Tensor | None) -> None:
    """Write codes (`out` is uint8) or values to `out`, and the scales' codes to `scales` where given."""
    integers, x_mantissa = _BITS[x.dtype]
    x = x.detach().contiguous().resolve_neg()
    source = x.view(1, -1, 1) if spec.block.whole_tensor else rows(x, spec)
    outer, length, inner = source.shape
    # A block that is longer than its axis is alone there.
    block_size = min(spec.block_size or _SEGMENT, max(_LARGEST_WIDTH, _power_of_two(length)))
    per_axis = -(-length // block_size)
    blocks = outer * per_axis * inner
    width = min(_power_of_two(block_size), _LARGEST_WIDTH)
    height = _TILE // width if x.is_cuda else min(_INTERPRETED_TILE // width, _power_of_two(blocks))
    # Triton launches on the current device.
    with torch.cuda.device(x.device) if x.is_cuda else _INTERPRETER:
        _kernel().cast[(-(-blocks // height),)](
            source.view(integers),
            rows(spec.random, spec) if spec.rounding == "stochastic" else None,
            out if out.dtype == torch.uint8 else out.view(integers),
            scales,
            None if given is None else given.view(torch.int32),
            blocks,
            length,
            per_axis,
            inner,
            **_constants(spec.format, spec.scale_rule, spec.rounding, spec.nonfinite),
            x_mantissa=x_mantissa,
            to_values=out.dtype != torch.uint8,
            block_size=block_size,
            width=width,
            height=height,
        )


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


@cache
def _constants(format: str, scale_rule: str, rounding: str, nonfinite: str) -> dict[str, Any]:
    """Return what the kernel is compiled for, but for the dtype and sizes."""
    block = block_format(format)
    element = block.element
    shared = "tensor" if block.whole_tensor else "row"
    factor = {"amax": element.max_value, "reciprocal": 1 / element.max_value}.get(scale_rule, 0.0)
    return {
        "scale": shared if block.scale == FP32 else block.scale,
        "mantissa": element.mantissa_bits,
        "emin": element.emin,
        "most": element.max_magnitude,
        "sign_bit": element.sign_bit,
        "twos_complement": element.twos_complement,
        "nan_code": max(element.nan_magnitudes, default=0),
        "nan_stays": nonfinite == "element",
        "above": int(_ABOVE[scale_rule](element) * 2**23),
        "emax": 0 if scale_rule == "reciprocal" else element.emax,
        "factor_bits": struct.unpack("<i", struct.pack("<f", factor))[0],
        "rounding": rounding,
    }
