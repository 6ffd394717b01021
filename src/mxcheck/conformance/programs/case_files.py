"""Read and write files of cases for a program in any language (binary format: docs/cases.md)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.generator import Example
from mxcheck.conformance.programs.case_header import (
    CASE,
    CASES,
    DIGESTED,
    DTYPE_BITS,
    HEADER,
    INTEGERS,
    MOST_BLOCK_SIZES,
    CaseFileError,
    Extent,
    Header,
    Layout,
    check_start,
    read_bytes,
    read_header,
    text_of,
)
from mxcheck.files.printed import told
from mxcheck.formats.blocks import E8M0, block_format
from mxcheck.formats.spec import resolve_axis

# Most elements of a tensor whose last blocks are padded; the oracle pads them too.
_MOST_ELEMENTS = 1 << 28
_CHUNK = 1 << 20


# --- writing


def write_cases(file: BinaryIO, cell: Cell, level: str, examples: Iterable[Example]) -> None:
    """Write a file of cases one by one, then its header, which describes them.

    Args:
        file: an empty, seekable file.

    Raises:
        ValueError: no example, or more than four different block sizes.
    """
    file.write(bytes(HEADER.size))
    layouts, digest, length = [], hashlib.sha256(), 0
    for number, one in enumerate(examples):
        layouts.append(_layout_of(one))
        case = packed_case(number, one)
        digest.update(case)
        length += file.write(case)
    if not layouts:
        raise ValueError(f"no input of {cell.id} is left; ask for less that is special")
    if len({one.block_size for one in layouts}) > MOST_BLOCK_SIZES:
        raise ValueError(f"a file has cases of {MOST_BLOCK_SIZES} block sizes at most; name fewer")
    header = Header(
        cell=cell, level=level, digest=b"", cases=len(layouts), length=length, extent=Extent.of(layouts)
    )
    digest.update(header.packed()[DIGESTED:])
    file.seek(0)
    file.write(replace(header, digest=digest.digest()).packed())


def _layout_of(one: Example) -> Layout:
    shape = tuple(one.x.shape)
    axis = resolve_axis(len(shape), one.spec.axis)
    return Layout(
        dtype=DTYPE_BITS[one.x.dtype],
        block_size=one.spec.block_size or 0,
        outer=math.prod(shape[:axis]),
        columns=shape[axis],
        inner=math.prod(shape[axis + 1 :]),
    )


def packed_case(number: int, one: Example) -> bytes:
    """Encode a case as stored in a file."""
    integers, words = INTEGERS[one.x.element_size()]
    data = one.x.detach().contiguous().view(integers).numpy().astype(words).tobytes()
    if one.spec.random is not None:
        data += np.asarray(one.spec.random).astype("<u4").tobytes()
    return CASE.pack(number, *_layout_of(one), len(data), one.group.encode()[:72]) + data


# --- reading


@dataclass(frozen=True, slots=True, kw_only=True)
class CasesFile:
    """A file of cases whose header and digest have been checked."""

    path: Path
    header: Header

    def examples(self) -> Iterator[Example]:
        """Yield its cases. Raises CaseFileError where one is not what the header allows."""
        header, layouts = self.header, []
        left = header.length
        with self.path.open("rb") as file:
            file.seek(HEADER.size)
            for number in range(header.cases):
                case = read_bytes(file, min(CASE.size, left))
                if len(case) < CASE.size:
                    raise self._error(f"it has {header.cases:,} cases, and ends in case {number:,}")
                own, *numbers, length, group = CASE.unpack(case)
                layout, left = Layout(*numbers), left - CASE.size
                if own != number:
                    raise self._error(f"case {number:,} says that it is case {own:,}")
                if why := self._refused(layout, length, left):
                    raise self._error(f"case {number:,} {why}")
                left -= length
                layouts.append(layout)
                yield self._example(layout, read_bytes(file, length), text_of(group))
        if left:
            raise self._error(f"it has {left:,} bytes after its last case")
        if Extent.of(layouts) != header.extent:
            raise self._error("its header says other dtypes, sizes or shapes than its cases have")

    def _error(self, what: str) -> CaseFileError:
        return CaseFileError(str(self.path), f"{what}; make it again with `mxcheck cases`")

    def _refused(self, layout: Layout, length: int, left: int) -> str:
        """Return why a case is rejected, judged by its numbers alone; empty if it is accepted."""
        size, block = layout.block_size, block_format(self.header.cell.format)
        own = size >= 1 if block.scale == E8M0 else size == (block.block_size or 0)
        if layout.dtype not in DTYPE_BITS.values():
            return f"has the dtype {layout.dtype}; allowed: 1 (float32), 2 (bfloat16), 4 (float16)"
        if size not in self.header.extent.block_sizes or not own:
            return f"has the block size {size:,}, which its header or its format does not have"
        if not (layout.outer and layout.columns and layout.inner):
            return f"has no elements: {layout.outer:,} x {layout.columns:,} x {layout.inner:,}"
        elements = layout.rows * layout.columns
        if layout.rows * -(-layout.columns // (size or 1)) * (size or 1) > _MOST_ELEMENTS:
            return f"has {elements:,} elements, more than the {_MOST_ELEMENTS:,} that are read"
        of_random = 4 * (self.header.cell.rounding == "stochastic")
        expected = elements * ((4 if layout.dtype == 1 else 2) + of_random)
        if length != expected:
            return f"says that it has {length:,} bytes; its shape and dtype take {expected:,}"
        return "" if length <= left else f"has {length:,} bytes, and the file only {left:,} more"

    def _example(self, layout: Layout, data: bytearray, group: str) -> Example:
        shape, axis = _shape(layout)
        dtype = next(dtype for dtype, bit in DTYPE_BITS.items() if bit == layout.dtype)
        integers, words = INTEGERS[4 if layout.dtype == 1 else 2]
        elements = layout.rows * layout.columns
        numbers = np.frombuffer(data, words, elements)
        x = torch.from_numpy(numbers.view(numbers.dtype.str.replace("u", "i"))).view(integers).view(dtype)
        random = None
        if self.header.cell.rounding == "stochastic":
            drawn = np.frombuffer(data, "<u4", elements, elements * numbers.itemsize)
            random = torch.from_numpy(drawn.astype(np.int64)).view(shape)
        spec = self.header.cell.spec(axis=axis, block_size=layout.block_size or None, random=random)
        return Example(group=group, x=x.view(shape), spec=spec)


def _shape(layout: Layout) -> tuple[tuple[int, ...], int]:
    """Return the shape of a case's tensor, with as few axes as possible, and its block axis."""
    if layout.inner == 1:
        return (layout.outer, layout.columns), -1
    if layout.outer == 1:
        return (layout.columns, layout.inner), 0
    return (layout.outer, layout.columns, layout.inner), 1


def open_cases(path: Path) -> CasesFile:
    """Open a file of cases and check its header and digest.

    Raises:
        CaseFileError: not a file of cases, truncated, or changed.
        FileNotFoundError: no such file.
    """
    again = "; make one with `mxcheck cases FORMAT RULE > FILE`"
    if path.exists() and not path.is_file():  # a pipe can be read only once
        raise CaseFileError(str(path), f"it is no regular file{again}")
    with path.open("rb") as file:
        size = path.stat().st_size
        first = bytes(read_bytes(file, min(size, HEADER.size)))
        check_start(str(path), first, CASES, HEADER.size, f"file of cases{again}")
        _, _, digest, cases, length, *rest = HEADER.unpack(first)
        if size != HEADER.size + length:
            short = size < HEADER.size + length
            raise CaseFileError(
                str(path),
                f"it {'is truncated' if short else 'goes on after its last case'}: its header says "
                f"{HEADER.size + length:,} bytes, it has {size:,}{again}",
            )
        computed = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            computed.update(chunk)
    computed.update(first[DIGESTED:])
    if computed.digest() != digest:
        raise CaseFileError(str(path), f"its bytes are not those that its digest is of{again}")
    try:
        header = read_header(digest, cases, length, rest)
    except ValueError as error:
        raise CaseFileError(str(path), f"{told(error)}{again}") from error
    return CasesFile(path=path, header=header)
