"""Compare rows alone and among others: a row's bits must not depend on the number of rows.

Rows are compared with themselves alone, not with the oracle. Where a whole tensor shares a scale, every row
holds the tensor's largest number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.generator import ANYTHING, Example, placed, spread_with_ties
from mxcheck.conformance.cases.inside import rows_of
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.conformance.verify.asked_again import Asked
from mxcheck.conformance.verify.verifier import compare, outcome
from mxcheck.formats.blocks import E8M0, BlockFormat
from mxcheck.formats.oracle import Parts
from mxcheck.formats.spec import resolve_axis
from mxcheck.kernels.api import Kernel
from mxcheck.kernels.domain import Domain

#: Number of different rows, which a matrix repeats; columns of a row.
_ROWS, _COLUMNS = 4, 96
BATCHES = (2, 128, 4096)


def in_batches(kernel: Kernel, cell: Cell, domain: Domain = ANYTHING) -> Iterator[Asked]:
    """Cast rows alone, or as few together as the domain requires, and the same rows in matrices of `BATCHES`
    rows."""
    few = rows_of(1, domain)
    base = placed("batch", _numbers(cell, _ROWS * few), cell, domain)
    if base.x.dim() != 2:
        return
    across = 1 - resolve_axis(2, base.spec.axis)
    if base.x.shape[across] != _ROWS * few or domain.refuses(base.x, base.spec):
        return
    alone = [_rows_of(base, range(first, first + few), across) for first in range(0, _ROWS * few, few)]
    seen = [outcome(kernel, one.x, one.spec) for one in alone]
    if not all(one.got for one in seen):
        yield Asked(example=alone[0], comparison=next(one for one in seen if not one.got))
        return
    for count in dict.fromkeys(rows_of(count, domain) for count in BATCHES):
        chosen = [row % (_ROWS * few) for row in range(count)]
        batch = _rows_of(base, chosen, across)
        expected = _among_others([one.got for one in seen], chosen, across, base.spec.block)
        yield Asked(
            example=batch,
            comparison=compare(kernel, batch.x, batch.spec, expected),
            words=f"in a batch of {count:,} rows; in one of {few} it gives other bits",
        )


def _numbers(cell: Cell, rows: int) -> Tensor:
    x = spread_with_ties((rows, _COLUMNS), Draws("batch"))
    if cell.spec().block.scale != E8M0:
        x[:, 0] = x.abs().max()
    return x


def _rows_of(base: Example, chosen: Sequence[int], across: int) -> Example:
    index = torch.tensor(chosen)
    random = base.spec.random
    if random is not None:
        random = random.index_select(across, index)
    return replace(base, x=base.x.index_select(across, index), spec=replace(base.spec, random=random))


def _among_others(alone: Sequence[Parts], chosen: Sequence[int], across: int, block: BlockFormat) -> Parts:
    """Assemble the expected result of a matrix from the results of its rows alone. A tensor scale stays
    one."""
    codes, *scales = zip(*alone, strict=True)
    by_rows = [codes, *scales[:1]] if not block.whole_tensor else [codes]
    shared = [several[0] for several in [codes, *scales][len(by_rows) :]]
    return (*(np.concatenate(several, across).take(chosen, across) for several in by_rows), *shared)
