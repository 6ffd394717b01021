"""`mxcheck formats`: the formats and their properties, as tables, from the formats' data alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from mxcheck.formats.blocks import BLOCK_FORMATS, E4M3, E8M0, BlockFormat
from mxcheck.formats.codes import E8M0_BIAS, E8M0_NAN, finite_codes, scale_values
from mxcheck.formats.elements import ELEMENT_FORMATS, ElementFormat
from mxcheck.formats.spec import DIALECTS, ROUNDINGS
from mxcheck.reporting.numbers import multiple
from mxcheck.reporting.tables import titled_table

#: Least width at which no cell is cut.
WIDTH = 110
_BLOCK_SCALE_BITS = 8  # e8m0 and e4m3
_NONE = "-"


def tables(width: int) -> tuple[Table, ...]:
    """Return all tables for a console of this width, which is at least `WIDTH`."""
    padding = 2 if width >= 120 else 1
    return elements_table(padding), blocks_table(padding), dialects_table(padding)


def _experimental() -> str:
    return ", ".join(one.name for one in ELEMENT_FORMATS.values() if one.experimental)


def elements_table(padding: int = 2) -> Table:
    """Return a table with one row for each element format, and for E8M0, the format of their scales."""
    table = _table(
        "Elements (OCP MX v1.0, section 5.3), and the scale E8M0 (5.4)",
        "bits: sign/exponent/mantissa; emax: exponent of max; range: max over the smallest positive value\n"
        "mxint8: two's complement in steps of 2^-6; its code 80 (-2) is read but never written, nor counted "
        f"here\n{_experimental()}: experimental, not in the specification",
        padding,
    )
    table.add_column("format", no_wrap=True)
    for name in ("bits", "bias", "emax", "max", "min\nnormal", "subnormals"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("NaN", "Inf"):
        table.add_column(name, no_wrap=True)
    for name in ("finite\ncodes", "range\ndB"):
        table.add_column(name, justify="right", no_wrap=True)
    for element in ELEMENT_FORMATS.values():
        table.add_row(*_element(element))
    table.add_section()
    powers = scale_values()[:E8M0_NAN]
    table.add_row(
        "e8m0 (scale)",
        "8: 0/8/0",
        str(E8M0_BIAS),
        str(E8M0_BIAS),
        multiple(powers[-1]),
        multiple(powers[0]),
        _NONE,
        f"{E8M0_NAN:02X}",
        _NONE,
        str(len(powers)),
        _decibels(powers[-1], powers[0]),
    )
    return table


def _element(element: ElementFormat) -> list[str]:
    integer = element.twos_complement
    last_subnormal = element.min_normal - element.min_subnormal
    if integer:
        subnormals = f"step {multiple(element.min_subnormal)}"
    elif not element.mantissa_bits:
        subnormals = _NONE
    elif last_subnormal == element.min_subnormal:
        subnormals = multiple(last_subnormal)
    else:
        subnormals = f"{multiple(element.min_subnormal)} … {multiple(last_subnormal)}"
    # Without mantissa bits the field 0 holds only zero, and the smallest positive value is normal.
    least = element.min_subnormal if element.mantissa_bits else element.min_normal
    fields = f"1/{element.exponent_bits}/{element.mantissa_bits}"
    return [
        element.name,
        f"{element.bits}: {'int' if integer else fields}",
        _NONE if integer else str(element.bias),
        str(element.emax),
        multiple(element.max_value),
        _NONE if integer else multiple(element.min_normal),
        subnormals,
        _codes(element, element.nan_magnitudes),
        _codes(element, element.inf_magnitudes),
        str(len(finite_codes(element))),
        _decibels(element.max_value, least),
    ]


def _codes(element: ElementFormat, magnitudes: Sequence[int] | frozenset[int]) -> str:
    """Format special codes of either sign: neighbours as a range."""
    if not magnitudes:
        return _NONE
    signs = [[code | sign for code in sorted(magnitudes)] for sign in (0, element.sign_bit)]
    return ", ".join(
        f"{codes[0]:02X}" if len(codes) == 1 else f"{codes[0]:02X}-{codes[-1]:02X}" for codes in signs
    )


def _decibels(largest: float, smallest: float) -> str:
    return f"{20 * math.log10(largest / smallest):.1f}"


def blocks_table(padding: int = 2) -> Table:
    """Return a table with one row for each format of a cast."""
    table = _table(
        "Formats of a cast",
        "bits/element: with its share of its block's scale, without fp32 scales\n"
        "vs fp32: times smaller; scale rules: the default first\n"
        f"roundings: {ROUNDINGS[0]} (default), {', '.join(ROUNDINGS[1:])} with e8m0 scales, {ROUNDINGS[0]} "
        "with others",
        padding,
    )
    for name in ("format", "elements", "scale", "a scale for"):
        table.add_column(name, no_wrap=True)
    for name in ("bits/\nelement", "vs\nfp32"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("scale rules", no_wrap=True)
    kind = E8M0
    for block in BLOCK_FORMATS.values():
        if block.scale != kind:
            table.add_section()
            kind = block.scale
        table.add_row(*_block(block))
    return table


def _block(block: BlockFormat) -> list[str]:
    bits = float(block.element.bits)
    if block.block_size is None:
        shared = "a tensor" if block.whole_tensor else "a row"
    else:
        shared = f"{block.block_size} elements"
        bits += _BLOCK_SCALE_BITS / block.block_size
    return [
        block.name,
        block.element.name,
        f"{block.scale} · fp32" if block.scale == E4M3 else block.scale,
        shared,
        f"{bits:g}",
        f"{32 / bits:.2f}",
        " ".join(block.scale_rules),
    ]


def dialects_table(padding: int = 2) -> Table:
    """Return a table with one row for each dialect: its scale rule, rounding, and policy for NaN and Inf."""
    table = _table(
        "Dialects, of formats with E8M0 scales",
        "block: NaN or Inf makes its block NaN\nelement (FP8 only): a NaN stays,\nan Inf saturates",
        padding,
    )
    for name in ("dialect", "scale rule", "rounding", "NaN, Inf"):
        table.add_column(name, no_wrap=True)
    for name, bundle in DIALECTS.items():
        table.add_row(name, bundle["scale_rule"], bundle["rounding"], bundle["nonfinite"])
    return table


def _table(title: str, caption: str, padding: int) -> Table:
    return titled_table(title, caption, title_style="bold", padding=padding)
