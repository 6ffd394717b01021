"""`mxcheck cases`: the inputs of a cell for a program in any language."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from mxcheck.conformance.cases.cells import LEVELS, Cell, cells
from mxcheck.formats.aliases import choose_format
from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0
from mxcheck.formats.choices import choose

if TYPE_CHECKING:
    from mxcheck.conformance.cases.generator import Example
    from mxcheck.conformance.programs.case_header import Header
    from mxcheck.kernels.domain import Domain

# The last axis, the first, and one between two others.
_AXES = (-1, 0, 1)
_BLOCK_SIZES = (16, 32, 64, 128)
_COUNTS = ("least_rows", "rows_multiple", "least_columns", "columns_multiple")


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "cases",
        help="write the test inputs of a cast, for a program in any language",
        description="Write the inputs of a cast to the standard output, in a binary format that a short "
        "program reads (docs/cases.md); `mxcheck verify` compares its results with the oracle. Exit code 0, "
        "or 2 for bad input.",
    )
    command.add_argument("format", metavar="FORMAT", help="see `mxcheck formats`")
    command.add_argument("rule", nargs="?", metavar="RULE", help=RULE_HELP)
    add_domain_options(command)
    command.set_defaults(run=_cases)


RULE_HELP = "as in the name of a cell: floor, rceil, floor-away, … (default: the format's first)"


def add_domain_options(command: argparse.ArgumentParser) -> None:
    """Add the options for the level and the domain of a program."""
    command.add_argument("--level", help=f"{' or '.join(LEVELS)} (default: quick)")
    lists = (
        (
            "--dtype",
            "NAMES",
            "dtype of the inputs: float32, bfloat16, float16 (repeat or use commas; default: all)",
        ),
        ("--block-size", "SIZES", "elements that share a scale (default: 16, 32, 64, 128)"),
        (
            "--axis",
            "AXES",
            "axis that blocks run along: -1, 0, 1 (default: -1, the last)",
        ),
    )
    for name, metavar, words in lists:
        command.add_argument(name, action="append", default=[], metavar=metavar, help=words)
    for name in _COUNTS:
        counted = name.removeprefix("least_").removesuffix("_multiple")
        words = "at least N" if name.startswith("least") else "multiples of N"
        command.add_argument(
            f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"{words} {counted} (default: 1)"
        )
    command.add_argument(
        "--whole-blocks", action="store_true", help="only columns that the block size divides"
    )


def domain_options(options: argparse.Namespace) -> list[str]:
    """Return those options of `add_domain_options` that are given."""
    names = ("level", "dtype", "block_size", "axis", *_COUNTS, "whole_blocks")
    given = [name for name in names if getattr(options, name) not in (None, [], False)]
    return [f"--{name.replace('_', '-')}" for name in given]


def words_of(header: Header) -> list[str]:
    """Return the words of a command line that requests cases like those of a file."""
    from mxcheck.conformance.programs.case_header import DTYPE_BITS
    from mxcheck.kernels.domain import DTYPES

    extent, words = header.extent, [header.cell.format, header.cell.rule]
    if header.level != "quick":
        words.append(f"--level={header.level}")
    if extent.dtypes != sum(DTYPE_BITS.values()):
        words += [f"--dtype={name}" for name, dtype in DTYPES.items() if extent.dtypes & DTYPE_BITS[dtype]]
    sizes = [size for size in extent.block_sizes if size]
    if len(sizes) == 1 and header.cell.spec().block.scale == E8M0:
        words.append(f"--block-size={sizes[0]}")
    if extent.most_inner == 1:
        words.append("--axis=-1")
    for name in ("least_rows", "rows_multiple", "columns_multiple"):
        if (count := getattr(extent, name)) > 1:
            words.append(f"--{name.replace('_', '-')}={count}")
    return words if extent.ragged else [*words, "--whole-blocks"]


def asked_cell(format_name: str, rule: str | None) -> Cell:
    """Return the cell of a format and a rule.

    Raises:
        ValueError: there is none.
    """
    name = choose_format("format", format_name, BLOCK_FORMATS)
    found = {cell.rule: cell for cell in cells("full") if cell.format == name}
    return found[choose(f"rule of {name}", rule, found)] if rule is not None else next(iter(found.values()))


def asked_examples(options: argparse.Namespace, cell: Cell) -> tuple[str, Iterator[Example]]:
    """Return the level, and its examples in the domain of the options.

    Raises:
        ValueError: an option is not allowed.
    """
    level = choose("--level", options.level or "quick", LEVELS)

    from mxcheck.conformance.cases.generator import examples
    from mxcheck.conformance.verify.matrices import matrices

    domain = _domain(options, cell)
    # A file has contiguous copies: one copy of a matrix is enough.
    whole = (one.example for one in matrices(cell, level, replace(domain, contiguous=True)))
    return level, chain(examples(cell, level, domain), whole)


def _domain(options: argparse.Namespace, cell: Cell) -> Domain:
    """Return the domain. It includes inputs of any strides: otherwise their shapes would be missing from a
    file, which holds contiguous copies."""
    from mxcheck.kernels.domain import DTYPES, Domain

    dtypes = [DTYPES[choose("--dtype", name, DTYPES)] for name in _words(options.dtype)]
    sizes = _whole("--block-size", options.block_size)
    if sizes and cell.spec().block.scale != E8M0:
        raise ValueError(f"{cell.format} has one block size; leave --block-size out")
    if len(sizes) > 1 and not set(sizes) <= set(_BLOCK_SIZES):
        raise ValueError(f"--block-size is one size, or several of {', '.join(map(str, _BLOCK_SIZES))}")
    axes = _whole("--axis", options.axis) or [-1]
    for axis in axes:
        choose("--axis", str(axis), map(str, _AXES))
    given: dict[str, Any] = {name: value for name in _COUNTS if (value := getattr(options, name)) is not None}
    if dtypes:
        given["dtypes"] = tuple(dtypes)
    return Domain(
        **given,
        block_sizes=tuple(sizes) or None,
        axes=tuple(axes),
        ragged=not options.whole_blocks,
    )


def _words(texts: list[str]) -> list[str]:
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def _whole(option: str, texts: list[str]) -> list[int]:
    found = []
    for word in _words(texts):
        try:
            found.append(int(word))
        except ValueError:
            raise ValueError(f"{option} is a whole number, got {word!r}") from None
    return found


def _cases(options: argparse.Namespace) -> int:
    cell = asked_cell(options.format, options.rule)
    level, examples = asked_examples(options, cell)
    if sys.stdout.isatty():
        raise ValueError("cases are bytes, which a terminal cannot show; add > cases.bin, or | a program")

    from mxcheck.conformance.programs.case_files import write_cases

    with tempfile.TemporaryFile() as file:
        write_cases(file, cell, level, examples)
        file.seek(0)
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    return 0
