"""Headers of files of cases and of results, and how they are read (docs/cases.md).

Everything read is checked here and in the modules of the two kinds of file. A length is compared with its
expected value and with the file before anything is allocated.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import torch

from mxcheck.conformance.cases.cells import LEVELS, Cell
from mxcheck.files.printed import got, one_line
from mxcheck.formats.choices import choose
from mxcheck.kernels.domain import DTYPES

VERSION = 1
CASES = b"MXCASES\n"
#: Bit of a dtype: in a case, and joined by | in a header.
DTYPE_BITS = {dtype: 1 << at for at, dtype in enumerate(DTYPES.values())}
#: Bytes of a number -> integers that hold its bits, in torch and in a file.
INTEGERS = {4: (torch.int32, "<u4"), 2: (torch.int16, "<u2")}
HEADER = struct.Struct("<8sQ32sQQ16s16s16s16s16s14Q")
#: Offset in the header from which the digest is computed.
DIGESTED = 48
#: Fixed part at the start of a case.
CASE = struct.Struct("<7Q72s")
MOST_BLOCK_SIZES = 4
_CHUNK = 1 << 20


class CaseFileError(ValueError):
    """A file that is rejected. The message is one printable line and names the file; `too_short` if more
    bytes of the same kind would mend it."""

    def __init__(self, name: str, what: str, *, too_short: bool = False) -> None:
        super().__init__(f"{one_line(name)}: {one_line(what)}")
        self.what, self.too_short = what, too_short


class Layout(NamedTuple):
    """Layout of a case's numbers in memory: x[outer][columns][inner], with blocks along the columns. The
    block size is 0 where a row or the tensor shares a scale."""

    dtype: int
    block_size: int
    outer: int
    columns: int
    inner: int

    @property
    def rows(self) -> int:
        return self.outer * self.inner


class Extent(NamedTuple):
    """The header fields that say what occurs in a file's cases, for a program that does not support
    everything."""

    dtypes: int
    ragged: int
    least_rows: int
    most_rows: int
    rows_multiple: int
    least_columns: int
    most_columns: int
    columns_multiple: int
    most_inner: int
    most_elements: int
    block_sizes: tuple[int, ...]

    @classmethod
    def of(cls, layouts: Sequence[Layout]) -> Extent:
        """Return the extent of one or more layouts."""
        rows, columns = [one.rows for one in layouts], [one.columns for one in layouts]
        sizes = sorted({one.block_size for one in layouts})
        dtypes = 0
        for one in layouts:
            dtypes |= one.dtype
        return cls(
            dtypes=dtypes,
            ragged=int(any(one.block_size and one.columns % one.block_size for one in layouts)),
            least_rows=min(rows),
            most_rows=max(rows),
            rows_multiple=math.gcd(*rows),
            least_columns=min(columns),
            most_columns=max(columns),
            columns_multiple=math.gcd(*columns),
            most_inner=max(one.inner for one in layouts),
            most_elements=max(one.rows * one.columns for one in layouts),
            block_sizes=(*sizes, *(0,) * (MOST_BLOCK_SIZES - len(sizes))),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Header of a file of cases. `length` is in bytes, of all cases."""

    cell: Cell
    level: str
    digest: bytes
    cases: int
    length: int
    extent: Extent

    def packed(self) -> bytes:
        """Encode the header as stored in the file."""
        names = (self.cell.format, self.cell.scale_rule, self.cell.rounding, self.cell.nonfinite, self.level)
        *counts, sizes = self.extent
        return HEADER.pack(
            CASES,
            VERSION,
            self.digest,
            self.cases,
            self.length,
            *(name.encode() for name in names),
            *counts,
            *sizes,
        )


def read_header(digest: bytes, cases: int, length: int, rest: Sequence[bytes | int]) -> Header:
    """Build a header. Raises ValueError for an unknown cast."""
    names = [text_of(one) for one in rest if isinstance(one, bytes)]
    counts = [one for one in rest if isinstance(one, int)]
    name, rule, rounding, nonfinite, level = names
    cell = Cell(format=name, scale_rule=rule, rounding=rounding, nonfinite=nonfinite)
    cell.spec()
    choose("level", level, LEVELS)
    if not cases or cases * CASE.size > length:
        raise ValueError(f"it has {cases:,} cases in {length:,} bytes")
    extent = Extent._make([*counts[:-MOST_BLOCK_SIZES], tuple(counts[-MOST_BLOCK_SIZES:])])
    return Header(cell=cell, level=level, digest=digest, cases=cases, length=length, extent=extent)


def check_start(name: str, first: bytes, magic: bytes, size: int, what: str) -> None:
    """Raise CaseFileError for a file that does not begin as its kind must."""
    begins = first[: len(magic)]
    if begins != magic[: len(begins)] or not begins:
        how = f"begins with {got(first[:24])}" if first else "is empty"
        raise CaseFileError(name, f"it {how}, and is no {what}", too_short=not first)
    if len(first) < size:
        raise CaseFileError(
            name, f"it is truncated: {len(first):,} bytes of a header of {size}", too_short=True
        )
    version = int.from_bytes(first[8:16], "little")
    if version != VERSION:
        raise CaseFileError(
            name, f"it is of version {version} of the format; this mxcheck reads version {VERSION}"
        )


def read_bytes(file: BinaryIO, size: int) -> bytearray:
    """Read `size` bytes, or fewer at the end of the file. A pipe may deliver them in parts."""
    data = bytearray()
    while len(data) < size and (more := file.read(min(size - len(data), _CHUNK))):
        data += more
    return data


def text_of(field: bytes) -> str:
    return one_line(field.rstrip(b"\0").decode("utf-8", "replace"))
