"""Format data against the table of OCP MX v1.0, section 5.3, typed in here by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mxcheck.formats.codes import finite_codes
from mxcheck.formats.elements import ELEMENT_FORMATS, element_format

# name: bits, bias, emax, max, min normal, min subnormal, finite codes (mxint8: without 80)
TABLE = {
    "fp8_e4m3": (8, 7, 8, 448.0, 2**-6, 2**-9, 254),
    "fp8_e5m2": (8, 15, 15, 57344.0, 2**-14, 2**-16, 248),
    "fp6_e3m2": (6, 3, 4, 28.0, 0.25, 0.0625, 64),
    "fp6_e2m3": (6, 1, 2, 7.5, 1.0, 0.125, 64),
    "fp4_e2m1": (4, 1, 2, 6.0, 1.0, 0.5, 16),
    "mxint8": (8, 1, 0, 127 / 64, 1.0, 1 / 64, 255),
    # no part of OCP MX v1.0; without mantissa bits there are no subnormals, and the least value is normal
    "fp4_e3m0": (4, 3, 4, 16.0, 0.25, 0.25, 16),
}


def test_the_table_is_complete() -> None:
    assert list(ELEMENT_FORMATS) == list(TABLE)


@pytest.mark.parametrize("name", list(TABLE))
def test_properties(name: str) -> None:
    element = ELEMENT_FORMATS[name]
    properties = (
        element.bits,
        element.bias,
        element.emax,
        element.max_value,
        element.min_normal,
        element.min_subnormal,
        len(finite_codes(element)),
    )
    assert properties == TABLE[name]
    assert element.name == name


def test_a_format_is_hashable_data() -> None:
    element = element_format("fp8_e4m3")
    assert {element: 1}[replace(element)] == 1


def test_a_new_format_is_a_new_row() -> None:
    """E2M2, which is not in the table: nothing but its data is needed."""
    e2m2 = replace(element_format("fp6_e2m3"), name="fp5_e2m2", mantissa_bits=2)
    assert (e2m2.bits, e2m2.emax, e2m2.max_value, e2m2.min_normal) == (5, 2, 7.0, 1.0)


def test_unknown_format() -> None:
    with pytest.raises(ValueError, match=r"'fp8_e4m4'.*fp8_e4m3.*mxint8.*did you mean 'fp8_e4m3'") as caught:
        element_format("fp8_e4m4")
    assert "\n" not in str(caught.value)
