"""The house kernel: an MX cast in plain torch operations, on any device.

Both entries share `_cast_blocks`, so a fault in the scale or in the rounding shows in codes and values
alike. All arithmetic is in fp32 on exactly upcast input and, but for the one rounding, exact: scales are
powers of two taken from the bits of amax, never from a floating-point log2.

Source: OCP MX v1.0, section 6.3. What it leaves open is settled as in the dialect `ocp`: a block with a
NaN or an Inf gets the scale code FF (and element codes 0), a zero block the scale code 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from math import prod

import torch
from torch import Tensor

from mxcheck.formats.codes import E8M0_NAN, scale_values
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.spec import CastSpec, block_count, resolve_axis

DTYPES: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16, torch.float16)

# Elements worked on at a time on a CPU. Measured: below 2^18 the calls themselves cost more than they save
# in cache (2^15: twice the time), above it nothing is gained and the temporaries only grow.
_CPU_CHUNK = 1 << 18

# fp32, as int32 masks
_FRACTION_BITS = 23
_MAGNITUDE = 0x7FFF_FFFF
_EXPONENT = 0x7F80_0000


def _floor_scale(amax: Tensor, element: ElementFormat) -> Tensor:
    # A subnormal amax has the exponent field 0: too large, but the lower clamp gives 0 for it either way.
    return (amax >> _FRACTION_BITS) - element.emax


def _round_even(values: Tensor, binade: Tensor, mantissa_bits: int) -> None:
    # 1.5 * 2^k has the ulp 2^(k - 23): adding it makes the hardware round to that step, to nearest even.
    # alpha * binade is a power of two times 1.5, so it is exact, fused or not.
    alpha = 1.5 * 2.0 ** (_FRACTION_BITS - mantissa_bits)
    values.add_(binade, alpha=alpha).sub_(binade, alpha=alpha)


# amax's bits (int32) -> E8M0 code, not yet clamped
_SCALE_RULES: Mapping[str, Callable[[Tensor, ElementFormat], Tensor]] = {"floor": _floor_scale}
# in place: values -> multiples of binade * 2^-mantissa_bits
_ROUNDINGS: Mapping[str, Callable[[Tensor, Tensor, int], None]] = {"even": _round_even}


def check_input(x: Tensor, spec: CastSpec) -> None:
    """Refuse what no kernel has to take.

    Raises:
        TypeError: not a tensor, or of another dtype than fp32, bf16, fp16.
        ValueError: empty; no such axis; a ragged tail that the spec refuses.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in DTYPES:
        raise TypeError(f"x has dtype {x.dtype}; allowed: {', '.join(map(str, DTYPES))}")
    axis = resolve_axis(x.dim(), spec.axis)
    if x.numel() == 0:
        raise ValueError(f"x is empty (shape {tuple(x.shape)}): there is nothing to quantize")
    block_count(x.shape[axis], spec)


def scales_shape(x: Tensor, spec: CastSpec) -> torch.Size:
    """Shape of the scales: x's, with the block axis of length ceil(n / block_size)."""
    axis = resolve_axis(x.dim(), spec.axis)
    return torch.Size([*x.shape[:axis], block_count(x.shape[axis], spec), *x.shape[axis + 1 :]])


def quantize_eager(x: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor]:
    """Codes and scales of an MX cast.

    Args:
        x: fp32, bf16 or fp16, any shape and strides, not empty.
        spec: the cast.

    Returns:
        codes: uint8, x's shape, one code an element in the low bits.
        scales: uint8 E8M0 codes, `scales_shape(x, spec)`.

    Raises:
        TypeError, ValueError: as `check_input`.
    """
    check_input(x, spec)
    codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    scales = torch.empty(scales_shape(x, spec), dtype=torch.uint8, device=x.device)
    scale_rows = _rows(scales, spec)
    for source, target, blocks in _sections(x, codes, spec):
        scale_target = scale_rows[:, blocks].unsqueeze(2)
        for source_chunk, target_chunk, scale_chunk in _chunks(source, target, scale_target):
            values, scale_codes = _cast_blocks(source_chunk.float(), spec)
            magnitudes = _encode(values, spec.element)
            target_chunk.copy_(magnitudes.masked_fill_(scale_codes == E8M0_NAN, 0))
            scale_chunk.copy_(scale_codes)
    return codes, scales


def fake_quantize_eager(x: Tensor, spec: CastSpec) -> Tensor:
    """The values of `quantize_eager`'s codes and scales: x's shape and dtype, contiguous, no gradient.

    Element times scale is exact in fp32, then rounded once to x's dtype; what overflows it becomes Inf.
    A block with a NaN or an Inf becomes NaN throughout.

    Raises:
        TypeError, ValueError: as `check_input`.
    """
    check_input(x, spec)
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    scale_of, _ = _scale_tables(x.device)
    for source, target, _ in _sections(x, result, spec):
        for source_chunk, target_chunk in _chunks(source, target):
            values, scale_codes = _cast_blocks(source_chunk.float(), spec)
            torch.mul(values, _look_up(scale_of, scale_codes), out=target_chunk)
    return result


def _cast_blocks(x: Tensor, spec: CastSpec) -> tuple[Tensor, Tensor]:
    """Element values (fp32, in units of the scale) and E8M0 codes (int32) of blocks.

    x is fp32 [outer, blocks, n, inner]; blocks run along n. The codes are [outer, blocks, 1, inner].
    """
    element = spec.element
    bits = x.view(torch.int32) & _MAGNITUDE
    amax = bits.amax(2, keepdim=True)  # as integers, magnitudes are ordered as they are as floats
    scale_codes = _SCALE_RULES[spec.scale_rule](amax, element).clamp_(0, E8M0_NAN - 1)
    scale_codes.masked_fill_(amax >= _EXPONENT, E8M0_NAN)
    # 2^-s, and NaN for FF, which makes all that follows NaN. The product is exact: it underflows only for
    # elements so far below amax that they round to zero anyway. (Both ends of the range need fp32 subnormals,
    # torch's default on CPU and CUDA; `torch.set_flush_denormal(True)` takes them away.)
    _, inverse_of = _scale_tables(x.device)
    values = x * _look_up(inverse_of, scale_codes)
    # From here the temporary holds 2^exponent of each element, subnormals counted to the lowest binade.
    binade = torch.bitwise_and(values.view(torch.int32), _EXPONENT, out=bits).view(torch.float32)
    binade.clamp_(min=element.min_normal)
    _ROUNDINGS[spec.rounding](values, binade, element.mantissa_bits)
    values.clamp_(-element.max_value, element.max_value)
    if element.has_negative_zero:  # rounding gave every zero the sign +
        values.copysign_(x)
    return values, scale_codes


def _encode(values: Tensor, element: ElementFormat) -> Tensor:
    """Codes (int32) of fp32 values that the format represents exactly; of NaN, anything."""
    bits = values.view(torch.int32)
    size = values.abs()
    drop = _FRACTION_BITS - element.mantissa_bits
    normal = (size.view(torch.int32) >> drop) - ((127 - element.bias) << element.mantissa_bits)
    subnormal = (size / element.min_subnormal).int()
    magnitude = torch.where(size < element.min_normal, subnormal, normal)
    if element.twos_complement:
        return torch.where(bits < 0, -magnitude, magnitude) & (2 * element.sign_bit - 1)
    return torch.where(bits < 0, magnitude | element.sign_bit, magnitude)


def _rows(x: Tensor, spec: CastSpec) -> Tensor:
    """x as [outer, axis, inner]: a view where x is contiguous."""
    axis = resolve_axis(x.dim(), spec.axis)
    shape = (prod(x.shape[:axis]), x.shape[axis], prod(x.shape[axis + 1 :]))
    return x.detach().contiguous().view(shape)


def _sections(x: Tensor, result: Tensor, spec: CastSpec) -> Iterator[tuple[Tensor, Tensor, slice]]:
    """x and the result (contiguous) as [outer, blocks, n, inner], and which blocks these are.

    Whole blocks first, then a ragged tail as one shorter block: zeros change neither amax nor the other
    elements, so a padded copy would give the same.
    """
    source, target = _rows(x, spec), _rows(result, spec)
    outer, length, inner = source.shape
    whole, tail = divmod(length, spec.block_size)
    end = length - tail
    if whole:
        shape = (outer, whole, spec.block_size, inner)
        yield source[:, :end].view(shape), target[:, :end].view(shape), slice(0, whole)
    if tail:
        yield source[:, end:].unsqueeze(1), target[:, end:].unsqueeze(1), slice(whole, whole + 1)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same stretches of several [outer, blocks, …] tensors, the first one's at most of cache size."""
    first = tensors[0]
    if first.device.type != "cpu" or first.numel() <= _CPU_CHUNK:
        return iter((tensors,))
    dim = 0 if first.shape[0] > 1 else 1
    step = max(1, _CPU_CHUNK * first.shape[dim] // first.numel())
    return zip(*(torch.split(tensor, step, dim) for tensor in tensors), strict=True)


def _look_up(table: Tensor, codes: Tensor) -> Tensor:
    return table.index_select(0, codes.flatten()).view(codes.shape)


@cache
def _scale_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """2^s and 2^-s by E8M0 code (2^-127 is an fp32 subnormal, and exact); NaN for FF."""
    scales = scale_values()
    inverses = [1 / scale for scale in scales]
    return (
        torch.tensor(scales, dtype=torch.float32, device=device),
        torch.tensor(inverses, dtype=torch.float32, device=device),
    )
