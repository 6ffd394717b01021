"""`mxcheck identify`: the scale rule, rounding and dialect that a kernel follows."""

from __future__ import annotations

import argparse
import traceback
from typing import TYPE_CHECKING, Any

from mxcheck.cli.named_kernel import KernelError, named_kernel
from mxcheck.formats.aliases import choose_format
from mxcheck.formats.choices import choose
from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.formats.spec import E8M0_RULES, ROUNDINGS
from mxcheck.reporting.screen import console, say

if TYPE_CHECKING:
    from mxcheck.conformance.identify import Identity

#: Without `amax` and `stochastic`, which have no alternatives to distinguish.
_DTYPES = ("float32", "bfloat16", "float16")
_RULES, _ROUNDINGS = E8M0_RULES, ROUNDINGS[:-1]
_WIDTH = 140


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "identify",
        help="tell which scale rule, rounding and dialect a kernel follows",
        description="Run a kernel on blocks for which known scale rules and roundings give different "
        "results, and count the differences from each. A kernel that takes rules and roundings as arguments "
        "is tested with each. Exit code 0 if every result matches one rule exactly, 1 if one matches only "
        "nearly or not at all, 2 for bad input.",
    )
    command.add_argument(
        "kernel",
        metavar="KERNEL",
        help="a name (eager, torchao, ...), package.module:function, or a program: "
        "'command:./my_cast --fast' (docs/cases.md)",
    )
    command.add_argument(
        "--format",
        action="append",
        default=[],
        metavar="NAMES",
        help="formats with E8M0 scales (repeat or use commas; default: the first that the kernel takes)",
    )
    command.add_argument(
        "--dtype",
        action="append",
        default=[],
        metavar="NAMES",
        help="dtype of the inputs: float32, bfloat16, float16 (repeat or use commas; default: all that the "
        "kernel takes)",
    )
    command.add_argument("--scale-rule", metavar="RULE", help=f"test only this one: {', '.join(_RULES)}")
    command.add_argument("--rounding", help=f"test only this one: {', '.join(_ROUNDINGS)}")
    command.set_defaults(run=_identify)


def _identify(options: argparse.Namespace) -> int:
    formats = [choose_format("--format", name, ELEMENT_FORMATS) for name in _names(options.format)]
    for name in (dtypes := _names(options.dtype)):
        choose("--dtype", name, _DTYPES)
    if options.scale_rule is not None:
        choose("--scale-rule", options.scale_rule, _RULES)
    if options.rounding is not None:
        choose("--rounding", options.rounding, _ROUNDINGS)
    try:
        kernel = named_kernel(options.kernel)
    except KernelError as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        raise ValueError(f"kernel {options.kernel}: {error}") from None

    from mxcheck.conformance.identify import identities
    from mxcheck.kernels.domain import DTYPES
    from mxcheck.kernels.usual_settings import usual_settings

    with usual_settings():
        found, refused = [], ""
        for name in formats or ELEMENT_FORMATS:
            for one in identities(
                kernel,
                name,
                scale_rule=options.scale_rule,
                rounding=options.rounding,
                dtypes=[DTYPES[dtype] for dtype in dtypes],
            ):
                if isinstance(one, str):
                    refused = refused or one
                else:
                    found.append(one)
            if found and not formats:
                break
    if refused and not found:
        asked = ", ".join(formats or ELEMENT_FORMATS)
        raise ValueError(
            f"kernel {options.kernel} gives no result to compare for any of {asked}: {refused}; it knows "
            f"formats with E8M0 scales"
        )
    if not found:
        wanted = [f"scale rule {options.scale_rule}"] if options.scale_rule else []
        wanted += [f"rounding {options.rounding}"] if options.rounding else []
        raise ValueError(
            f"no cell of {', '.join(formats or ELEMENT_FORMATS)} has {' and '.join(wanted)}; leave one out"
        )
    _print(_first_of_each(found))
    return 0 if all(one.best.exact for one in found) else 1


def _names(texts: list[str]) -> list[str]:
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def _first_of_each(found: list[Identity]) -> list[Identity]:
    """Return the first dtype of each cell, and those that look like another rule."""
    told: list[Identity] = []
    for one in found:
        of_cell = [other for other in told if other.cell == one.cell]
        if not any(other.agrees_with(one) for other in of_cell):
            told.append(one)
    return told


def _print(found: list[Identity]) -> None:
    from mxcheck.reporting.identity import asked_for, conclusion, identity_table

    lines = list(dict.fromkeys(conclusion(one) for one in found))
    if len(lines) == 1:
        say(lines[0])
    else:
        for one in found:
            say(f"{asked_for(one)}: {conclusion(one)}")
    output = console(at_least=_WIDTH)
    for one in found if len(lines) > 1 else found[:1]:
        output.print()
        output.print(identity_table(one))
