"""Learn the domain of an implementation that declares none: from the inputs that it refuses and the options
that it ignores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial, wraps
from itertools import product
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.generator import ANYTHING, own_block_size, spread_with_ties
from mxcheck.conformance.cases.inside import axis_of, columns_of, dtypes_of
from mxcheck.conformance.cases.mixtures import BLOCK_SIZES
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.conformance.implementation.disregarded import disregarded, in_words, with_values
from mxcheck.conformance.implementation.learned_lengths import learned_lengths
from mxcheck.conformance.verify.matrices import ROWS
from mxcheck.conformance.verify.verifier import outcome
from mxcheck.formats.blocks import E8M0
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.api import Kernel
from mxcheck.kernels.domain import ALIGNMENTS, Domain, NotSupported, innermost, named, up
from mxcheck.kernels.refusals import own_word

# Rows and columns: divisible by any usual tile and block; for a kernel of long rows; of short rows; of few
# rows.
_ALIGNED = ((256, 512), (128, 12_288), (128, 128), (16, 128))
# Most columns of any other input.
_MOST_COLUMNS = 8192
# Number of different elements in an input, which repeats them.
_DIFFERENT = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A domain, and for each restriction the implementation's message: `float32: AssertionError: no`.
    `single_rows`: a single row is cast although the domain requires more."""

    domain: Domain
    because: tuple[str, ...] = ()
    single_rows: bool = False


def learned_domain(kernel: Kernel, cell: Cell, within: Domain = ANYTHING) -> Learned:
    """Learn what an implementation supports of a cell, within `within`: the dtypes, rows, columns, axes,
    block sizes and layouts that it does not refuse (see `own_word`) once it casts an aligned matrix, and its
    own values of the options that it ignores (see `disregarded`). An implementation that casts no aligned
    matrix is left to its cells. Neither a wrong result nor any other error teaches anything.

    Raises:
        NotSupported: it refuses aligned matrices of each dtype, with its own reason; or it ignores an option
            of the cell, and does another cell's cast.
    """
    values = disregarded(kernel, cell, within)
    domain = with_values(within, values)
    if domain.refuses_cast(cell.spec(block_size=own_block_size(cell, domain))):
        raise NotSupported(in_words(values))
    # Use the first shape again if none works.
    for shape, rank in (*product(_ALIGNED, (2, 3)), *product(_ALIGNED, (1,)), (_ALIGNED[0], 2)):
        probe = _Probe(kernel, cell, domain, rank, shape)
        seen = {dtype: probe.ask(dtype=dtype, unlike=_no_lengths) for dtype in dtypes_of(domain)}
        if not all(one.why for one in seen.values()):
            break
    if all(one.refused for one in seen.values()):
        raise NotSupported(next(iter(seen.values())).why)
    dtypes = tuple(dtype for dtype, one in seen.items() if not one.why)
    if not dtypes:
        return Learned(domain=domain)
    because = [f"{named(dtype)}: {one.why}" for dtype, one in seen.items() if one.why]
    domain = replace(domain, dtypes=dtypes)
    lessons = (_columns, _rows, _block_sizes, _axes, _ranks, _contiguous, _alignment)
    for learn in lessons if rank > 1 else (_columns, _block_sizes, _ranks, _alignment):
        found, reasons = learn(_Probe(kernel, cell, domain, rank, shape))
        domain, because = replace(domain, **found), [*because, *reasons]
    more_rows = domain.least_rows > 1 or domain.rows_multiple > 1
    single = more_rows and not _Probe(kernel, cell, domain, rank, shape).ask(rows=1).why
    return Learned(domain=domain, because=tuple(because), single_rows=single)


_Lesson = tuple[dict[str, Any], list[str]]


class _Answer(NamedTuple):
    """The reason why there is no result; empty where there is one, right or wrong."""

    why: str
    refused: bool


@dataclass(frozen=True, slots=True)
class _Probe:
    kernel: Kernel
    cell: Cell
    domain: Domain
    rank: int
    shape: tuple[int, int]

    def ask(
        self,
        rows: int | None = None,
        columns: int | None = None,
        *,
        lead: tuple[int, ...] | None = None,
        unlike: Callable[[BaseException], bool] = lambda _: False,
        **others: Any,
    ) -> _Answer:
        """Ask for a matrix [rows, columns] along its last axis (None: those of `shape`), or for other leading
        lengths, dtype, axis, block size or layout. `unlike` recognises errors, other than the kernel's own
        refusals, that count as a refusal."""
        rows = self.shape[0] if rows is None else rows
        columns = self.shape[1] if columns is None else columns
        axis = others.get("axis", axis_of(self.domain))
        dtype = others.get("dtype", dtypes_of(self.domain)[0])
        lead = {1: (), 2: (rows,), 3: (1, rows)}[self.rank] if lead is None else lead
        count = prod(lead) * columns
        x = _numbers().to(dtype).repeat(-(-count // _DIFFERENT))[:count].reshape(*lead, columns)
        x = x if axis in (-1, x.dim() - 1) else x.movedim(-1, axis).contiguous()
        x = others.get("laid_out", lambda same: same)(x)
        size = others.get("block_size", own_block_size(self.cell, self.domain))
        random = torch.zeros(x.shape, dtype=torch.int64) if self.cell.rounding == "stochastic" else None
        return _answer(self.kernel, x, self.cell.spec(axis=axis, block_size=size, random=random), unlike)

    @property
    def length(self) -> int:
        return own_block_size(self.cell, self.domain) or 1


@cache
def _numbers() -> Tensor:
    return spread_with_ties((_DIFFERENT,), Draws("learned domain"))


def _answer(kernel: Kernel, x: Tensor, spec: CastSpec, unlike: Callable[[BaseException], bool]) -> _Answer:
    raised: list[BaseException] = []

    @wraps(innermost(kernel))
    def noting(*given: Any) -> Any:
        try:
            return kernel(*given)
        except BaseException as error:
            raised.append(error)
            raise

    seen = outcome(noting, x, spec)
    says_no = any(own_word(error, kernel) or unlike(error) for error in raised)
    return _Answer(seen.unsupported or (seen.error if says_no else ""), seen.unsupported is not None)


def answer(kernel: Kernel, shape: tuple[int, ...], dtype: torch.dtype, spec: CastSpec) -> str:
    """Return why there is no result for an input of this shape; empty where there is one, right or wrong, or
    an error that is no refusal."""
    count = prod(shape)
    x = _numbers().to(dtype).repeat(-(-count // _DIFFERENT))[:count].reshape(shape)
    return _answer(kernel, x, spec, lambda error: _no_blocks(error) or _no_lengths(error)).why


def _no_blocks(error: BaseException) -> bool:
    """Return whether torch found no whole blocks in a row. A kernel of whole blocks seldom checks for them:
    it fails in its first `view`, `reshape` or `unflatten`."""
    words = ("is invalid for input of size", "don't multiply up to the size of dim", "is not divisible by")
    return isinstance(error, RuntimeError) and any(one in str(error) for one in words)


def _no_lengths(error: BaseException) -> bool:
    """Return whether `rows, columns = x.shape` failed."""
    return isinstance(error, ValueError) and "values to unpack" in str(error)


def _no_view(error: BaseException) -> bool:
    """Return whether `x.view(…)` failed on non-contiguous memory."""
    return isinstance(error, RuntimeError) and "view size is not compatible" in str(error)


def _rows(probe: _Probe) -> _Lesson:
    columns = columns_of(1, replace(probe.domain, ragged=False), probe.length)
    # Use as few columns as possible, as there are many rows.
    few = columns if not probe.ask(columns=columns).why else probe.shape[1]
    most = up(ROWS[-1], probe.shape[0])
    found = learned_lengths(lambda count: probe.ask(rows=count, columns=few).why, probe.shape[0], most)
    limits = {"least_rows": found.least, "rows_multiple": found.multiple, "most_rows": found.most}
    return limits, [f"rows {one}" for one in found.because]


def _columns(probe: _Probe) -> _Lesson:
    length = probe.length
    blocks, multiple, most, because = learned_lengths(
        lambda count: probe.ask(columns=count * length).why,
        probe.shape[1] // length,
        max(_MOST_COLUMNS, probe.shape[1]) // length,
    )
    whole = multiple * length
    reasons = [f"blocks a row {one}" for one in because]
    found: dict[str, Any] = {
        "least_columns": blocks * length if blocks > 1 else 1,
        "most_columns": None if most is None else most * length,
        "columns_multiple": whole if multiple > 1 else 1,
        "ragged": length > 1 or multiple == 1,
    }
    beside = max(blocks * length, whole) + 1
    if most is not None and beside > most * length:
        return found | {"ragged": length == 1}, reasons
    if length > 1 and (tail := probe.ask(columns=beside, unlike=_no_blocks).why):
        reasons.append(f"{beside} columns: {tail}")
        # Rows that are whole words of memory may have a tail even if others may not.
        steps = [step for step in (2, 4, 8, 16) if multiple == 1 and length % step == 0 and step < length]
        taken = (one for one in steps if not probe.ask(columns=beside - 1 + one, unlike=_no_blocks).why)
        step = next(taken, 0)
        found |= {"columns_multiple": step} if step else {"ragged": False}
    return found, reasons


def _block_sizes(probe: _Probe) -> _Lesson:
    if probe.cell.spec().block.scale != E8M0 or probe.domain.block_sizes is not None:
        return {}, []
    return _those("block_sizes", BLOCK_SIZES, lambda size: probe.ask(block_size=size), "blocks of ")


def _axes(probe: _Probe) -> _Lesson:
    if probe.domain.axes is not None:
        return {}, []
    return _those("axes", (-1, 0), lambda axis: probe.ask(axis=axis), "axis ")


def _ranks(probe: _Probe) -> _Lesson:
    rows = probe.shape[0]
    leads: dict[int, tuple[int, ...]] = {2: (rows,), 3: (2, rows // 2), 4: (2, 2, rows // 4)}
    if probe.domain.least_rows == probe.domain.rows_multiple == 1:
        leads[1] = ()

    def asked(rank: int) -> _Answer:
        return probe.ask(lead=leads[rank], unlike=_no_lengths)

    return _those("ranks", sorted(leads), asked, "dimensions ")


def _contiguous(probe: _Probe) -> _Lesson:
    why = probe.ask(laid_out=_apart, unlike=_no_view).why
    return ({"contiguous": True}, [f"not contiguous: {why}"]) if why else ({}, [])


def _alignment(probe: _Probe) -> _Lesson:
    """Learn whether the first element may lie anywhere; if not, the smallest alignment that works."""
    size = dtypes_of(probe.domain)[0].itemsize
    reasons: list[str] = []
    for alignment in ALIGNMENTS:
        if alignment < size:
            continue
        why = probe.ask(laid_out=partial(_behind, alignment)).why
        if not why:
            return ({"alignment": alignment}, reasons[-1:]) if reasons else ({}, [])
        reasons.append(f"{alignment} bytes into memory: {why}")
    return {}, []  # it refuses for another reason


def _behind(alignment: int, x: Tensor) -> Tensor:
    """Return the same values at a byte offset, so that they have no larger alignment."""
    offset = alignment // x.element_size()
    memory = torch.zeros(x.numel() + offset, dtype=x.dtype)
    return memory[offset:].view(x.shape).copy_(x)


def _apart(x: Tensor) -> Tensor:
    """Return the same values, transposed in memory."""
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def _those(field: str, values: Iterable[Any], ask: Callable[[Any], _Answer], what: str) -> _Lesson:
    """Learn which of the values give a result; no restriction if all do."""
    seen = {value: ask(value).why for value in values}
    failed = [f"{what}{value}: {why}" for value, why in seen.items() if why]
    return ({field: tuple(value for value, why in seen.items() if not why)} if failed else {}), failed
