"""Formats that cannot be registered are refused at import, in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat, by_name, registered

E4M3 = ELEMENT_FORMATS["fp8_e4m3"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (replace(E4M3, name="wide", mantissa_bits=4), "element format 'wide' has 9 bits; allowed: 2 to 8"),
        (
            replace(E4M3, name="new", nan_magnitudes=frozenset({0x7E})),
            "'new': Inf and NaN must be its",
        ),
        (E4M3, "two formats are called 'fp8_e4m3'"),
    ],
    ids=["bits", "codes", "twice"],
)
def test_an_element_format(row: ElementFormat, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        registered(*ELEMENT_FORMATS.values(), row)


def test_a_block_format() -> None:
    row = BLOCK_FORMATS["nvfp4"]
    with pytest.raises(ValueError, match="two formats are called 'nvfp4'"):
        by_name(*BLOCK_FORMATS.values(), row)
    with pytest.raises(ValueError, match=r"^unknown scale of the format nvfp4 'e4m4'; .*did you mean 'e4m3'"):
        replace(row, scale="e4m4")
    with pytest.raises(ValueError, match=r"^format 'nvfp4' has the block size None and the scale e4m3; fp32"):
        replace(row, block_size=None)
