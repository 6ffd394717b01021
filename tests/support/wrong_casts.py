"""Casts that are wrong on purpose, one fault each, small: what the conformance suite has to catch.

Each is a kernel `f(x, spec)` like any other, right but for its fault. `FAULTS` says of each which cells
concern it, what it shows as, and whether one block alone can show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mxcheck.formats.aliases import precision_of
from mxcheck.formats.codes import E8M0_NAN
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.spec import CastSpec, scales_shape
from mxcheck.kernels import quantized, rules
from mxcheck.kernels.api import check_parts
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager
from mxcheck.kernels.element_codes import encode, round_elements
from mxcheck.kernels.real_scaled import decode_scales

Parts = tuple[Tensor, ...]
Cast = Callable[[Tensor, CastSpec], "Parts | Tensor"]


# Blocks as the last axis but one, whatever the cast's axis: what the faults are put into.


def blocks_of(x: Tensor, spec: CastSpec, fill: float = 0.0) -> Tensor:
    """x as [..., blocks, n]; a ragged tail is filled up."""
    assert spec.block_size is not None
    moved = x.detach().movedim(spec.axis, -1)
    missing = -moved.shape[-1] % spec.block_size
    return pad(moved, (0, missing), value=fill).unflatten(-1, (-1, spec.block_size))


def elements_of(blocks: Tensor, like: Tensor, spec: CastSpec) -> Tensor:
    """The reverse of `blocks_of`."""
    length = like.shape[spec.axis]
    return blocks.flatten(-2)[..., :length].movedim(-1, spec.axis).contiguous()


def encoded(blocks: Tensor, scales: Tensor, spec: CastSpec) -> Tensor:
    """Codes of blocks [..., blocks, n] under scale codes [..., blocks, 1]."""
    values = torch.ldexp(blocks.double(), 127 - scales).float()
    signs = values.clone()
    round_elements(values, spec.element, spec.rounding)
    if spec.element.has_negative_zero:
        values.copysign_(signs)
    codes = encode(values, spec.element)
    return codes.masked_fill(scales == E8M0_NAN, 0).to(torch.uint8)


def with_scales(
    x: Tensor, spec: CastSpec, scale_codes: Callable[[Tensor, Tensor], Tensor], fill: float = 0.0
) -> Parts:
    """A cast whose scale codes are `scale_codes(amax, right ones)`, both [..., blocks, 1]; FF stays FF."""
    blocks = blocks_of(x.float(), spec, fill)
    _, right = quantize_eager(blocks.flatten(-2), replace(spec, axis=-1))
    right = right.unsqueeze(-1).int()
    amax = blocks.abs().amax(-1, keepdim=True)
    scales = torch.where(right == E8M0_NAN, right, scale_codes(amax, right).int())
    return (
        elements_of(encoded(blocks, scales, spec), x, spec),
        scales[..., 0].to(torch.uint8).movedim(-1, spec.axis).contiguous(),
    )


def values_of(kernel: Cast) -> Cast:
    """A kernel's values alone: the same fault in a fake quantizer."""

    def values(x: Tensor, spec: CastSpec) -> Tensor:
        result = kernel(x, spec)
        return (
            result if isinstance(result, Tensor) else check_parts(kernel, result, x, spec).dequantize(x.dtype)
        )

    values.__name__ = values.__qualname__ = f"values_of({kernel.__name__})"
    return values


# Roundings


def ties_away(x: Tensor, spec: CastSpec) -> Parts:
    return quantize_eager(x, replace(spec, rounding="away"))


def truncation(x: Tensor, spec: CastSpec) -> Parts:
    return quantize_eager(x, replace(spec, rounding="zero"))


def ties_to_even_for_away(x: Tensor, spec: CastSpec) -> Parts:
    return quantize_eager(x, replace(spec, rounding="even"))


def rounded_to_bf16_first(x: Tensor, spec: CastSpec) -> Parts:
    return quantize_eager(x.bfloat16(), spec)


def stochastic_without_its_integers(x: Tensor, spec: CastSpec) -> Parts:
    return quantize_eager(x, replace(spec, random=torch.full(x.shape, 1 << 31)))


def stochastic_with_greater(x: Tensor, spec: CastSpec) -> Parts:
    """remainder + r / 2^32 > 1 where it has to be >= 1."""
    assert spec.random is not None
    return quantize_eager(x, replace(spec, random=(spec.random - 1).clamp(min=0)))


def random_integers_zeroed(x: Tensor, spec: CastSpec) -> Parts:
    """Truncation that would be right if it were asked afterwards."""
    if spec.random is not None:
        spec.random.zero_()
    return quantize_eager(x, spec)


# Settings of the process: the right result, and what comes after is another's trouble.


def leaves_subnormals_flushed(x: Tensor, spec: CastSpec) -> Parts:
    result = quantize_eager(x, spec)
    torch.set_flush_denormal(True)
    return result


def leaves_another_default_dtype(x: Tensor, spec: CastSpec) -> Parts:
    result = quantize_eager(x, spec)
    torch.set_default_dtype(torch.float64)
    return result


def leaves_more_threads(x: Tensor, spec: CastSpec) -> Parts:
    torch.set_num_threads(torch.get_num_threads() + 1)
    return quantize_eager(x, spec)


def leaves_deterministic_algorithms(x: Tensor, spec: CastSpec) -> Parts:
    torch.use_deterministic_algorithms(True, warn_only=True)
    return quantize_eager(x, spec)


def leaves_grad_mode_off(x: Tensor, spec: CastSpec) -> Parts:
    torch.set_grad_enabled(False)
    return quantize_eager(x, spec)


def leaves_other_products(x: Tensor, spec: CastSpec) -> Parts:
    torch.set_float32_matmul_precision("medium")
    return quantize_eager(x, spec)


def leaves_another_default_device(x: Tensor, spec: CastSpec) -> Parts:
    result = quantize_eager(x, spec)
    torch.set_default_device("meta")
    return result


def leaves_autocast(x: Tensor, spec: CastSpec) -> Parts:
    torch.set_autocast_enabled("cpu", True)
    return quantize_eager(x, spec)


def leaves_anomaly_detection(x: Tensor, spec: CastSpec) -> Parts:
    torch.autograd.set_detect_anomaly(True)
    return quantize_eager(x, spec)


def leaves_numpy_raising(x: Tensor, spec: CastSpec) -> Parts:
    np.seterr(under="raise")
    return quantize_eager(x, spec)


#: What is told of each -> the cast
LEAVES_CHANGED: dict[str, Cast] = {
    "torch's flushing of subnormal numbers": leaves_subnormals_flushed,
    "torch's default dtype": leaves_another_default_dtype,
    "torch's default device": leaves_another_default_device,
    "torch's number of threads": leaves_more_threads,
    "torch's deterministic algorithms": leaves_deterministic_algorithms,
    "torch's grad mode": leaves_grad_mode_off,
    "torch's precision of fp32 products": leaves_other_products,
    "torch's autocast": leaves_autocast,
    "torch's anomaly detection": leaves_anomaly_detection,
    "numpy's handling of errors": leaves_numpy_raising,
}


# Scales


def scale_one_up(x: Tensor, spec: CastSpec) -> Parts:
    return with_scales(x, spec, lambda _, right: (right + 1).clamp(max=254))


def scale_one_down(x: Tensor, spec: CastSpec) -> Parts:
    return with_scales(x, spec, lambda _, right: (right - 1).clamp(min=0))


def scale_by_float_log2(x: Tensor, spec: CastSpec) -> Parts:
    def scales(amax: Tensor, right: Tensor) -> Tensor:
        found = amax.log2().floor().int() - spec.element.emax + 127
        return torch.where(amax == 0, right, found.clamp(0, 254))

    return with_scales(x, spec, scales)


def rceil_by_float_log2(x: Tensor, spec: CastSpec) -> Parts:
    def scales(amax: Tensor, right: Tensor) -> Tensor:
        found = (amax * torch.tensor(1 / spec.element.max_value)).log2().ceil() + 127
        return torch.where(amax == 0, right, found.clamp(0, 254).int())

    return with_scales(x, spec, scales)


def scale_not_clamped_below(x: Tensor, spec: CastSpec) -> Parts:
    """The scale's byte wraps around."""

    def scales(amax: Tensor, right: Tensor) -> Tensor:
        exponent = rules.SCALE_RULES[spec.scale_rule](amax.view(torch.int32), spec.element)
        return torch.where(amax == 0, right, exponent & 0xFF)

    return with_scales(x, spec, scales)


def scale_not_clamped_above(x: Tensor, spec: CastSpec) -> Parts:
    """The largest amax gets FF, which is NaN. (Only mxint8's emax is so low that this can happen.)"""

    def scales(amax: Tensor, right: Tensor) -> Tensor:
        exponent = rules.SCALE_RULES[spec.scale_rule](amax.view(torch.int32), spec.element)
        return torch.where(amax == 0, right, exponent.clamp(min=0))

    return with_scales(x, spec, scales)


def scale_one_for_zeros(x: Tensor, spec: CastSpec) -> Parts:
    return with_scales(x, spec, lambda amax, right: torch.where(amax == 0, 127, right))


def scale_0_is_zero(x: Tensor, spec: CastSpec) -> Parts:
    """The scale's code as the exponent field of fp32, where 0 means 0 and not 2^-127: x / 0."""
    codes, scales = quantize_eager(x, spec)
    lowest = spread((scales == 0).byte(), x, spec) == 1
    zeros = (codes & (spec.element.sign_bit - 1)) == 0
    return torch.where(
        lowest & ~zeros, codes & spec.element.sign_bit | spec.element.max_magnitude, codes
    ), scales


def scale_never_255(x: Tensor, spec: CastSpec) -> Parts:
    codes, scales = quantize_eager(x, spec)
    return codes, scales.clamp(max=254)


def spread(scales: Tensor, x: Tensor, spec: CastSpec) -> Tensor:
    """Scales, each for its elements."""
    assert spec.block_size is not None
    return scales.repeat_interleave(spec.block_size, spec.axis).narrow(spec.axis, 0, x.shape[spec.axis])


# Elements


def subnormal_elements_flushed(x: Tensor, spec: CastSpec) -> Parts:
    codes, scales = quantize_eager(x, spec)
    field = (codes & (spec.element.sign_bit - 1)) >> spec.element.mantissa_bits
    return torch.where(field == 0, codes & spec.element.sign_bit, codes), scales


def subnormal_inputs_flushed(x: Tensor, spec: CastSpec) -> Parts:
    return quantize_eager(torch.where(x.abs() < 2.0**-126, x * 0, x), spec)


def nan_swallowed(x: Tensor, spec: CastSpec) -> Parts:
    return quantize_eager(torch.where(x.isnan(), torch.zeros_like(x), x), spec)


def inf_saturated(x: Tensor, spec: CastSpec) -> Parts:
    return quantize_eager(torch.where(x.isinf(), x.sign() * torch.finfo(x.dtype).max, x), spec)


def nan_poisons_its_block(x: Tensor, spec: CastSpec) -> Parts:
    return quantize_eager(x, replace(spec, nonfinite="block"))


def nan_spared(x: Tensor, spec: CastSpec) -> Parts:
    return quantize_eager(x, replace(spec, nonfinite="element"))


def negative_zero_lost(x: Tensor, spec: CastSpec) -> Parts:
    codes, *scales = quantize_eager(x, spec)
    return codes.masked_fill(codes == spec.element.sign_bit, 0), *scales


def negative_by_sign_bit(x: Tensor, spec: CastSpec) -> Parts:
    """mxint8 with a sign bit instead of two's complement."""
    codes, scales = quantize_eager(x, spec)
    return torch.where(codes > 127, (256 - codes.int()) | 128, codes.int()).to(torch.uint8), scales


def _not_saturated(x: Tensor, spec: CastSpec, overflow: int) -> Parts:
    codes, scales = quantize_eager(x, spec)
    element = spec.element
    size = torch.ldexp(x.double(), 127 - spread(scales, x, spec).int()).abs()
    # Half a step above the largest code, nearest-even leaves the finite numbers.
    beyond = element.max_value + 2.0 ** (element.emax - element.mantissa_bits - 1)
    over = (size >= beyond) & (spread(scales, x, spec) != E8M0_NAN)
    return torch.where(over, codes & element.sign_bit | overflow, codes), scales


def overflow_to_inf(x: Tensor, spec: CastSpec) -> Parts:
    return _not_saturated(x, spec, 0x7C)


def overflow_to_nan(x: Tensor, spec: CastSpec) -> Parts:
    return _not_saturated(x, spec, 0x7F)


def in_the_inputs_own_dtype(x: Tensor, spec: CastSpec) -> Parts:
    """x times the scale's inverse, which fp16 cannot hold everywhere."""
    codes, scales = quantize_eager(x, spec)
    exponents = spread(scales, x, spec).int() - 127
    inverse = torch.ldexp(torch.ones(exponents.shape), -exponents).to(x.dtype)
    quotient = (x * inverse).float()
    found = _to_codes(quotient, spec.element, x.float())
    return torch.where(exponents == 128, codes, found), scales


def nibbles_swapped(x: Tensor, spec: CastSpec) -> Parts:
    """Packed with the first code in the high bits, unpacked as if it were in the low ones."""
    codes, *scales = quantize_eager(x, spec)
    packed = quantized.pack(codes, spec.element, spec.axis)
    swapped = (packed << 4) | (packed >> 4)
    return quantized.unpack(swapped, spec.element, spec.axis, x.shape[spec.axis]), *scales


# Blocks


def always_along_the_last_axis(x: Tensor, spec: CastSpec) -> Parts:
    """The shapes are those that were asked for, whatever they hold."""
    codes, scales = quantize_eager(x, replace(spec, axis=-1, tail="pad"))
    shape = scales_shape(tuple(x.shape), spec)
    size = torch.Size(shape).numel()
    return codes, scales.flatten().repeat(-(-size // scales.numel()))[:size].view(shape)


def viewed_where_transposed(x: Tensor, spec: CastSpec) -> Parts:
    """The shape of the moved axes, without moving: right where the axis is the last one, or the only one."""
    rows = x.contiguous().view(x.movedim(spec.axis, -1).shape)
    codes, scales = quantize_eager(rows, replace(spec, axis=-1))
    return codes.view(x.shape), scales.reshape(scales_shape(tuple(x.shape), spec))


def blocks_of_half_the_size(x: Tensor, spec: CastSpec) -> Parts:
    assert spec.block_size is not None
    codes, scales = quantize_eager(x, replace(spec, block_size=max(1, spec.block_size // 2)))
    count = scales_shape(tuple(x.shape), spec)[spec.axis]
    every_other = torch.arange(count) * (2 if spec.block_size > 1 else 1)
    return codes, scales.index_select(spec.axis, every_other)


def always_blocks_of_32(x: Tensor, spec: CastSpec) -> Parts:
    assert spec.block_size is not None
    codes, scales = quantize_eager(x, replace(spec, block_size=32, tail="pad"))
    count = scales_shape(tuple(x.shape), spec)[spec.axis]
    return codes, scales.index_select(spec.axis, torch.arange(count) * spec.block_size // 32)


def _tail(x: Tensor, spec: CastSpec) -> int:
    assert spec.block_size is not None
    return x.shape[spec.axis] % spec.block_size


def tail_not_written(x: Tensor, spec: CastSpec) -> Parts:
    """A loop over whole blocks only: the rest is what the buffers held."""
    codes, scales = quantize_eager(x, spec)
    if tail := _tail(x, spec):
        codes.narrow(spec.axis, -tail, tail).fill_(1)
        scales.narrow(spec.axis, -1, 1).fill_(127)
    return codes, scales


def tail_with_the_scale_before(x: Tensor, spec: CastSpec) -> Parts:
    codes, scales = quantize_eager(x, spec)
    if _tail(x, spec) and scales.shape[spec.axis] > 1:
        scales.narrow(spec.axis, -1, 1).copy_(scales.narrow(spec.axis, -2, 1).clone())
    return codes, scales


def padding_not_cleared(x: Tensor, spec: CastSpec) -> Parts:
    """A ragged tail is filled up with what the buffer held."""
    return with_scales(x, spec, lambda _, right: right, fill=1.0)


def tail_reads_on(x: Tensor, spec: CastSpec) -> Parts:
    """A ragged tail is filled up with what follows in memory: the next row."""
    assert spec.block_size is not None
    codes, scales = quantize_eager(x, spec)
    moved = x.movedim(spec.axis, -1).contiguous()
    if tail := _tail(x, spec):
        start = moved.shape[-1] - tail
        rows = moved.reshape(-1, moved.shape[-1])
        following = pad(rows.flatten(), (0, spec.block_size))
        at = torch.arange(rows.shape[0])[:, None] * rows.shape[1] + start + torch.arange(spec.block_size)
        read = quantize_eager(following[at], replace(spec, axis=-1))
        tails = codes.movedim(spec.axis, -1)[..., start:]
        tails.copy_(read[0][:, :tail].view(tails.shape))
        ends = scales.movedim(spec.axis, -1)[..., -1:]
        ends.copy_(read[1].view(ends.shape))
    return codes, scales


def first_block_zeroed(x: Tensor, spec: CastSpec) -> Parts:
    codes, *scales = quantize_eager(x, spec)
    codes.narrow(spec.axis, 0, min(x.shape[spec.axis], spec.block_size or 32)).zero_()
    return codes, *scales


def last_block_zeroed(x: Tensor, spec: CastSpec) -> Parts:
    codes, *scales = quantize_eager(x, spec)
    size = spec.block_size or 32
    last = x.shape[spec.axis] - (x.shape[spec.axis] - 1) // size * size
    codes.narrow(spec.axis, -last, last).zero_()
    return codes, *scales


def input_overwritten(x: Tensor, spec: CastSpec) -> Parts:
    """The right result, and the input quantized in place."""
    result = quantize_eager(x, spec)
    x.copy_(fake_quantize_eager(x, spec))
    return result


# Scales with a significand


def _to_codes(quotient: Tensor, element: ElementFormat, signs: Tensor) -> Tensor:
    values = quotient.float().nan_to_num(0.0, torch.inf, -torch.inf)
    round_elements(values, element, "even")
    return encode(values.copysign_(signs), element).to(torch.uint8)


def divided_in_float32(x: Tensor, spec: CastSpec) -> Parts:
    """The quotient is rounded to fp32 before it is rounded to a code."""
    _, scales, *rest = quantize_eager(x, spec)
    exact = decode_scales(scales, *(rest or [None]))
    each = exact if spec.block_size is None else spread(exact, x, spec)
    quotient = x.float() / each.float()
    return _to_codes(quotient, spec.element, x.float()).masked_fill(each.isnan(), 0), scales, *rest


def multiplied_by_the_reciprocal(x: Tensor, spec: CastSpec) -> Parts:
    _, scales, *rest = quantize_eager(x, spec)
    exact = decode_scales(scales, *(rest or [None]))
    each = exact if spec.block_size is None else spread(exact, x, spec)
    quotient = x.float() * (1 / each.float())
    return _to_codes(quotient, spec.element, x.float()).masked_fill(each.isnan(), 0), scales, *rest


def tensor_scale_forgotten(x: Tensor, spec: CastSpec) -> Parts:
    """Block scales of x itself: the fp32 scale is 1."""
    right = quantize_eager(x, spec)
    one = torch.where(right[2].isnan(), right[2], torch.ones(()))
    amax = blocks_of(x.float(), spec).abs().amax(-1)
    e4m3 = ELEMENT_FORMATS["fp8_e4m3"]
    scales = _to_codes(amax / spec.element.max_value, e4m3, amax).masked_fill(one.isnan(), 0)
    scales = scales.movedim(-1, spec.axis).contiguous()
    each = spread(decode_scales(scales, one), x, spec)
    quotient = torch.where(each == 0, 0.0, x.double() / each)
    return _to_codes(quotient, spec.element, x.float()).masked_fill(each.isnan(), 0), scales, one


def block_scale_through_bf16(x: Tensor, spec: CastSpec) -> Parts:
    return _block_scale_rounded_before(x, spec, torch.bfloat16)


def block_scale_through_fp32(x: Tensor, spec: CastSpec) -> Parts:
    """One block in four hundred of bf16 numbers has the other scale."""
    return _block_scale_rounded_before(x, spec, torch.float32)


def _block_scale_rounded_before(x: Tensor, spec: CastSpec, dtype: torch.dtype) -> Parts:
    codes, _, tensor_scale = quantize_eager(x, spec)
    amax = blocks_of(x.float(), spec).abs().amax(-1)
    e4m3 = ELEMENT_FORMATS["fp8_e4m3"]
    quotient = (amax.double() / (tensor_scale.double() * spec.element.max_value)).to(dtype)
    rounded = _to_codes(quotient, e4m3, amax).movedim(-1, spec.axis).contiguous()
    return codes, rounded.masked_fill(tensor_scale.isnan(), 0), tensor_scale


def row_scale_of_the_tensor(x: Tensor, spec: CastSpec) -> Parts:
    whole = {"e4m3_row": "e4m3_tensor", "e5m2_row": "e5m2_tensor"}[spec.format]
    codes, scale = quantize_eager(x, replace(spec, format=whole))
    return codes, scale.expand(scales_shape(tuple(x.shape), spec)).contiguous()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A wrong cast and what is known of it.

    Attributes:
        kernel: the cast.
        cells: ids of cells that concern it.
        kinds: of mismatch (`verifier.KINDS`) that it shows, each on each of these cells.
        single_block: one block alone can show it. Not so where the fault lies between blocks, or where what
            shares a scale is more than a block.
        across_too: some inputs take more than one block, though one alone can show it.
    """

    kernel: Cast
    cells: Sequence[str]
    kinds: Sequence[str]
    single_block: bool = True
    across_too: bool = False


_EIGHT = ("fp8_e4m3", "fp8_e5m2")
# One with subnormals of many bits, one of few codes, and the one that is no float.
_SOME = ("fp8_e4m3", "fp4_e2m1", "mxint8")
_REAL = ("nvfp4", "e4m3_tensor", "e5m2_row")


def _faults() -> Iterator[Fault]:
    def fault(
        kernel: Cast,
        formats: Sequence[str],
        rule: str,
        *kinds: str,
        single_block: bool = True,
        across_too: bool = False,
    ) -> Fault:
        cells = tuple(f"{precision_of(name)}-{rule}" for name in formats)
        return Fault(
            kernel=kernel, cells=cells, kinds=kinds, single_block=single_block, across_too=across_too
        )

    yield fault(ties_away, ("fp8_e4m3", "fp6_e3m2", "mxint8"), "floor", "code")
    yield fault(truncation, (*_SOME, "fp4_e3m0"), "floor", "code")
    yield fault(ties_to_even_for_away, ("fp8_e5m2", "fp6_e2m3"), "floor-away", "code")
    yield fault(rounded_to_bf16_first, _SOME, "floor", "code", "scale", across_too=True)
    yield fault(stochastic_without_its_integers, _SOME, "floor-stochastic", "code")
    yield fault(stochastic_with_greater, (*_SOME, "fp4_e3m0"), "floor-stochastic", "code")
    yield fault(scale_one_up, _SOME, "floor", "scale")
    yield fault(scale_one_down, _SOME, "floor", "scale")
    yield fault(scale_by_float_log2, _SOME, "floor", "scale")
    yield fault(rceil_by_float_log2, (*_SOME, "fp8_e5m2", "fp6_e2m3", "fp4_e3m0"), "rceil", "scale")
    yield fault(scale_not_clamped_below, ("fp8_e5m2", "fp4_e2m1"), "floor", "scale")
    yield fault(scale_not_clamped_above, ("mxint8",), "ceil", "scale")
    yield fault(scale_one_for_zeros, _SOME, "floor", "scale")
    yield fault(scale_0_is_zero, _SOME, "floor", "code")
    yield fault(scale_never_255, _SOME, "floor", "scale")
    yield fault(subnormal_elements_flushed, ("fp8_e5m2", "fp6_e2m3", "fp4_e2m1"), "floor", "code")
    yield fault(subnormal_inputs_flushed, ("fp8_e5m2", "mxint8"), "floor", "code")
    yield fault(nan_swallowed, _SOME, "floor", "scale")
    yield fault(inf_saturated, _SOME, "floor", "scale")
    yield fault(nan_poisons_its_block, _EIGHT, "reciprocal-nan_stays", "scale")
    yield fault(nan_spared, _EIGHT, "rceil", "scale")
    yield fault(negative_zero_lost, ("fp8_e4m3", "fp4_e2m1"), "floor", "zero sign")
    yield fault(negative_by_sign_bit, ("mxint8",), "floor", "code")
    yield fault(overflow_to_inf, ("fp8_e5m2",), "floor", "code")
    yield fault(overflow_to_nan, ("fp8_e4m3",), "floor", "nan")
    yield fault(in_the_inputs_own_dtype, _EIGHT, "floor", "code")
    yield fault(nibbles_swapped, ("fp4_e2m1", "fp4_e3m0"), "floor", "code")
    yield fault(always_along_the_last_axis, _SOME, "floor", "scale", across_too=True)
    yield fault(viewed_where_transposed, _SOME, "floor", "scale", single_block=False)
    yield fault(blocks_of_half_the_size, _SOME, "floor", "scale")
    yield fault(always_blocks_of_32, _SOME, "floor", "scale", across_too=True)
    yield fault(tail_not_written, _SOME, "floor", "scale")
    yield fault(tail_with_the_scale_before, _SOME, "floor", "scale", single_block=False)
    yield fault(padding_not_cleared, _SOME, "floor", "scale")
    yield fault(tail_reads_on, _SOME, "floor", "scale", single_block=False)
    yield fault(first_block_zeroed, _SOME, "floor", "code")
    yield fault(last_block_zeroed, _SOME, "floor", "code")


def _faults_of_real_scales() -> Iterator[Fault]:
    def fault(kernel: Cast, formats: Sequence[str], *kinds: str) -> Fault:
        cells = tuple(f"{name}-amax" for name in formats)
        return Fault(kernel=kernel, cells=cells, kinds=kinds, single_block=False)

    yield fault(negative_zero_lost, ("nvfp4",), "zero sign")
    yield fault(nibbles_swapped, ("nvfp4",), "code")
    yield fault(first_block_zeroed, ("e5m2_row",), "code")
    yield fault(last_block_zeroed, ("nvfp4",), "code")
    yield fault(divided_in_float32, ("nvfp4",), "code")
    yield fault(multiplied_by_the_reciprocal, _REAL, "code")
    yield fault(tensor_scale_forgotten, ("nvfp4",), "scale")
    yield fault(block_scale_through_bf16, ("nvfp4",), "scale")
    yield fault(block_scale_through_fp32, ("nvfp4",), "scale")
    yield fault(row_scale_of_the_tensor, ("e4m3_row",), "scale")


#: In casts with E8M0 scales: name -> fault
FAULTS = {fault.kernel.__name__: fault for fault in _faults()}
#: In casts whose scale is no power of two: name -> fault
FAULTS_OF_REAL_SCALES = {fault.kernel.__name__: fault for fault in _faults_of_real_scales()}
