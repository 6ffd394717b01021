"""The element formats of OCP Microscaling Formats (MX) v1.0, section 5.3, as data.

Standard library only: the plugin reads names from here while pytest is still collecting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, TypeVar

from mxcheck.formats.aliases import choose_format


class _Format(Protocol):
    @property
    def name(self) -> str: ...


Named = TypeVar("Named", bound=_Format)


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementFormat:
    """An element format. Every property below is derived, so a new format is a new row of the table.

    A *magnitude code* is a code without its sign. Magnitude codes are ordered as their values are:
    exponent field above mantissa field, exponent field 0 meaning zero and subnormals.

    mxint8 is a format with one exponent bit: bias 1 makes its two binades share the step 2^-6, so the
    magnitude code is the integer itself. Only its sign differs: two's complement, hence no -0, and a code 80
    (-2) that decoders accept and encoders never produce.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    inf_magnitudes: frozenset[int] = frozenset()
    nan_magnitudes: frozenset[int] = frozenset()
    twos_complement: bool = False
    experimental: bool = False  # not in OCP MX v1.0

    @property
    def bits(self) -> int:
        """Width of a code in bits, sign included."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def sign_bit(self) -> int:
        """The code with only its top bit set."""
        return 1 << (self.bits - 1)

    @property
    def max_magnitude(self) -> int:
        """Largest finite magnitude code."""
        return min(self.inf_magnitudes | self.nan_magnitudes, default=self.sign_bit) - 1

    @property
    def emin(self) -> int:
        """Exponent of the smallest normal number, and of the subnormals' binade."""
        return 1 - self.bias

    @property
    def emax(self) -> int:
        """Exponent of the largest normal number, which `floor` subtracts (OCP MX v1.0, section 6.3)."""
        return (self.max_magnitude >> self.mantissa_bits) - self.bias

    @property
    def max_value(self) -> float:
        """Largest finite value, exact."""
        fraction_mask = (1 << self.mantissa_bits) - 1
        return (1 + (self.max_magnitude & fraction_mask) / (fraction_mask + 1)) * 2.0**self.emax

    @property
    def min_normal(self) -> float:
        """Smallest positive normal value, exact. (For mxint8, whose step is uniform, the value 1.)"""
        return 2.0**self.emin

    @property
    def min_subnormal(self) -> float:
        """Smallest positive value, exact; also the step of the whole subnormal range."""
        return 2.0 ** (self.emin - self.mantissa_bits)

    @property
    def has_negative_zero(self) -> bool:
        """True if -0 has a code."""
        return not self.twos_complement


def by_name(*formats: Named) -> Mapping[str, Named]:
    """Return formats by name. Raises ValueError for two of one name."""
    found = {row.name: row for row in formats}
    if len(found) < len(formats):
        names = [row.name for row in formats]
        raise ValueError(f"two formats are called {next(one for one in names if names.count(one) > 1)!r}")
    return MappingProxyType(found)


def registered(*rows: ElementFormat) -> Mapping[str, ElementFormat]:
    """Return element formats by name. Raises ValueError for one that the casts cannot serve."""
    for row in rows:
        if not 2 <= row.bits <= 8 or row.exponent_bits < 1:
            raise ValueError(f"element format {row.name!r} has {row.bits} bits; allowed: 2 to 8")
        special = row.inf_magnitudes | row.nan_magnitudes
        if special != set(range(row.sign_bit - len(special), row.sign_bit)):
            raise ValueError(f"element format {row.name!r}: Inf and NaN must be its largest magnitude codes")
    return by_name(*rows)


ELEMENT_FORMATS: Mapping[str, ElementFormat] = registered(
    ElementFormat(
        name="fp8_e4m3", exponent_bits=4, mantissa_bits=3, bias=7, nan_magnitudes=frozenset({0x7F})
    ),
    ElementFormat(
        name="fp8_e5m2",
        exponent_bits=5,
        mantissa_bits=2,
        bias=15,
        inf_magnitudes=frozenset({0x7C}),
        nan_magnitudes=frozenset({0x7D, 0x7E, 0x7F}),
    ),
    ElementFormat(name="fp6_e3m2", exponent_bits=3, mantissa_bits=2, bias=3),
    ElementFormat(name="fp6_e2m3", exponent_bits=2, mantissa_bits=3, bias=1),
    ElementFormat(name="fp4_e2m1", exponent_bits=2, mantissa_bits=1, bias=1),
    ElementFormat(name="mxint8", exponent_bits=1, mantissa_bits=6, bias=1, twos_complement=True),
    # powers of two and zero
    ElementFormat(name="fp4_e3m0", exponent_bits=3, mantissa_bits=0, bias=3, experimental=True),
)


def element_format(name: str) -> ElementFormat:
    """Return the format called `name`, by us or by the field.

    Raises:
        ValueError: no such format; names the allowed ones and the nearest match.
    """
    return ELEMENT_FORMATS[choose_format("format", name, ELEMENT_FORMATS)]
