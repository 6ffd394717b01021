"""Block formats against a table typed in by hand."""

from __future__ import annotations

import pytest

from mxcheck.formats.blocks import BLOCK_FORMATS, E4M3, E8M0, FP32, BlockFormat, block_format
from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.formats.spec import SCALE_RULES

POWERS_OF_TWO = ("floor", "ceil", "even", "rceil")
# name: element, scale, block size, one scale a tensor, scale rules
TABLE = {
    "fp8_e4m3": ("fp8_e4m3", E8M0, 32, False, (*POWERS_OF_TWO, "reciprocal")),
    "fp8_e5m2": ("fp8_e5m2", E8M0, 32, False, (*POWERS_OF_TWO, "reciprocal")),
    "fp6_e3m2": ("fp6_e3m2", E8M0, 32, False, POWERS_OF_TWO),
    "fp6_e2m3": ("fp6_e2m3", E8M0, 32, False, POWERS_OF_TWO),
    "fp4_e2m1": ("fp4_e2m1", E8M0, 32, False, POWERS_OF_TWO),
    "mxint8": ("mxint8", E8M0, 32, False, ("floor", "ceil", "rceil")),
    "fp4_e3m0": ("fp4_e3m0", E8M0, 32, False, POWERS_OF_TWO),
    "nvfp4": ("fp4_e2m1", E4M3, 16, False, ("amax",)),
    "e4m3_tensor": ("fp8_e4m3", FP32, None, True, ("amax",)),
    "e4m3_row": ("fp8_e4m3", FP32, None, False, ("amax",)),
    "e5m2_tensor": ("fp8_e5m2", FP32, None, True, ("amax",)),
    "e5m2_row": ("fp8_e5m2", FP32, None, False, ("amax",)),
}


def test_the_table_is_complete() -> None:
    assert list(BLOCK_FORMATS) == list(TABLE)


@pytest.mark.parametrize("name", list(TABLE))
def test_data(name: str) -> None:
    block = block_format(name)
    data = (block.element.name, block.scale, block.block_size, block.whole_tensor, block.scale_rules)
    assert data == TABLE[name]
    assert block.name == name
    assert set(block.scale_rules) <= set(SCALE_RULES)


def test_an_elements_name_is_part_of_no_other_name() -> None:
    """So that `-k mxfp8_e4m3` means the MX format alone."""
    for element in ELEMENT_FORMATS:
        assert [name for name in BLOCK_FORMATS if element in name] == [element]


def test_a_format_is_hashable_data() -> None:
    block = BlockFormat(name="fp8_e4m3", element=ELEMENT_FORMATS["fp8_e4m3"])
    assert {block: 1}[block_format("fp8_e4m3")] == 1


def test_unknown_format() -> None:
    with pytest.raises(ValueError, match=r"unknown format 'nvfp'; allowed: .*did you mean 'nvfp4'") as caught:
        block_format("nvfp")
    assert "\n" not in str(caught.value)
