"""Files of cases for a program in any language, and of its results: a page of binary format (docs/cases.md).

Whatever is read here is checked here. A length is held against what it has to be, and against the file,
before anything is allocated for it.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mxcheck.conformance.cells import LEVELS, Cell
from mxcheck.conformance.generator import Example
from mxcheck.files.printed import got, one_line, told
from mxcheck.formats.blocks import E4M3, E8M0, FP32, block_format
from mxcheck.formats.choices import choose
from mxcheck.formats.spec import resolve_axis, scales_shape
from mxcheck.kernels.domain import DTYPES, NotSupported

VERSION = 1
CASES, RESULTS = b"MXCASES\n", b"MXRESULT"
#: What an answer of a program may be.
REFUSED, PARTS, VALUES = range(3)
# Of a dtype, in cases and, joined by |, in a header.
_DTYPE_BITS = {dtype: 1 << at for at, dtype in enumerate(DTYPES.values())}
_INTEGERS = {4: (torch.int32, "<u4"), 2: (torch.int16, "<u2")}
_HEADER = struct.Struct("<8sQ32sQQ16s16s16s16s16s14Q")
# What the digest is of, in a header.
_DIGESTED = 48
_CASE = struct.Struct("<7Q72s")
_RESULTS = struct.Struct("<8sQ32sQ")
_ANSWER = struct.Struct("<3Q")
_BLOCK_SIZES = 4
_LONGEST_REASON = 1000
# Elements of a tensor whose last blocks are filled up, which the oracle fills up too.
_MOST_ELEMENTS = 1 << 28
_CHUNK = 1 << 20


class CaseFileError(ValueError):
    """A file that is not read. The message is one printable line and names the file; `too_short` if more of
    the same would do."""

    def __init__(self, name: str, what: str, *, too_short: bool = False) -> None:
        super().__init__(f"{one_line(name)}: {one_line(what)}")
        self.what, self.too_short = what, too_short


class Layout(NamedTuple):
    """How the numbers of a case lie in memory: x[outer][columns][inner], blocks along the columns. The block
    size is 0 where a row or the tensor shares a scale."""

    dtype: int
    block_size: int
    outer: int
    columns: int
    inner: int

    @property
    def rows(self) -> int:
        return self.outer * self.inner


class Extent(NamedTuple):
    """What occurs in a file's cases, for a program that does not do everything: the fields of its header."""

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
        """That of some cases; one at least."""
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
            block_sizes=(*sizes, *(0,) * (_BLOCK_SIZES - len(sizes))),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file of cases says before the first one. `length` is in bytes, of all cases."""

    cell: Cell
    level: str
    digest: bytes
    cases: int
    length: int
    extent: Extent

    @property
    def most_of_results(self) -> int:
        """Bytes that the results of these cases never exceed."""
        return _RESULTS.size + 8 * self.length  # an element of 2 bytes has a code, and a scale of 4 at most

    def packed(self) -> bytes:
        """As it stands in the file."""
        names = (self.cell.format, self.cell.scale_rule, self.cell.rounding, self.cell.nonfinite, self.level)
        *counts, sizes = self.extent
        return _HEADER.pack(
            CASES,
            VERSION,
            self.digest,
            self.cases,
            self.length,
            *(name.encode() for name in names),
            *counts,
            *sizes,
        )


# --- writing cases


def write_cases(file: BinaryIO, cell: Cell, level: str, examples: Iterable[Example]) -> None:
    """Write a file of cases, one by one, and at last its header, which says what they are.

    Args:
        file: an empty one that can be written anywhere.

    Raises:
        ValueError: there is no example, or block sizes of more than four kinds.
    """
    file.write(bytes(_HEADER.size))
    layouts, digest, length = [], hashlib.sha256(), 0
    for number, one in enumerate(examples):
        layouts.append(_layout_of(one))
        case = packed_case(number, one)
        digest.update(case)
        length += file.write(case)
    if not layouts:
        raise ValueError(f"no input of {cell.id} is left; ask for less that is special")
    if len({one.block_size for one in layouts}) > _BLOCK_SIZES:
        raise ValueError(f"a file has cases of {_BLOCK_SIZES} block sizes at most; name fewer")
    header = Header(
        cell=cell, level=level, digest=b"", cases=len(layouts), length=length, extent=Extent.of(layouts)
    )
    digest.update(header.packed()[_DIGESTED:])
    file.seek(0)
    file.write(replace(header, digest=digest.digest()).packed())


def _layout_of(one: Example) -> Layout:
    shape = tuple(one.x.shape)
    axis = resolve_axis(len(shape), one.spec.axis)
    return Layout(
        dtype=_DTYPE_BITS[one.x.dtype],
        block_size=one.spec.block_size or 0,
        outer=math.prod(shape[:axis]),
        columns=shape[axis],
        inner=math.prod(shape[axis + 1 :]),
    )


def packed_case(number: int, one: Example) -> bytes:
    """A case as it stands in a file."""
    integers, words = _INTEGERS[one.x.element_size()]
    data = one.x.detach().contiguous().view(integers).numpy().astype(words).tobytes()
    if one.spec.random is not None:
        data += np.asarray(one.spec.random).astype("<u4").tobytes()
    return _CASE.pack(number, *_layout_of(one), len(data), one.group.encode()[:72]) + data


# --- reading cases


@dataclass(frozen=True, slots=True, kw_only=True)
class CasesFile:
    """A file of cases whose header and digest are as they have to be."""

    path: Path
    header: Header

    def examples(self) -> Iterator[Example]:
        """Each of its cases. Raises CaseFileError where one is not what its header allows."""
        header, layouts = self.header, []
        left = header.length
        with self.path.open("rb") as file:
            file.seek(_HEADER.size)
            for number in range(header.cases):
                case = _read(file, min(_CASE.size, left))
                if len(case) < _CASE.size:
                    raise self._error(f"it has {header.cases:,} cases, and ends in case {number:,}")
                own, *numbers, length, group = _CASE.unpack(case)
                layout, left = Layout(*numbers), left - _CASE.size
                if own != number:
                    raise self._error(f"case {number:,} says that it is case {own:,}")
                if why := self._refused(layout, length, left):
                    raise self._error(f"case {number:,} {why}")
                left -= length
                layouts.append(layout)
                yield self._example(layout, _read(file, length), _text(group))
        if left:
            raise self._error(f"it has {left:,} bytes after its last case")
        if Extent.of(layouts) != header.extent:
            raise self._error("its header says other dtypes, sizes or shapes than its cases have")

    def _error(self, what: str) -> CaseFileError:
        return CaseFileError(str(self.path), f"{what}; make it again with `mxcheck cases`")

    def _refused(self, layout: Layout, length: int, left: int) -> str:
        """Why a case is not read, from its numbers alone; empty if it is."""
        size, block = layout.block_size, block_format(self.header.cell.format)
        own = size >= 1 if block.scale == E8M0 else size == (block.block_size or 0)
        if layout.dtype not in _DTYPE_BITS.values():
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
        dtype = next(dtype for dtype, bit in _DTYPE_BITS.items() if bit == layout.dtype)
        integers, words = _INTEGERS[4 if layout.dtype == 1 else 2]
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
    """The shape of a case's tensor, with as few axes as say it, and the one that blocks run along."""
    if layout.inner == 1:
        return (layout.outer, layout.columns), -1
    if layout.outer == 1:
        return (layout.columns, layout.inner), 0
    return (layout.outer, layout.columns, layout.inner), 1


def open_cases(path: Path) -> CasesFile:
    """A file of cases, its header and digest checked.

    Raises:
        CaseFileError: it is none, is truncated, or was changed.
        FileNotFoundError: there is none.
    """
    again = "; make one with `mxcheck cases FORMAT RULE > FILE`"
    if path.exists() and not path.is_file():  # a pipe can be read only once
        raise CaseFileError(str(path), f"it is no regular file{again}")
    with path.open("rb") as file:
        size = path.stat().st_size
        first = bytes(_read(file, min(size, _HEADER.size)))
        _check_start(str(path), first, CASES, _HEADER.size, f"file of cases{again}")
        _, _, digest, cases, length, *rest = _HEADER.unpack(first)
        if size != _HEADER.size + length:
            short = size < _HEADER.size + length
            raise CaseFileError(
                str(path),
                f"it {'is truncated' if short else 'goes on after its last case'}: its header says "
                f"{_HEADER.size + length:,} bytes, it has {size:,}{again}",
            )
        computed = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            computed.update(chunk)
    computed.update(first[_DIGESTED:])
    if computed.digest() != digest:
        raise CaseFileError(str(path), f"its bytes are not those that its digest is of{again}")
    try:
        header = _header(digest, cases, length, rest)
    except ValueError as error:
        raise CaseFileError(str(path), f"{told(error)}{again}") from error
    return CasesFile(path=path, header=header)


def _header(digest: bytes, cases: int, length: int, rest: Sequence[bytes | int]) -> Header:
    """Raises ValueError for a cast that there is not."""
    names = [_text(one) for one in rest if isinstance(one, bytes)]
    counts = [one for one in rest if isinstance(one, int)]
    name, rule, rounding, nonfinite, level = names
    cell = Cell(format=name, scale_rule=rule, rounding=rounding, nonfinite=nonfinite)
    cell.spec()
    choose("level", level, LEVELS[:-1])
    if not cases or cases * _CASE.size > length:
        raise ValueError(f"it has {cases:,} cases in {length:,} bytes")
    extent = Extent._make([*counts[:-_BLOCK_SIZES], tuple(counts[-_BLOCK_SIZES:])])
    return Header(cell=cell, level=level, digest=digest, cases=cases, length=length, extent=extent)


def _check_start(name: str, first: bytes, magic: bytes, size: int, what: str) -> None:
    """Refuse a file that does not begin as its kind does."""
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


# --- reading results


#: What a program gives for a case: codes and scales, values, or why it does not do it.
Answer = tuple[Tensor, ...] | Tensor | str


@dataclass(slots=True)
class ResultsReader:
    """The results of a program, one after the other as its cases are.

    Raises:
        CaseFileError: of each method, for results that are none of these cases.
    """

    file: BinaryIO
    name: str
    header: Header
    answered: int = 0

    def start(self) -> None:
        """Read its header."""
        first = bytes(_read(self.file, _RESULTS.size))
        what = "results: they begin with MXRESULT, the version, the digest and the number of the cases"
        _check_start(self.name, first, RESULTS, _RESULTS.size, what)
        _, _, digest, cases = _RESULTS.unpack(first)
        if digest != self.header.digest:
            raise CaseFileError(
                self.name,
                f"it answers other cases: their digest is {digest.hex()[:16]}…, that of these cases "
                f"{self.header.digest.hex()[:16]}…; run the program on these",
            )
        if cases != self.header.cases:
            raise CaseFileError(self.name, f"it has {cases:,} answers to {self.header.cases:,} cases")

    def answer(self, case: Example) -> Answer:
        """The answer to the next case."""
        at = f"answer {self.answered:,}"
        first = _read(self.file, _ANSWER.size)
        if len(first) < _ANSWER.size:
            raise CaseFileError(
                self.name,
                f"it ends after {self.answered:,} of {self.header.cases:,} answers",
                too_short=True,
            )
        number, kind, length = _ANSWER.unpack(first)
        if number != self.answered:
            raise CaseFileError(
                self.name, f"{at} says that it is of case {number:,}; answers come in the order of the cases"
            )
        if kind not in (REFUSED, PARTS, VALUES):
            raise CaseFileError(
                self.name,
                f"{at} is of the kind {kind:,}; allowed: 0 (not supported), 1 (codes and scales), 2 (values)",
            )
        sizes = _sizes(case, kind)
        if kind == REFUSED and length > _LONGEST_REASON:
            raise CaseFileError(
                self.name, f"{at} has a reason of {length:,} bytes; allowed: {_LONGEST_REASON:,}"
            )
        if kind != REFUSED and length != sum(sizes.values()):
            parts = ", ".join(f"{size:,} of {what}" for what, size in sizes.items())
            raise CaseFileError(
                self.name, f"{at} has {length:,} bytes; expected {sum(sizes.values()):,}: {parts}"
            )
        data = _read(self.file, length)
        if len(data) < length:
            raise CaseFileError(
                self.name,
                f"it is truncated: {at} has {len(data):,} of its {length:,} bytes",
                too_short=True,
            )
        self.answered += 1
        if kind == REFUSED:
            return one_line(data.decode("utf-8", "replace")) or "no reason given"
        return _values(case, data) if kind == VALUES else _parts(case, data)

    def end(self) -> None:
        """Refuse what comes after the last answer."""
        if rest := _read(self.file, 24):
            raise CaseFileError(
                self.name, f"it goes on after the last of {self.answered:,} answers, with {got(bytes(rest))}"
            )


def _sizes(case: Example, kind: int) -> dict[str, int]:
    """What an answer consists of, in bytes."""
    elements = case.x.numel()
    if kind == VALUES:
        return {"values": elements * case.x.element_size()}
    scales = math.prod(scales_shape(tuple(case.x.shape), case.spec))
    wide = 4 if case.spec.block.scale == FP32 else 1
    sizes = {"codes": elements, "scales": wide * scales}
    return {**sizes, "tensor scale": 4} if case.spec.block.scale == E4M3 else sizes


def _values(case: Example, data: bytearray) -> Tensor:
    integers, words = _INTEGERS[case.x.element_size()]
    numbers = np.frombuffer(data, words.replace("u", "i"))
    return torch.from_numpy(numbers).view(integers).view(case.x.dtype).view(case.x.shape)


def _parts(case: Example, data: bytearray) -> tuple[Tensor, ...]:
    shape = tuple(case.x.shape)
    sizes = _sizes(case, PARTS)
    shapes = (shape, scales_shape(shape, case.spec), ())
    parts, start = [], 0
    for (what, size), own in zip(sizes.items(), shapes, strict=False):
        wide = what == "tensor scale" or (what == "scales" and case.spec.block.scale == FP32)
        words = np.frombuffer(data, "<f4" if wide else "u1", size // (4 if wide else 1), start)
        # A copy where it does not begin at a word.
        parts.append(torch.from_numpy(words.copy()).view(own))
        start += size
    return tuple(parts)


def returned(answer: Answer) -> tuple[Tensor, ...] | Tensor:
    """An answer as a kernel returns it. Raises NotSupported where it is a refusal."""
    if isinstance(answer, str):
        raise NotSupported(answer)
    return answer


def _read(file: BinaryIO, size: int) -> bytearray:
    """So many bytes, or fewer where the file ends. A pipe gives them by and by."""
    data = bytearray()
    while len(data) < size and (more := file.read(min(size - len(data), _CHUNK))):
        data += more
    return data


def _text(field: bytes) -> str:
    return one_line(field.rstrip(b"\0").decode("utf-8", "replace"))
