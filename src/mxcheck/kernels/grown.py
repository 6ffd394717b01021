"""Inputs of mxcheck's own for a kernel that wants more rows: a probe of 32 rows for one that takes 128.

What is cast of a case (its weights, its text) is never grown: a kernel that does not take it refuses it.
Probes and passes over a few tokens are no part of what a user's code would cast. Their rows are repeated,
which changes no scale, and what is repeated is cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from mxcheck.formats.spec import CastSpec, resolve_axis, scales_shape
from mxcheck.kernels.domain import Domain
from mxcheck.kernels.rows import as_rows, from_rows

_GROWING: ContextVar[Literal["no", "yes", "whatever comes"]] = ContextVar("mxcheck_growing", default="no")


# What was learned of kernels that declare nothing.
_LEARNED: dict[tuple[Callable[..., Any], CastSpec], Domain] = {}


def grow_as_learned(kernel: Callable[..., Any], spec: CastSpec, made_for: Domain) -> None:
    """From now on mxcheck's own inputs to a kernel that declares nothing get these rows, in this cast."""
    _LEARNED[kernel, along_the_last(spec)] = made_for


def learned_limits(kernel: Callable[..., Any], spec: CastSpec) -> Domain | None:
    """What was learned, where inputs grow by it."""
    return _LEARNED.get((kernel, along_the_last(spec))) if _LEARNED and is_growing() else None


@contextmanager
def growing(*, whatever_comes: bool = False) -> Iterator[None]:
    """For as long as the context lasts, inputs get the rows that a kernel's domain wants; with
    `whatever_comes`, also inside of `as_it_is`."""
    token = _GROWING.set("whatever comes" if whatever_comes or _GROWING.get() == "whatever comes" else "yes")
    try:
        yield
    finally:
        _GROWING.reset(token)


@contextmanager
def as_it_is() -> Iterator[None]:
    """For as long as the context lasts, inputs are those of a case: none grows."""
    token = _GROWING.set("whatever comes" if _GROWING.get() == "whatever comes" else "no")
    try:
        yield
    finally:
        _GROWING.reset(token)


def is_growing() -> bool:
    """Whether inputs are mxcheck's own."""
    return _GROWING.get() != "no"


def grown(x: Tensor, spec: CastSpec, made_for: Domain) -> Tensor | None:
    """x as a matrix that is cast along its last axis, with rows repeated until it lies in a domain; None
    where that is not asked for, or does not help."""
    if not is_growing() or spec.random is not None:
        return None
    rows = as_rows(x, spec.axis)
    least, multiple = max(len(rows), made_for.least_rows), made_for.rows_multiple
    count = -(-least // multiple) * multiple
    matrix = rows.repeat(-(-count // len(rows)), 1)[:count]
    return None if made_for.refuses(matrix, along_the_last(spec)) else matrix


def along_the_last(spec: CastSpec) -> CastSpec:
    """The same cast along the last axis."""
    return replace(spec, axis=-1)


def cut(result: tuple[Tensor, ...] | Tensor, x: Tensor, spec: CastSpec) -> tuple[Tensor, ...] | Tensor:
    """What a kernel made of x grown, as what it makes of x."""
    shape, axis = tuple(x.shape), resolve_axis(x.dim(), spec.axis)
    rows = x.numel() // x.shape[axis]
    if isinstance(result, Tensor):
        return from_rows(result[:rows], shape, axis)
    codes, scales, *others = result
    of_rows = (
        scales.reshape(scales_shape(shape, spec))
        if spec.block.whole_tensor
        else from_rows(scales[:rows], shape, axis)
    )
    return from_rows(codes[:rows], shape, axis), of_rows, *others
