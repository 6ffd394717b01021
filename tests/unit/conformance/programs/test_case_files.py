"""Files of cases and of results: what is written can be read, and whatever else a file holds is refused."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
from case_programs import CASE, HEADER, answered, rewritten, sealed
from torch import Tensor

from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.conformance.cases.generator import Example, example, examples
from mxcheck.conformance.programs.answers import compare_results
from mxcheck.conformance.programs.case_files import open_cases, packed_case, write_cases
from mxcheck.conformance.programs.case_header import CaseFileError
from mxcheck.conformance.programs.case_results import ResultsReader
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.domain import Domain
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager

CELL = Cell(format="fp8_e4m3", scale_rule="floor")
#: Where things stand in a file: fields of the header, and of the first case.
CASES, LENGTH, FORMAT, RULE, LEVEL, DTYPES, BLOCK_SIZES = 48, 56, 64, 80, 128, 144, 224
NUMBER, DTYPE, SIZE, OUTER, COLUMNS, INNER, BYTES = (HEADER + 8 * at for at in range(7))


def numbered(value: object, numbers: Iterator[int] = count()) -> str | None:  # noqa: B008
    """Functions have no names to tell them by."""
    return f"{next(numbers)}" if callable(value) else None


def three() -> Iterator[Example]:
    """A ragged matrix, a bf16 vector and blocks along an axis between two others."""
    x = torch.arange(-99.0, 99).view(6, 33)
    yield example("ragged", x, CELL)
    yield example("vector", torch.ones(64, dtype=torch.bfloat16), CELL, block_size=16)
    yield example("between", torch.arange(192.0).view(2, 32, 3) / 7, CELL, axis=1)


def made(cell: Cell = CELL, some: Callable[[], Iterator[Example]] = three) -> bytes:
    file = io.BytesIO()
    write_cases(file, cell, "quick", some())
    return file.getvalue()


def put(folder: Path, data: bytes) -> Path:
    path = folder / "cases.bin"
    path.write_bytes(data)
    return path


def refused_cases(folder: Path, data: bytes) -> str:
    """What reading all of it says."""
    with pytest.raises(CaseFileError) as caught:
        list(open_cases(put(folder, data)).examples())
    said = str(caught.value)
    assert said.startswith(f"{folder / 'cases.bin'}: ")
    assert said.isprintable()
    return said


def refused_results(folder: Path, data: bytes) -> str:
    cases = open_cases(put(folder, made()))
    with pytest.raises(CaseFileError) as caught:
        compare_results(cases, ResultsReader(file=io.BytesIO(data), name="r", header=cases.header))
    assert str(caught.value).isprintable()
    return str(caught.value).removeprefix("r: ")


# what is written


def test_what_is_written_is_read(tmp_path: Path) -> None:
    cases = open_cases(put(tmp_path, made()))
    read = list(cases.examples())
    for one, before in zip(read, three(), strict=True):
        assert one.group == before.group
        assert one.x.dtype == before.x.dtype
        assert torch.equal(one.x.flatten(), before.x.flatten())
    assert [tuple(one.x.shape) for one in read] == [(6, 33), (1, 64), (2, 32, 3)]
    assert [one.spec.axis for one in read] == [-1, -1, 1]
    assert (cases.header.cell, cases.header.level, cases.header.cases) == (CELL, "quick", 3)
    assert cases.header.extent._asdict() == {
        "dtypes": 3,
        "ragged": 1,
        "least_rows": 1,
        "most_rows": 6,
        "rows_multiple": 1,
        "least_columns": 32,
        "most_columns": 64,
        "columns_multiple": 1,
        "most_inner": 3,
        "most_elements": 198,
        "block_sizes": (16, 32, 0, 0),
    }


def test_the_first_axis_and_strides(tmp_path: Path) -> None:
    """A contiguous copy, with as few axes as say it."""
    x = torch.arange(320.0).view(5, 64).T

    def one() -> Iterator[Example]:
        yield example("first", x, CELL, axis=0)

    (read,) = open_cases(put(tmp_path, made(some=one))).examples()
    assert read.x.is_contiguous()
    assert torch.equal(read.x, x)
    assert read.spec.axis == 0


def test_random_integers(tmp_path: Path) -> None:
    cell = Cell(format="fp8_e4m3", scale_rule="floor", rounding="stochastic")
    x = torch.ones(2, 32)
    random = torch.tensor([0, 1, 2**31, 2**32 - 1]).repeat(16).view(2, 32)

    def one() -> Iterator[Example]:
        yield Example(group="random", x=x, spec=cell.spec(random=random))

    (read,) = open_cases(put(tmp_path, made(cell, one))).examples()
    assert read.spec.random is not None
    assert read.spec.random.dtype == torch.int64
    assert torch.equal(read.spec.random, random)


@pytest.mark.parametrize(
    "name",
    ["mxfp8_e4m3-floor-stochastic", "mxint8-ceil", "nvfp4-amax", "e4m3_row-amax", "e5m2_tensor-amax"],
)
@pytest.mark.parametrize("values", [False, True], ids=["codes", "values"])
def test_our_own_cast_is_exact(name: str, values: bool, tmp_path: Path) -> None:
    """Of each kind of format, through the files."""
    cell = next(one for one in cells("full") if one.id == name)
    domain = Domain(axes=(-1, 0, 1), dtypes=(torch.bfloat16,))
    written = made(cell, lambda: examples(cell, "quick", domain))
    cases = open_cases(put(tmp_path, written))
    kernel = fake_quantize_eager if values else quantize_eager
    results = answered(written, kernel, values=values)
    held = compare_results(cases, ResultsReader(file=io.BytesIO(results), name="r", header=cases.header))
    assert {kind for kinds in held.counts.values() for kind in kinds} <= {"last bit"}
    assert held.counts == {} or name == "nvfp4-amax"
    assert held.cases == cases.header.cases
    assert not held.refused


def test_there_must_be_a_case() -> None:
    with pytest.raises(ValueError, match=r"no input of mxfp8_e4m3-floor is left"):
        made(some=lambda: iter(()))


def test_four_block_sizes_at_most() -> None:
    def five() -> Iterator[Example]:
        for size in (8, 16, 32, 64, 128):
            yield example("one", torch.ones(1, size), CELL, block_size=size)

    with pytest.raises(ValueError, match="of 4 block sizes at most"):
        made(some=five)


# files of cases that are refused


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda _: b"", "it is empty, and is no file of cases"),
        (lambda _: b"hello\x1b[2J world", "it begins with b'hello\\x1b[2J world', and is no file of cases"),
        (lambda data: data[:100], "it is truncated: 100 bytes of a header of 256"),
        (
            lambda data: rewritten(data, 8, 2),
            "it is of version 2 of the format; this mxcheck reads version 1",
        ),
        (lambda data: data[:-1], "it is truncated: its header says"),
        (lambda data: data + b"\n", "it goes on after its last case: its header says"),
        (lambda data: data.replace(b"\n", b"\r\n", 1), "and is no file of cases"),
        (lambda data: data[:-1] + b"\x01", "its bytes are not those that its digest is of"),
        (lambda data: rewritten(data, CASES, 2), "its bytes are not those that its digest is of"),
    ],
    ids=numbered,
)
def test_a_file_that_is_no_whole_file_of_cases(
    change: Callable[[bytes], bytes], why: str, tmp_path: Path
) -> None:
    said = refused_cases(tmp_path, change(made()))
    assert why in said
    assert "mxcheck cases" in said or "version" in said or "header of" in said


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (CASES, 0, "it has 0 cases in"),
        (CASES, 2**63, "it has 9,223,372,036,854,775,808 cases in"),
        (CASES, 2, "bytes after its last case"),
        (CASES, 4, "it has 4 cases, and ends in case 3"),
        (FORMAT, 0x39, "unknown format '9p8_e4m3'"),
        (RULE, 0x39, "unknown scale rule of fp8_e4m3 '9'"),
        (LEVEL, 0x39, "unknown level '9'"),
        (DTYPES, 7, "its header says other dtypes, sizes or shapes than its cases have"),
        (BLOCK_SIZES, 33, "case 1 has the block size 16"),
        (NUMBER, 1, "case 0 says that it is case 1"),
        (DTYPE, 3, "case 0 has the dtype 3; allowed: 1 (float32), 2 (bfloat16), 4 (float16)"),
        (SIZE, 2**40, "case 0 has the block size 1,099,511,627,776, which its header or its format"),
        (SIZE, 0, "case 0 has the block size 0, which its header or its format does not have"),
        (OUTER, 0, "case 0 has no elements: 0 x 33 x 1"),
        (OUTER, 2**60, "elements, more than the 268,435,456 that are read"),
        (OUTER, 5, "case 0 says that it has 792 bytes; its shape and dtype take 660"),
        (
            BYTES,
            2**60,
            "case 0 says that it has 1,152,921,504,606,846,976 bytes; its shape and dtype take 792",
        ),
    ],
)
def test_a_file_whose_numbers_are_wrong(at: int, value: int, why: str, tmp_path: Path) -> None:
    """With the digest that it has to have: somebody wrote it so."""
    data = made()
    if at in (FORMAT, LEVEL, RULE):
        data = data[:at] + bytes([value]) + data[at + 1 :]
        data = data[: at + 1] + bytes(15) + data[at + 16 :] if at != FORMAT else data
    else:
        data = rewritten(data, at, value)
    assert why in refused_cases(tmp_path, sealed(data))


def test_a_case_that_is_longer_than_the_file(tmp_path: Path) -> None:
    """Nothing is allocated for it."""
    data = rewritten(rewritten(made(), OUTER, 2**20), BYTES, 4 * 33 * 2**20)
    assert "case 0 has 138,412,032 bytes, and the file only" in refused_cases(tmp_path, sealed(data))


def test_blocks_that_would_be_filled_up_without_end(tmp_path: Path) -> None:
    data = rewritten(rewritten(made(), SIZE, 2**40), BLOCK_SIZES + 8, 2**40)
    assert "case 0 has 198 elements, more than the" in refused_cases(tmp_path, sealed(data))


def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(CaseFileError, match="it is no regular file"):
            open_cases(path)
    with pytest.raises(FileNotFoundError):
        open_cases(tmp_path / "none")


# results that are refused

FIRST = 56  # the first answer


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda _: b"", "it is empty, and is no results"),
        (lambda _: b"4 blocks done\n", "it begins with b'4 blocks done\\n', and is no results"),
        (lambda data: data[:20], "it is truncated: 20 bytes of a header of 56"),
        (lambda data: rewritten(data, 8, 3), "it is of version 3 of the format"),
        (lambda data: rewritten(data, 16, 3), "it answers other cases: their digest is 0300000000000000…"),
        (lambda data: rewritten(data, 48, 4), "it has 4 answers to 3 cases"),
        (lambda data: data[:FIRST], "it ends after 0 of 3 answers"),
        (lambda data: data[: FIRST + 10], "it ends after 0 of 3 answers"),
        (lambda data: data[:-5], "it is truncated: answer 2 has 193 of its 198 bytes"),
        (lambda data: data + b"done\n", "it goes on after the last of 3 answers, with b'done\\n'"),
        (lambda data: rewritten(data, FIRST, 1), "answer 0 says that it is of case 1; answers come in the"),
        (lambda data: rewritten(data, FIRST + 8, 9), "answer 0 is of the kind 9; allowed: 0 (not supported)"),
        (
            lambda data: rewritten(data, FIRST + 16, 2**60),
            "answer 0 has 1,152,921,504,606,846,976 bytes; expected 210: 198 of codes, 12 of scales",
        ),
        (
            lambda data: rewritten(rewritten(data, FIRST + 8, 2), FIRST + 16, 198),
            "answer 0 has 198 bytes; expected 792: 792 of values",
        ),
        (
            lambda data: rewritten(rewritten(data, FIRST + 8, 0), FIRST + 16, 1001),
            "answer 0 has a reason of 1,001 bytes; allowed: 1,000",
        ),
    ],
    ids=numbered,
)
def test_results_that_are_none_of_these_cases(
    change: Callable[[bytes], bytes], why: str, tmp_path: Path
) -> None:
    assert why in refused_results(tmp_path, change(answered(made())))


def test_results_of_other_cases(tmp_path: Path) -> None:
    """Even where only a number of the input is another one."""

    def others() -> Iterator[Example]:
        for one in three():
            x = one.x.clone()
            x.view(-1)[0] += 1
            yield Example(group=one.group, x=x, spec=one.spec)

    assert "it answers other cases" in refused_results(tmp_path, answered(made(some=others)))


# what is held


def test_a_wrong_bit_and_a_refusal(tmp_path: Path) -> None:
    """Each in the case where it is; the reason is printable."""

    def wrong(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        codes[-1, -1, -1] ^= 2
        return codes, scales

    cases = open_cases(put(tmp_path, made()))
    mixed = answered(made(), wrong)
    head = answered(made(), refuse="no \x1b[2J \xff ragged tails")
    length = int.from_bytes(head[FIRST + 16 : FIRST + 24], "little")
    data = head[: FIRST + 24 + length] + mixed[FIRST + 24 + 210 :]
    held = compare_results(cases, ResultsReader(file=io.BytesIO(data), name="r", header=cases.header))
    assert held.counts == {"vector": {"code": 1}, "between": {"code": 1}}
    ((reason, counted),) = held.refused.items()
    assert reason.isprintable()
    assert counted == (1, 198)
    assert (held.cases, held.elements) == (2, 64 + 192)


def test_a_case_has_no_padding() -> None:
    """The page of the format says where everything stands."""
    (first, *_) = three()
    case = packed_case(0, first)
    assert len(case) == CASE + 4 * 198
    assert struct.unpack_from("<7Q", case) == (0, 1, 32, 6, 33, 1, 792)
    assert case[56:CASE].rstrip(b"\0") == b"ragged"
    assert struct.unpack_from("<f", case, CASE) == (-99.0,)
