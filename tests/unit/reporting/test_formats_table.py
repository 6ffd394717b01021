"""The tables of formats, against the figures of OCP MX v1.0, typed in here by hand."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.formats.spec import DIALECTS
from mxcheck.reporting.formats_table import WIDTH, blocks_table, dialects_table, elements_table, tables

ELEMENTS = {
    "fp8_e4m3": ("8: 1/4/3", "7", "8", "448", "2^-6", "2^-9 … 7·2^-9", "7F, FF", "-", "254", "107.2"),
    "fp8_e5m2": (
        *("8: 1/5/2", "15", "15", "57344", "2^-14", "2^-16 … 3·2^-16"),
        *("7D-7F, FD-FF", "7C, FC", "248", "191.5"),
    ),
    "fp6_e3m2": ("6: 1/3/2", "3", "4", "28", "0.25", "0.0625 … 0.1875", "-", "-", "64", "53.0"),
    "fp6_e2m3": ("6: 1/2/3", "1", "2", "7.5", "1", "0.125 … 0.875", "-", "-", "64", "35.6"),
    "fp4_e2m1": ("4: 1/2/1", "1", "2", "6", "1", "0.5", "-", "-", "16", "21.6"),
    # 127/64; 256 codes, of which 80 is never written
    "mxint8": ("8: int", "-", "0", "1.984375", "-", "step 2^-6", "-", "-", "255", "42.1"),
    "fp4_e3m0": ("4: 1/3/0", "3", "4", "16", "0.25", "-", "-", "-", "16", "36.1"),
    "e8m0 (scale)": ("8: 0/8/0", "127", "127", "2^127", "2^-127", "-", "FF", "-", "255", "1529.2"),
}

RULES = "floor ceil even rceil"
BLOCKS = {
    "fp8_e4m3": ("fp8_e4m3", "e8m0", "32 elements", "8.25", "3.88", f"{RULES} reciprocal"),
    "fp8_e5m2": ("fp8_e5m2", "e8m0", "32 elements", "8.25", "3.88", f"{RULES} reciprocal"),
    "fp6_e3m2": ("fp6_e3m2", "e8m0", "32 elements", "6.25", "5.12", RULES),
    "fp6_e2m3": ("fp6_e2m3", "e8m0", "32 elements", "6.25", "5.12", RULES),
    "fp4_e2m1": ("fp4_e2m1", "e8m0", "32 elements", "4.25", "7.53", RULES),
    "mxint8": ("mxint8", "e8m0", "32 elements", "8.25", "3.88", "floor ceil rceil"),
    "fp4_e3m0": ("fp4_e3m0", "e8m0", "32 elements", "4.25", "7.53", RULES),
    "nvfp4": ("fp4_e2m1", "e4m3 · fp32", "16 elements", "4.5", "7.11", "amax"),
    "e4m3_tensor": ("fp8_e4m3", "fp32", "a tensor", "8", "4.00", "amax"),
    "e4m3_row": ("fp8_e4m3", "fp32", "a row", "8", "4.00", "amax"),
    "e5m2_tensor": ("fp8_e5m2", "fp32", "a tensor", "8", "4.00", "amax"),
    "e5m2_row": ("fp8_e5m2", "fp32", "a row", "8", "4.00", "amax"),
}


def rows(table: Table) -> dict[str, tuple[str, ...]]:
    """Its cells by those of the first column."""
    cells = zip(*(map(str, column.cells) for column in table.columns), strict=True)
    return {name: tuple(others) for name, *others in cells}


def test_elements() -> None:
    assert rows(elements_table()) == ELEMENTS
    assert [*ELEMENT_FORMATS, "e8m0 (scale)"] == list(ELEMENTS)


def test_headers() -> None:
    assert [str(column.header) for column in elements_table().columns] == [
        *("format", "bits", "bias", "emax", "max", "min\nnormal", "subnormals", "NaN", "Inf"),
        *("finite\ncodes", "range\ndB"),
    ]


def test_blocks() -> None:
    assert rows(blocks_table()) == BLOCKS
    assert list(BLOCK_FORMATS) == list(BLOCKS)


def test_dialects() -> None:
    table = rows(dialects_table())
    assert list(table) == list(DIALECTS)
    assert table["ocp"] == ("floor", "even", "block")
    assert table["te"] == ("reciprocal", "even", "element")


@pytest.mark.parametrize("width", [WIDTH, 119, 120, 160])
def test_nothing_is_cut_or_folded(width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    for table in tables(width):
        console.print(table)
    file = console.file
    assert isinstance(file, io.StringIO)
    text = file.getvalue()
    assert max(map(cell_len, text.splitlines())) <= width
    for expected in (ELEMENTS, BLOCKS):
        for name, cells in expected.items():
            line = next(
                line for line in text.splitlines() if all(cell in line for cell in (f" {name} ", *cells))
            )
            assert line.split()[0] == name.split()[0]
    assert "experimental, not in the specification" in text
