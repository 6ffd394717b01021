"""Count what a cast did to its input: how many elements saturated, vanished, or were not finite.

Counts come from the input and from a kernel's codes and scales, so they serve every kernel. All comparisons
are exact: a limit is the largest element times its scale, rounded towards zero to fp32, which does not change
the result for an fp32 input.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mxcheck.formats.blocks import E8M0, FP32
from mxcheck.formats.codes import scale_values
from mxcheck.formats.elements import ElementFormat
from mxcheck.kernels.block_views import chunks, rows, sections
from mxcheck.kernels.quantized import QuantizedTensor
from mxcheck.kernels.real_scaled import decode_scales

#: Elements per chunk of a tensor with one scale, each chunk treated as a block.
_STRETCH = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True)
class CastCounts:
    """Counts of one cast, or of several together. All are numbers of elements, except the last two.

    A block whose scale is NaN is meaningless: its elements count in `elements`, `nan`, `inf` alone.

    Attributes:
        elements: elements of the input, without the zeros that pad a ragged tail.
        saturated: finite, and larger than the largest element times the scale. (Where the scale is 0, nothing
            saturates: everything vanishes.)
        flushed: finite and not zero, with a code of zero (of either sign).
        top: with the code of the largest magnitude; mxint8's 80, which no encoder should give, counts.
        nan: NaN in the input.
        inf: infinite in the input.
        zero_blocks: blocks (rows, tensors: what shares a scale) with nothing but zero codes.
        scales: scale code -> number of blocks: E8M0 codes, of NVFP4 E4M3 codes; None where the scale is an
            fp32 number, which has no code.
    """

    elements: int
    saturated: int
    flushed: int
    top: int
    nan: int
    inf: int
    zero_blocks: int
    scales: dict[int, int] | None


def count_cast(x: Tensor, quantized: QuantizedTensor) -> CastCounts:
    """Count the effects of the cast of `x` to `quantized`.

    Args:
        x: fp32, bf16 or fp16, as the cast took it.
        quantized: its codes and scales, from any kernel.

    Raises:
        ValueError: the codes are not of x's shape.
    """
    if x.shape != quantized.codes.shape:
        raise ValueError(
            f"counting needs the input of the cast: x has shape {tuple(x.shape)}, the codes have "
            f"{tuple(quantized.codes.shape)}; give the tensor that was quantized"
        )
    spec = quantized.spec
    tallies = [
        _tally(source, codes, limits, spec.element) for source, codes, limits in _stretches(x, quantized)
    ]
    saturated, flushed, top, nan, inf, zero_blocks = map(sum, zip(*tallies, strict=True))
    if spec.block.whole_tensor:  # these were chunks of the one block
        zero_blocks //= -(-x.numel() // _STRETCH)
    return CastCounts(
        elements=x.numel(),
        saturated=saturated,
        flushed=flushed,
        top=top,
        nan=nan,
        inf=inf,
        zero_blocks=zero_blocks,
        scales=None if spec.block.scale == FP32 else _histogram(quantized.scales),
    )


def total(counts: Iterable[CastCounts]) -> CastCounts:
    """Add the counts of at least one cast. Either all formats have scale codes, or none.

    Raises:
        ValueError: there are no counts, or only some have scale codes.
    """
    found = list(counts)
    if not found or len({one.scales is None for one in found}) > 1:
        got = "none" if not found else "some with scale codes and some without"
        raise ValueError(f"a total needs counts of one kind of scale, got {got}; add up each kind apart")
    scales: Counter[int] = Counter()
    for one in found:
        scales.update(one.scales or {})
    return CastCounts(
        elements=sum(one.elements for one in found),
        saturated=sum(one.saturated for one in found),
        flushed=sum(one.flushed for one in found),
        top=sum(one.top for one in found),
        nan=sum(one.nan for one in found),
        inf=sum(one.inf for one in found),
        zero_blocks=sum(one.zero_blocks for one in found),
        scales=None if found[0].scales is None else dict(sorted(scales.items())),
    )


def _stretches(x: Tensor, quantized: QuantizedTensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield input, codes and limits in chunks [outer, blocks, n, inner]; for limits n = 1."""
    spec, limits = quantized.spec, _limits(quantized)
    if spec.block.whole_tensor:
        size = _STRETCH
        views = [tensor.detach().reshape(1, -1, 1) for tensor in (x, quantized.codes)]
        limits = limits.reshape(1, 1, 1).expand(1, -(-x.numel() // size), 1)
    else:
        size = spec.block_size or x.shape[spec.axis]
        views, limits = [rows(tensor, spec) for tensor in (x, quantized.codes)], rows(limits, spec)
    for blocks, (source, codes) in sections(size, *views):
        yield from chunks(source, codes, limits[:, blocks].unsqueeze(2))


def _limits(quantized: QuantizedTensor) -> Tensor:
    """Largest element times the scale, rounded towards zero: fp32, the scales' shape; Inf where the scale is
    0, NaN where it is NaN."""
    if quantized.spec.block.scale == E8M0:
        table = torch.tensor(scale_values(), dtype=torch.float64, device=quantized.scales.device)
        return _limits_of(table, quantized.spec.element)[quantized.scales.int()]
    scales = decode_scales(quantized.scales, quantized.tensor_scale).abs()
    return _limits_of(scales, quantized.spec.element)


def _limits_of(scales: Tensor, element: ElementFormat) -> Tensor:
    exact = scales * element.max_value
    nearest = exact.float()
    below = torch.where(nearest.double() > exact, nearest.nextafter(torch.zeros_like(nearest)), nearest)
    return below.masked_fill(scales == 0, torch.inf)


def _tally(source: Tensor, codes: Tensor, limits: Tensor, element: ElementFormat) -> list[int]:
    """Count saturated, flushed, top, NaN, Inf, zero blocks.

    Comparing every element costs more than the cast itself. Most chunks are settled by their largest and
    smallest elements, so those are checked first.
    """
    size = source.float().abs()
    magnitudes = _magnitudes(codes, element)
    largest, poisoned = size.amax(2, keepdim=True), limits.isnan()
    nan = inf = 0
    if poisoned.any() or not largest.isfinite().all():
        nan, inf = _number(size.isnan()), _number(size.isinf())
        size = size.masked_fill(poisoned | ~size.isfinite(), 0.0)
        magnitudes = magnitudes.masked_fill(poisoned, 1)  # neither zero nor the largest
        largest = size.amax(2, keepdim=True)  # NaN for a block with a NaN, and so beyond no limit
    numbers = torch.bincount(magnitudes.flatten(), minlength=256)
    zeros = int(numbers[0])
    return [
        _number(size > limits) if (largest > limits).any() else 0,
        zeros if size.amin() > 0 else _number((magnitudes == 0) & (size > 0)),
        int(numbers[element.max_magnitude]),
        nan,
        inf,
        _number(magnitudes.amax(2) == 0) if zeros >= size.shape[2] else 0,
    ]


def _number(true: Tensor) -> int:
    return int(true.count_nonzero())


def _magnitudes(codes: Tensor, element: ElementFormat) -> Tensor:
    """Codes without their sign (uint8); mxint8's 80 as the largest."""
    if element.twos_complement:
        return codes.view(torch.int8).clamp(min=-element.max_magnitude).abs().view(torch.uint8)
    return codes & (element.sign_bit - 1)


def _histogram(scales: Tensor) -> dict[int, int]:
    found = torch.bincount(scales.flatten(), minlength=256).tolist()
    return {code: number for code, number in enumerate(found) if number}
