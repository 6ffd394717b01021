"""Repeat rows of mxcheck's own inputs for a kernel that requires more rows: a probe of 32 rows for one that
takes 128.

A case's operands (its weights, its text) never grow: a kernel that does not take them refuses them. Probes
and passes over a few tokens are not what a user's code would cast. Their rows are repeated, which changes no
scale, and the repetition is cut off the result.
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


# Domains learned for kernels that declare none.
_LEARNED: dict[tuple[Callable[..., Any], CastSpec], Domain] = {}


def grow_as_learned(kernel: Callable[..., Any], spec: CastSpec, made_for: Domain) -> None:
    """Let mxcheck's own inputs to a kernel without a declared domain grow to `made_for`, in this cast, from
    now on."""
    _LEARNED[kernel, along_the_last(spec)] = made_for


def learned_limits(kernel: Callable[..., Any], spec: CastSpec) -> Domain | None:
    """Return the learned domain, where inputs may grow."""
    return _LEARNED.get((kernel, along_the_last(spec))) if _LEARNED and is_growing() else None


@contextmanager
def growing(*, whatever_comes: bool = False) -> Iterator[None]:
    """Let inputs grow to the rows that a kernel's domain requires, within the context; with `whatever_comes`,
    also inside of `as_it_is`."""
    token = _GROWING.set("whatever comes" if whatever_comes or _GROWING.get() == "whatever comes" else "yes")
    try:
        yield
    finally:
        _GROWING.reset(token)


@contextmanager
def as_it_is() -> Iterator[None]:
    """Let no input grow within the context: inputs are those of a case."""
    token = _GROWING.set("whatever comes" if _GROWING.get() == "whatever comes" else "no")
    try:
        yield
    finally:
        _GROWING.reset(token)


def is_growing() -> bool:
    """Return whether inputs are mxcheck's own and may grow."""
    return _GROWING.get() != "no"


def grown(x: Tensor, spec: CastSpec, made_for: Domain) -> Tensor | None:
    """Return x as a matrix cast along its last axis, with rows repeated until it lies in a domain; None where
    inputs may not grow, or growing does not help."""
    if not is_growing() or spec.random is not None:
        return None
    rows = as_rows(x, spec.axis)
    least, multiple = max(len(rows), made_for.least_rows), made_for.rows_multiple
    count = -(-least // multiple) * multiple
    matrix = rows.repeat(-(-count // len(rows)), 1)[:count]
    return None if made_for.refuses(matrix, along_the_last(spec)) else matrix


def along_the_last(spec: CastSpec) -> CastSpec:
    """Return the same cast along the last axis."""
    return replace(spec, axis=-1)


def cut(result: tuple[Tensor, ...] | Tensor, x: Tensor, spec: CastSpec) -> tuple[Tensor, ...] | Tensor:
    """Cut a kernel's result for the grown x down to that for x."""
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
