"""The parameters of a converted module: its quantized weights where they are kept, and where they are made
at each forward.

A module holds the weights of its owner. Reading the attribute gives the quantized weight, cast anew if its
owner changed it. A lean module has it only while its own forward runs: one cast for all reads, dropped at its
end; then `parameters()` and `state_dict()` give the owner's. A model that reads such a weight elsewhere (an
attention that multiplies by a projection's weight itself) may hold on to it, or change it in place; so that
one is kept from then on, as all are where weights are kept.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Mapping, ValuesView
from typing import Any

from torch import Tensor, nn

Parameters = dict[str, nn.Parameter | None]
#: What tells whether a weight is the one that was cast.
State = tuple[int, int, int] | None


def state_of(weight: Tensor) -> State:
    """Return what changes when the owner of a weight changes it: another tensor, other memory, or a write in
    place, which torch counts. None, which equals nothing known, where torch does not count (tensors made in
    inference mode). A write through `.data` is not counted either: nobody can see it."""
    return None if weight.is_inference() else (id(weight), weight.data_ptr(), weight._version)


class ConvertedParameters(Parameters):
    """A module's `_parameters`, where `nn.Module` looks up attributes.

    Of those of `names`, `read` answers for an attribute and `write` takes what is assigned to it; iterating
    gives the `kept` ones, else the owner's.
    """

    def __init__(
        self,
        owned: Parameters,
        *,
        names: frozenset[str],
        kept: Mapping[str, nn.Parameter],
        read: Callable[[str], nn.Parameter],
        write: Callable[[str, Any], None],
    ) -> None:
        super().__init__(owned)
        self._names, self._kept, self._read, self._write = names, kept, read, write

    def owned(self) -> Parameters:
        """Return the parameters of the unconverted module."""
        return dict(super().items())

    def items(self) -> ItemsView[str, nn.Parameter | None]:  # type: ignore[override]
        return (self.owned() | {**self._kept}).items()

    def values(self) -> ValuesView[nn.Parameter | None]:  # type: ignore[override]
        return (self.owned() | {**self._kept}).values()

    def __getitem__(self, name: str) -> nn.Parameter | None:
        return self._read(name) if name in self._names else super().__getitem__(name)

    def __setitem__(self, name: str, value: nn.Parameter | None) -> None:
        if name in self._names:
            self._write(name, value)
        else:
            super().__setitem__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy as plain parameters: the copy of a module is no part of its conversion."""
        return dict, (dict(self.items()),)
