"""The parameters of a converted module: its owner's weights, and while a forward runs the quantized ones.

A module holds the weights of its owner, who reads and writes them as if nothing were converted: by the
attribute, `parameters()`, `state_dict()`, `load_state_dict()`, an assignment. While a forward of the
converted model or of a part of it runs, the attribute is the quantized weight; so a model that multiplies by
a weight itself (an attention that reads a projection's) gets that too. What such a forward writes to a weight
in place is not the owner's, and may be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

Parameters = dict[str, nn.Parameter | None]
#: What tells whether a weight is the one that was cast.
State = tuple[int, int, int] | None

#: Quantized weights that the forward that runs here has read, by module and name.
Reads = dict[tuple[object, str], nn.Parameter]
#: Those of the innermost forward that runs in this thread; None if none runs.
_READS: ContextVar[Reads | None] = ContextVar("mxcheck_reads", default=None)


def state_of(weight: Tensor) -> State:
    """Return what changes when the owner of a weight changes it: another tensor, other memory, or a write in
    place, which torch counts. None, which equals nothing known, where torch does not count (tensors made in
    inference mode). A write through `.data` is not counted either: nobody can see it."""
    return None if weight.is_inference() else (id(weight), weight.data_ptr(), weight._version)


def reads() -> Reads | None:
    """Return the quantized weights read by the forward that runs here, to add to; None if none runs."""
    return _READS.get()


@contextmanager
def running(more: Reads | None = None) -> Iterator[None]:
    """Mark a forward: what it reads, and `more`, are dropped at its end."""
    token = _READS.set({**(_READS.get() or {}), **(more or {})})
    try:
        yield
    finally:
        _READS.reset(token)


class ConvertedParameters(Parameters):
    """A module's `_parameters`, where `nn.Module` looks up attributes: the owner's.

    `read` answers for the attributes `names`, and `write` is told what is assigned to one. None of them can
    be removed: the conversion casts them.
    """

    def __init__(
        self,
        owned: Parameters,
        *,
        names: frozenset[str],
        read: Callable[[str], nn.Parameter],
        write: Callable[[str, nn.Parameter], None],
    ) -> None:
        super().__init__(owned)
        self._names, self._read, self._write = names, read, write

    def __getitem__(self, name: str) -> nn.Parameter | None:
        return self._read(name) if name in self._names else super().__getitem__(name)

    def __setitem__(self, name: str, value: nn.Parameter | None) -> None:
        if name in self._names:
            if value is None:
                raise _needed(name)
            self._write(name, value)
        super().__setitem__(name, value)

    def __delitem__(self, name: str) -> None:
        if name in self._names:
            raise _needed(name)
        super().__delitem__(name)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy as plain parameters: the copy of a module is no part of its conversion."""
        return dict, (dict(self.items()),)


def _needed(name: str) -> ValueError:
    return ValueError(f"{name} is converted and cannot be removed; undo the conversion first")
