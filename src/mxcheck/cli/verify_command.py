"""`mxcheck verify`: compare the results of a program in any language with the oracle bit by bit."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mxcheck.cli.cases_command import (
    RULE_HELP,
    add_domain_options,
    asked_cell,
    asked_examples,
    domain_options,
    words_of,
)
from mxcheck.conformance.cases.group_names import MOST_GROUPS, group_in_words, shown_groups
from mxcheck.conformance.verify.conditions import LAST_BIT
from mxcheck.kernels.registry import PROGRAM
from mxcheck.reporting.matrix import cell_text, nothing_compared
from mxcheck.reporting.screen import say

if TYPE_CHECKING:
    from mxcheck.conformance.programs.answers import Compared
    from mxcheck.conformance.programs.case_files import CasesFile
    from mxcheck.conformance.shrink.shrinker import Counterexample

# Maximum number of reasons shown for which a program refuses cases.
_MOST_REASONS = 8


def add_commands(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser(
        "verify",
        usage="mxcheck verify CASES RESULTS\n       mxcheck verify --command COMMAND FORMAT [RULE] [options]",
        help="compare the results of a program in any language with the oracle",
        description="Compare the results of a program for the inputs of `mxcheck cases` with the exact "
        "oracle. With --command, mxcheck runs the program, which reads inputs from its standard input and "
        "writes results to its standard output; it is run again to find the smallest input of each cause. "
        "Exit code 0 if every bit is right; 1 if a bit is wrong, nothing was compared or the program failed; "
        "2 for bad input.",
    )
    command.add_argument("first", metavar="CASES | FORMAT", help="a file of cases; with --command a format")
    command.add_argument(
        "second",
        nargs="?",
        metavar="RESULTS | RULE",
        help=f"a file of results, - for the standard input; with --command a rule, {RULE_HELP}",
    )
    command.add_argument(
        "--command",
        help="the program and its arguments, quoted: './my_cast --fast'. No shell is used",
    )
    command.add_argument(
        "--time-limit",
        type=float,
        metavar="SECONDS",
        help="end the program after this time without output, or on a single case (default: 60)",
    )
    command.add_argument(
        "--run-limit",
        type=float,
        metavar="SECONDS",
        help="end a run over all cases after this time (default: 3600)",
    )
    add_domain_options(command)
    command.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    if options.command is None:
        return _verify_files(options)

    from mxcheck.conformance.programs.program import program

    asked = program(options.command, **_limits(options))
    cell = asked_cell(options.first, options.second)
    level, examples = asked_examples(options, cell)

    from mxcheck.conformance.identify import looks_like
    from mxcheck.conformance.programs.answers import compare_program, shrunk_examples
    from mxcheck.conformance.programs.case_files import open_cases, write_cases
    from mxcheck.kernels.usual_settings import check_subnormals, usual_settings

    check_subnormals()
    with usual_settings(), tempfile.TemporaryDirectory(prefix="mxcheck-") as folder:
        path = Path(folder) / "cases"
        with path.open("wb") as file:
            write_cases(file, cell, level, examples)
        cases = open_cases(path)
        held = compare_program(asked, cases, Path(folder))
        wrong = held.elements > 0 and not _right(held)
        found = shrunk_examples(asked, held) if wrong else []
        likeness = looks_like(asked, cell) if wrong and not held.failure else ""
    if likeness:
        say(f"mxcheck: {options.command} {likeness}")
    return _told(options.command, cases, held, _examples(found, f"{PROGRAM}{options.command}"))


_LIMITS = ("time_limit", "run_limit")


def _limits(options: argparse.Namespace) -> dict[str, float]:
    """Return the given limits. Raises ValueError for an invalid one."""
    given = {name: value for name in _LIMITS if (value := getattr(options, name)) is not None}
    for name, value in given.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} is a number of seconds above 0, got {value:g}")
    return given


def _verify_files(options: argparse.Namespace) -> int:
    given = [*domain_options(options), *(f"--{name.replace('_', '-')}" for name in _limits(options))]
    if given:
        raise ValueError(f"{', '.join(given)} goes with --command; a file of cases has its own")
    if options.second is None:
        raise ValueError(
            "verify takes a file of cases and a file of results, or --command with a format and a rule; "
            f"got {options.first!r} alone"
        )

    from mxcheck.conformance.programs.answers import compare_results, cut_examples
    from mxcheck.conformance.programs.case_files import open_cases
    from mxcheck.conformance.programs.case_header import CaseFileError
    from mxcheck.conformance.programs.case_results import ResultsReader
    from mxcheck.kernels.usual_settings import check_subnormals, usual_settings

    check_subnormals()
    cases = open_cases(Path(options.first))
    piped, path = options.second == "-", Path(options.second)
    if not piped and path.exists() and not path.is_file():
        raise CaseFileError(str(path), "it is no regular file; - reads results from the standard input")
    name = "the standard input" if piped else str(path)
    with usual_settings(), sys.stdin.buffer if piped else path.open("rb") as file:
        held = compare_results(cases, ResultsReader(file=file, name=name, header=cases.header))
        found = [] if _right(held) else cut_examples(held)
    lines = _examples(found, None)
    if found:
        lines.append(
            f"cut out of the cases as they are; mxcheck verify --command './my_cast' "
            f"{' '.join(words_of(cases.header))} asks again for smaller ones"
        )
    return _told(name, cases, held, lines)


def _right(held: Compared) -> bool:
    """Return whether no bit is wrong; the last bit of values whose scale has a significand does not count."""
    return {kind for kinds in held.counts.values() for kind in kinds} <= {LAST_BIT}


def _told(name: str, cases: CasesFile, held: Compared, lines: list[str]) -> int:
    """Print the result. Returns the exit code."""
    header = cases.header
    if held.stderr:
        say(f"mxcheck: {name} wrote on stderr: {held.stderr}", error=True)
    if held.failure:
        say(f"mxcheck: {name} failed: {held.failure}", error=True)
    refused = list(held.refused.items())
    for reason, (number, elements) in refused[:_MOST_REASONS]:
        say(f"mxcheck: {name} does not do {number:,} cases ({elements:,} elements): {reason}")
    if others := [counted for _, counted in refused[_MOST_REASONS:]]:
        number, elements = (sum(counts) for counts in zip(*others, strict=True))
        say(f"mxcheck: {name} does not do {number:,} cases ({elements:,} elements), for other reasons")
    if not held.elements:
        red = nothing_compared(name, next(iter(held.refused), ""))
        say(f"mxcheck: {red} ({header.cell.id}, {header.level})")
        return 1
    whole = "" if held.cases == header.cases else f" of {header.cases:,}"
    compared = f"{header.level}, {held.elements:,} elements of {held.cases:,}{whole} cases"
    if refused:
        left_out = sum(elements for _, (_, elements) in refused)
        compared += f"; {left_out:,} elements were refused and not compared"
    if _right(held):
        last = sum(kinds.get(LAST_BIT, 0) for kinds in held.counts.values())
        verdict = cell_text({"verdict": LAST_BIT if last else "exact", "unsupported": held.refused})
        told = f"{verdict}: {last:,} values differ in it, which is not wrong" if last else verdict
        told = "no bit differs in what it gave" if held.failure and not last else told
        say(f"mxcheck: {name}, {header.cell.id}: {told} ({compared})")
        return 1 if held.failure else 0
    title, *examples = lines or [""]
    say(f"mxcheck: {name}, {header.cell.id}: differs from the oracle ({compared}){title}")
    for line in [*examples, *_tallies(held)]:
        say(line)
    return 1


def _tallies(held: Compared) -> list[str]:
    """Return the differences in the groups with the most, and the total of the others."""
    groups = sorted(held.counts.items(), key=lambda one: -sum(one[1].values()))
    lines = [f"{group_in_words(group)}: {_counted(kinds)}" for group, kinds in groups]
    others: Counter[str] = Counter()
    for _, kinds in groups[MOST_GROUPS:]:
        others.update(kinds)
    return shown_groups(lines, f": {_counted(others)}")


def _counted(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} x {kind}" for kind, count in kinds.items())


def _examples(found: list[tuple[str, Counterexample]], kernel: str | None) -> list[str]:
    """Return the end of the title, and the lines of each cause."""
    from mxcheck.conformance.failure_text import describe, summary

    lines = [f"; causes: {summary([one for _, one in found])}"] if found else []
    for group, one in found:
        lines += describe(group, one, kernel, too_long=", which are not shown")
    return lines
