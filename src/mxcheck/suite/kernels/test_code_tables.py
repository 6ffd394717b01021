"""Tests of the tables that both the oracle and our casts read, since an error there would affect both alike.

The expected figures are written down here, from OCP MX v1.0, section 5.3 and 5.4 (fp4_e3m0, which is not part
of it: sign, three bits of exponent with the bias 3, no mantissa).
"""

from __future__ import annotations

import math
from fractions import Fraction
from types import MappingProxyType

import pytest

from mxcheck.formats.aliases import precision_of

pytestmark = pytest.mark.usefixtures("mx_usual_settings")

#: (finite codes, codes of infinities, codes of NaN, largest, smallest normal, smallest subnormal or step,
#: exponent that `floor` subtracts)
_TABLES = MappingProxyType(
    {
        "fp8_e4m3": (254, set(), {0x7F, 0xFF}, 448, "2^-6", "2^-9", 8),
        "fp8_e5m2": (
            *(248, {0x7C, 0xFC}, {0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF}),
            *(57344, "2^-14", "2^-16", 15),
        ),
        "fp6_e3m2": (64, set(), set(), 28, "2^-2", "2^-4", 4),
        "fp6_e2m3": (64, set(), set(), Fraction(15, 2), "2^0", "2^-3", 2),
        "fp4_e2m1": (16, set(), set(), 6, "2^0", "2^-1", 2),
        "fp4_e3m0": (16, set(), set(), 16, "2^-2", "2^-2", 4),
        "mxint8": (256, set(), set(), Fraction(127, 64), "2^0", "2^-6", 0),
    }
)
#: Some codes of each format, and their values: both ends, and both sides of the step from subnormal to
#: normal.
_CODES = MappingProxyType(
    {
        "fp8_e4m3": {0x01: "1/512", 0x07: "7/512", 0x08: "1/64", 0x38: "1", 0x7E: "448", 0xFE: "-448"},
        "fp8_e5m2": {0x01: "1/65536", 0x03: "3/65536", 0x04: "1/16384", 0x3C: "1", 0x7B: "57344"},
        "fp6_e3m2": {0x01: "1/16", 0x03: "3/16", 0x04: "1/4", 0x0C: "1", 0x1F: "28", 0x3F: "-28"},
        "fp6_e2m3": {0x01: "1/8", 0x07: "7/8", 0x08: "1", 0x1F: "15/2", 0x3F: "-15/2"},
        "fp4_e2m1": {0x01: "1/2", 0x02: "1", 0x03: "3/2", 0x05: "3", 0x07: "6", 0x0F: "-6"},
        "fp4_e3m0": {0x01: "1/4", 0x03: "1", 0x07: "16", 0x0F: "-16"},
        "mxint8": {0x01: "1/64", 0x40: "1", 0x7F: "127/64", 0xFF: "-1/64", 0x81: "-127/64", 0x80: "-2"},
    }
)


@pytest.mark.parametrize("name", list(_TABLES), ids=precision_of)
def test_element_codes(name: str) -> None:
    from mxcheck.formats.codes import code_values
    from mxcheck.formats.elements import ELEMENT_FORMATS

    finite, infinities, nans, largest, normal, smallest, emax = _TABLES[name]
    element = ELEMENT_FORMATS[name]
    values = dict(enumerate(code_values(element)))
    exact = {code: Fraction(value) for code, value in values.items() if math.isfinite(value)}
    assert len(exact) == finite
    assert {code for code, value in values.items() if math.isinf(value)} == infinities
    assert {code for code, value in values.items() if math.isnan(value)} == nans
    assert max(exact.values()) == element.max_value == largest
    assert min(value for value in exact.values() if value > 0) == _power(smallest)
    assert Fraction(element.min_normal) == _power(normal)
    assert element.emax == emax
    assert {code: exact[code] for code in _CODES[name]} == {
        code: Fraction(text) for code, text in _CODES[name].items()
    }
    # Neighbouring codes of one sign differ by one step: as many values as codes, each larger than the last.
    positive = [value for code, value in exact.items() if code < element.sign_bit]
    assert positive == sorted(set(positive))


def test_scale_codes() -> None:
    from mxcheck.formats.codes import scale_values

    values = scale_values()
    assert len(values) == 256
    assert [values[code] for code in (0, 1, 126, 127, 128, 254)] == [
        *(2.0**-127, 2.0**-126, 0.5, 1.0, 2.0, 2.0**127),
    ]
    assert [code for code, value in enumerate(values) if not math.isfinite(value)] == [255]
    assert math.isnan(values[255])


def _power(text: str) -> Fraction:
    return Fraction(2) ** int(text.removeprefix("2^"))


@pytest.mark.parametrize(
    ("name", "element", "size"),
    [
        *(pytest.param(name, name, 32, id=precision_of(name)) for name in _TABLES),
        *(("nvfp4", "fp4_e2m1", 16), ("e4m3_row", "fp8_e4m3", None), ("e5m2_row", "fp8_e5m2", None)),
        *(("e4m3_tensor", "fp8_e4m3", None), ("e5m2_tensor", "fp8_e5m2", None)),
    ],
    ids=lambda value: str(value),
)
def test_block_formats(name: str, element: str, size: int | None) -> None:
    """Check the element format and the default block size of every block format."""
    from mxcheck.formats.blocks import BLOCK_FORMATS

    assert set(BLOCK_FORMATS) == {*_TABLES, "nvfp4", "e4m3_row", "e5m2_row", "e4m3_tensor", "e5m2_tensor"}
    assert (BLOCK_FORMATS[name].element.name, BLOCK_FORMATS[name].block_size) == (element, size)
