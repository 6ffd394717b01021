"""One cast for modules that read one input: queries, keys and values; gate and up.

They are called one after the other with the same tensor, and the cast of one is that of all. What was cast
last is held while the forward of the module around them runs, and for casts of our own only: a user's kernel
is asked each time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from mxcheck.models.conversion.product_hooks import Cast


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Made:
    """A cast that was made, as one object: of threads in one context none sees half of it."""

    x: Tensor
    values: Tensor
    #: What must be as it was for the values to be those of `x`.
    state: tuple[object, ...]


@dataclass(slots=True, eq=False)
class _Last:
    made: _Made | None = None


_LAST: ContextVar[_Last | None] = ContextVar("mxcheck_last_cast", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Share casts within the context, with nothing cast before it; hold nothing at its end."""
    token = _LAST.set(_Last())
    try:
        yield
    finally:
        _LAST.reset(token)


def shared(cast: Cast, what: Hashable) -> Cast:
    """Return `cast` that gives the values of the last cast again where that is the same, by `what`, of the
    same tensor. Its result is read and not written: several callers have it.

    A tensor is the same if it is the same object and nothing was written to it since: torch counts writes in
    place, but for tensors made in inference mode, which are cast each time, and those through `.data`, which
    nobody can see.
    """

    def once(x: Tensor) -> Tensor:
        last = _LAST.get()
        uncounted = x.is_inference() or torch.is_inference_mode_enabled()
        if last is None or type(x) is not Tensor or uncounted:
            return cast(x)
        # what another stream is still writing must not be read
        state = what, x._version, torch.cuda.current_stream(x.device) if x.is_cuda else None
        made = last.made
        if made is None or made.x is not x or made.state != (*state, made.values._version):
            values = cast(x)
            made = last.made = _Made(x=x, values=values, state=(*state, values._version))
        return made.values

    return once
