"""What an implementation is made for, where it declares nothing: learned from what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mxcheck.conformance.cells import Cell
from mxcheck.conformance.draws import Draws
from mxcheck.conformance.generator import ANYTHING, own_block_size, placed, spread_with_ties
from mxcheck.conformance.inside import dtypes_of
from mxcheck.conformance.verifier import outcome
from mxcheck.kernels.api import Kernel
from mxcheck.kernels.domain import Domain, NotSupported

# Rows and columns that whatever tiles and blocks there are divide.
_ALIGNED = (256, 512)
_MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def learned_domain(kernel: Kernel, cell: Cell, within: Domain = ANYTHING) -> Domain:
    """Dtypes, rows and columns that an implementation does not refuse for a cell, of those `within` which it
    is asked. An error is no refusal.

    Raises:
        NotSupported: it refuses aligned matrices of each dtype; its own reason.
    """
    asked = {dtype: _Asking(kernel, cell, replace(within, dtypes=(dtype,))) for dtype in dtypes_of(within)}
    refused = {dtype: one.refuses(*_ALIGNED) for dtype, one in asked.items()}
    dtypes = tuple(dtype for dtype, why in refused.items() if not why)
    if not dtypes:
        raise NotSupported(next(iter(refused.values())))
    asking = asked[dtypes[0]]
    rows, columns = _ALIGNED
    least_rows, rows_multiple = _least(lambda count: not asking.refuses(count, columns), _MULTIPLES)
    length = own_block_size(cell, within) or 1
    in_blocks, blocks_multiple = _least(lambda count: not asking.refuses(rows, count * length), _MULTIPLES)
    whole = blocks_multiple * length
    ragged = (
        not asking.refuses(rows, max(in_blocks * length, whole) + 1) if length > 1 else blocks_multiple == 1
    )
    return replace(
        within,
        dtypes=dtypes,
        least_rows=least_rows,
        rows_multiple=rows_multiple,
        least_columns=in_blocks * length if in_blocks > 1 else 1,
        columns_multiple=whole if blocks_multiple > 1 else 1,
        ragged=ragged,
    )


@dataclass(frozen=True, slots=True)
class _Asking:
    kernel: Kernel
    cell: Cell
    within: Domain

    def refuses(self, rows: int, columns: int) -> str:
        """Why a matrix of this shape is refused; empty where it is not."""
        x = spread_with_ties((rows, columns), Draws("learned domain"))
        asked = placed("learned", x, self.cell, self.within)
        return outcome(self.kernel, asked.x, asked.spec).unsupported or ""


def _least(allowed: Callable[[int], bool], multiples: tuple[int, ...]) -> tuple[int, int]:
    """(least, multiple) of a count: the first of the multiples that is allowed once and threefold; where one
    more than it is allowed too, it is the least one only."""
    for count in multiples:
        if allowed(count) and allowed(3 * count):
            return (count, 1) if count == 1 or allowed(count + 1) else (count, count)
    return multiples[-1], multiples[-1]
