"""Yield inputs that may show a mismatch under fewer conditions: in fp32, along the last axis, in the format's
own blocks, in whole blocks, and with a single plain number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mxcheck.conformance.shrink.simpler_inputs import laid_out_like
from mxcheck.formats.blocks import block_format
from mxcheck.formats.spec import CastSpec, resolve_axis

Cast = tuple[Tensor, CastSpec]
Place = tuple[int, ...]
#: Maps an input that shows a mismatch at a place to others that may show it.
Way = Callable[[Tensor, CastSpec, Place], Iterator[Cast]]
# In most formats no power of two, no tie and no threshold; even and odd codes.
_PLAIN = (1.375, 1.25, 1.5, 1.0)


def _in_fp32(x: Tensor, spec: CastSpec, place: Place) -> Iterator[Cast]:
    del place
    if x.dtype != torch.float32:
        yield laid_out_like(x, x.float()), spec


def _as_matrix(x: Tensor, spec: CastSpec, place: Place) -> Iterator[Cast]:
    """Along the last of two axes."""
    del place
    axis = resolve_axis(x.dim(), spec.axis)
    if x.dim() == 2 and axis == 1:
        return

    def turned(part: Tensor) -> Tensor:
        return part.movedim(axis, -1).reshape(-1, x.shape[axis]).contiguous()

    yield turned(x), replace(spec, axis=-1, random=None if spec.random is None else turned(spec.random))


def _in_own_blocks(x: Tensor, spec: CastSpec, place: Place) -> Iterator[Cast]:
    """Cast part of a longer block, or a shorter one padded with zeros behind or before it."""
    own = block_format(spec.format).block_size
    if spec.block_size is None or own is None or spec.block_size == own:
        return
    axis = resolve_axis(x.dim(), spec.axis)
    if spec.block_size > own:
        start = place[axis] // own * own
        yield from _resized(x, replace(spec, block_size=own), axis, slice(start, start + own), 0, 0)
    else:
        more = -x.shape[axis] % own
        for before, behind in ((0, more), (more, 0)):
            yield from _resized(x, replace(spec, block_size=own), axis, slice(None), before, behind)


def _in_whole_blocks(x: Tensor, spec: CastSpec, place: Place) -> Iterator[Cast]:
    """Pad to whole blocks with zeros: before, so that the last element stays last, or behind."""
    del place
    axis = resolve_axis(x.dim(), spec.axis)
    more = -x.shape[axis] % (spec.block_size or 1)
    if more:
        for before, behind in ((more, 0), (0, more)):
            yield from _resized(x, spec, axis, slice(None), before, behind)


def a_plain_number(x: Tensor, spec: CastSpec, place: Place) -> Iterator[Cast]:
    """Keep a single number, where the mismatch is."""
    for number in _PLAIN:
        plain = torch.zeros(x.shape, dtype=x.dtype)
        plain[place] = number
        yield laid_out_like(x, plain), spec


#: Ways to cast a mismatch's numbers otherwise; then those in the same layout.
OTHER_CASTS: tuple[Way, ...] = (
    _in_fp32,
    _as_matrix,
    _in_own_blocks,
    _in_whole_blocks,
)
SAME_LAYOUT: tuple[Way, ...] = (_in_fp32, a_plain_number)


def _resized(x: Tensor, spec: CastSpec, axis: int, kept: slice, before: int, behind: int) -> Iterator[Cast]:
    """Cut a part of an axis and pad it with zeros."""

    def made(part: Any) -> Tensor:
        where = [slice(None)] * x.dim()
        where[axis] = kept
        chosen = part[tuple(where)]
        zeros = [
            torch.zeros([*x.shape[:axis], size, *x.shape[axis + 1 :]], dtype=part.dtype)
            for size in (before, behind)
        ]
        return torch.cat([zeros[0], chosen, zeros[1]], axis).contiguous()

    yield made(x), replace(spec, random=None if spec.random is None else made(spec.random))
