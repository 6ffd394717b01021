"""Repeat calls in other surroundings: a call's bits must not depend on what surrounds it.

A repeated call is compared with the first answer, not with the oracle: a known difference from the oracle
says nothing about, for example, two threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.generator import ANYTHING, Example, placed, spread_with_ties
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.conformance.verify.side_by_side import in_turn
from mxcheck.conformance.verify.verifier import Comparison, compare, failed, judged, outcome
from mxcheck.formats.oracle import Parts
from mxcheck.formats.spec import scales_shape
from mxcheck.kernels.api import Kernel
from mxcheck.kernels.domain import Domain
from mxcheck.kernels.kept_settings import settings_kept
from mxcheck.kernels.usual_settings import usual_settings

_SHAPE = (24, 256)
# Repetitions: the first gives more than 2^20 elements, the second more than torch leaves to one thread
# (2^15).
_HUGE, _FOR_TWO = 171, 8
# Elements. The first offset is no multiple of a row or of 16 bytes; the second is one of 64 bytes, for
# kernels that need alignment.
_OFFSETS = (256 + 3, 256 + 32)
# Shape for two concurrent callers: few elements, for kernels that loop over them.
_CALLERS_SHAPE = (4, 64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """A call, its comparison, and its surroundings in words; empty where they are plain."""

    example: Example
    comparison: Comparison
    words: str = ""


def asked_again(kernel: Kernel, cell: Cell, level: str, domain: Domain = ANYTHING) -> Iterator[Asked]:
    """Repeat a call: in memory that held other numbers in the call before; as a slice of other memory; with
    more than 2^20 elements (`quick`: only with rounding to even); with two torch threads; with two callers at
    once."""
    base = surrounded(cell, domain)
    alone = outcome(kernel, base.x, base.spec)
    if not alone.got:
        yield Asked(example=base, comparison=alone)
        return
    yield from _same_memory(kernel, base, alone.got)
    offsets = (offset for offset in _OFFSETS if not domain.refuses(_at_an_offset(base.x, offset), base.spec))
    if (into := next(offsets, None)) is not None:
        offset = replace(base, group="storage_offset", x=_at_an_offset(base.x, into))
        yield Asked(
            example=offset,
            comparison=compare(kernel, offset.x, offset.spec, alone.got),
            words=f"in a slice of other memory, {into} elements into it; alone it gives other bits",
        )
    times = _as_often(base, _HUGE, domain)
    if times > 1 and (level != "quick" or cell.rounding == "even"):
        huge, expected = _repeated(base, alone.got, times, "huge")
        yield Asked(
            example=huge,
            comparison=compare(kernel, huge.x, huge.spec, expected),
            words=f"{huge.x.numel():,} elements, the same {times} times over; once over it gives other bits",
        )
    # Once only at `quick`: torch's threads wait for each other by spinning, which takes a timeslice per
    # operation on a busy machine. `many_calls` has one tensor for two threads per implementation.
    times = 1 if level == "quick" else _as_often(base, _FOR_TWO, domain)
    many, expected = _repeated(base, alone.got, times, "two_threads")
    with usual_settings(threads=2):
        comparison = compare(kernel, many.x, many.spec, expected)
    yield Asked(
        example=many,
        comparison=comparison,
        words="with torch.set_num_threads(2); with one thread it gives other bits",
    )
    yield from _two_callers(kernel, cell, domain)


def surrounded(cell: Cell, domain: Domain) -> Example:
    """Return the input that is repeated in other surroundings."""
    return placed("surroundings", _numbers(_SHAPE, "surroundings"), cell, domain)


def _same_memory(kernel: Kernel, base: Example, got: Parts) -> Iterator[Asked]:
    """Overwrite a tensor between two calls, as a layer's buffers are."""
    x = base.x.clone().copy_(base.x.flip(0) / 4)  # other numbers and other scales
    before = outcome(kernel, x, base.spec)
    x.copy_(base.x)
    yield Asked(
        example=replace(base, group="same_memory", x=x),
        comparison=compare(kernel, x, base.spec, got) if before.got else before,
        words="in memory that held other numbers in the call before: the kernel keeps something of a tensor "
        "by its address; in memory of its own it gives other bits",
    )


def _at_an_offset(x: Tensor, offset: int) -> Tensor:
    """The same values as a contiguous slice of memory that holds others too."""
    memory = torch.full((x.numel() + 2 * offset,), 2.0**15, dtype=x.dtype)
    view = memory[offset : offset + x.numel()].view(x.shape)
    return view.copy_(x)


def _as_often(base: Example, times: int, domain: Domain) -> int:
    """Return how often an example is repeated along its first axis: `times`, or less if the domain requires
    it."""
    dims = base.x.shape[1:]
    fits = (
        count
        for count in range(times, 1, -1)
        if not domain.refuses(base.x.new_empty((count * len(base.x), *dims), device="meta"), base.spec)
    )
    return next(fits, 1)


def _repeated(base: Example, got: Parts, times: int, group: str) -> tuple[Example, Parts]:
    """Repeat the rows of an example, and its codes and scales accordingly."""
    over = (times, *(1 for _ in base.x.shape[1:]))
    random = None if base.spec.random is None else base.spec.random.repeat(over)
    x, spec = base.x.repeat(over), replace(base.spec, random=random)
    shapes = (tuple(x.shape), scales_shape(tuple(x.shape), spec), ())
    expected = tuple(
        np.tile(part, [long // short for long, short in zip(shape, part.shape, strict=True)])
        for part, shape in zip(got, shapes, strict=False)
    )
    return Example(group=group, x=x, spec=spec), expected


def _two_callers(kernel: Kernel, cell: Cell, domain: Domain) -> Iterator[Asked]:
    """Call the kernel from two Python threads, with different numbers of one shape."""
    callers = [
        placed("two_callers", _numbers(_CALLERS_SHAPE, name), cell, domain) for name in ("one", "other")
    ]
    alone = [outcome(kernel, one.x, one.spec) for one in callers]
    if not all(one.got for one in alone):
        yield Asked(example=callers[0], comparison=next(one for one in alone if not one.got))
        return
    with settings_kept(), torch.random.fork_rng(devices=[]):
        returned, to_the_end = in_turn([partial(kernel, one.x.detach(), one.spec) for one in callers])
    how = ", the two line by line in turn" if to_the_end else ""
    for one, first, result in zip(callers, alone, returned, strict=True):
        if isinstance(result, BaseException):
            comparison = failed(result, one.x)
        else:
            comparison = judged(kernel, result, one.x, one.spec, first.got)
        yield Asked(
            example=one,
            comparison=comparison,
            words=f"while another thread of Python cast other numbers{how}; alone it gives other bits",
        )


@cache
def _numbers(shape: tuple[int, ...], seed: str) -> Tensor:
    return spread_with_ties(shape, Draws(seed))
