"""A cast that is tested on many inputs, all made of the probe's rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from mxcheck.models.conversion.probe import ROWS, probe

#: A cast, ours or a library's; it returns several tensors.
CastParts = Callable[[Tensor], tuple[Tensor, ...]]

#: Rows of the probe that may have the largest magnitude; the other 21 are quiet. In the cycle of these 21,
#: each block of rows differs from the one before.
_PEAKS = slice(0, ROWS, 3)
_QUIET = [row for row in range(ROWS) if row % 3]


def uneven_probe(width: int) -> Tensor:
    """Return the probe [32, width] with quiet rows: elements as large as the largest magnitude of the other
    rows are halved there. Otherwise every row of a wide probe would have it."""
    rows = probe(ROWS, width)
    largest = rows[_PEAKS].abs().amax()
    quiet = rows[_QUIET]
    rows[_QUIET] = torch.where(quiet.abs() >= largest, quiet / 2, quiet)
    return rows


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProbedCast:
    """A cast, and its result for the uneven probe.

    Attributes:
        name, what: the module, and the operands that are cast, in the plural.
        cast: the cast itself.
        before: the uneven probe, [32, width].
        after: the recipe's cast of it along its last axis. Parts with 32 rows are by row, all others belong
            to the whole tensor.
        axis: axis of the cast, -1 or -2.
        code: whose code it is, whatever module calls it.
        kernel: the kernel, ours or the user's, that it calls; None if it calls none.
        product: the same cast as it enters a module's product; None if it enters none.
        casts_16_bits: whether values of a 16-bit input give the same as in `before`'s dtype.
        casts_values: whether it returns values, which a power of two multiplies exactly.
        may_refuse: whether it may refuse an input by NotImplementedError, as a user's kernel may.
    """

    name: str
    what: str
    cast: CastParts
    before: Tensor
    after: tuple[Tensor, ...]
    axis: int = -1
    code: Hashable
    kernel: Hashable = None
    product: CastParts | None = None
    casts_16_bits: bool = False
    casts_values: bool = False
    may_refuse: bool = False

    @property
    def every_row(self) -> Tensor:
        """All rows, in order."""
        return torch.arange(ROWS, device=self.before.device)

    @property
    def peak(self) -> Tensor:
        """A row with the largest magnitude: alone it has the scale of all."""
        return self.before.abs().amax(-1).argmax().view(1)

    def order(self, count: int) -> Tensor:
        """Return the indices of rows for an input of `count` rows, 32 or more: the quiet rows in turn, then
        every row at the end."""
        turns = [_QUIET[turn % len(_QUIET)] for turn in range(5, 5 + count - ROWS)]
        return torch.cat([torch.tensor(turns, dtype=torch.int64, device=self.before.device), self.every_row])

    def input(self, order: Tensor, *leading: int) -> Tensor:
        """Arrange rows in an order, [*leading, rows, width], turned so that they lie along the axis."""
        x = self.before[order].view(*leading, -1, self.before.shape[-1])
        return x if self.axis == -1 else x.mT

    def wrong(self, found: tuple[Tensor, ...], order: Tensor, factor: float = 1) -> str:
        """Return what is wrong in a cast of rows in an order, multiplied by a factor; empty if nothing is."""
        for values, after in zip(found, self.after, strict=True):
            rows = rows_of(values, self.axis)
            by_row = len(after) == ROWS and len(rows) == len(order)
            expected = factor * after[order] if by_row else after
            if wrong := first_wrong(rows, expected.to(rows.dtype)):
                return f"{wrong} of its {self.what}"
        return ""


def rows_of(values: Tensor, axis: int) -> Tensor:
    """Return a tensor as a matrix whose rows lie along its axis; a vector unchanged."""
    return values if values.dim() < 2 else values.movedim(axis, -1).flatten(0, -2)


def first_wrong(rows: Tensor, expected: Tensor) -> str:
    """Return the first row whose bits differ from the expected ones, in words; empty if none does."""
    if (rows.shape, rows.dtype) != (expected.shape, expected.dtype):
        found, wanted = (f"{one.dtype} {list(one.shape)}" for one in (rows, expected))
        return f"{found} where {wanted} was expected, in the rows"
    apart = _bits(rows) != _bits(expected)
    if not apart.any():
        return ""
    by_row = apart.any(-1) if apart.dim() > 1 else apart
    row = int(torch.nonzero(by_row)[0])
    more = int(by_row.sum()) - 1
    return f"other bits in row {row}" + (f" and {more:,} others" if more else "") + f" of {len(rows):,}"


def _bits(values: Tensor) -> Tensor:
    """View as integers, equal only if all bits are: zeros have signs, and a NaN equals itself."""
    return values.view(_INTEGERS[values.element_size()])


#: By bytes per element.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
