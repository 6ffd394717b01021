"""Judge a cell of a named implementation: the verdict, and the lines of a red cell."""

from __future__ import annotations

from dataclasses import dataclass

from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.group_names import groups_in_words, shown_groups
from mxcheck.conformance.cases.narrowing import EVERYTHING, Narrowing
from mxcheck.conformance.cell_run import CellResult, counterexamples, run_cell
from mxcheck.conformance.failure_text import describe, summary
from mxcheck.conformance.findings import (
    UNEXPLAINED,
    Finding,
    compare_with_known,
    findings_of,
    known_counts,
)
from mxcheck.conformance.identify import looks_like
from mxcheck.conformance.shrink.counterexample import Counterexample
from mxcheck.files.printed import printable
from mxcheck.kernels.api import Kernel
from mxcheck.kernels.registry import Implementation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ComparedCell:
    """A cell of one implementation, compared with the oracle and with its known mismatches.

    Attributes:
        verdict: `unsupported`, `exact`, `last bit`, `known` or `red`; see `findings.compare_with_known`.
        changes: differences from the known counts.
        smallest: (group, counterexample) of each cause, if red.
        likeness: `looks like ...`, if red and another rule explains it.
        known: the findings of the cell.
    """

    result: CellResult
    verdict: str
    changes: tuple[str, ...]
    smallest: tuple[tuple[str, Counterexample], ...]
    likeness: str
    known: tuple[Finding, ...]

    @property
    def only_errors(self) -> bool:
        """True if there is no result to compare."""
        return {kind for kinds in self.result.counts.values() for kind in kinds} == {"error"}

    def first_example(self, of: Implementation) -> tuple[str, ...]:
        """Return the lines of the first counterexample of a red cell."""
        group, first = self.smallest[0]
        return tuple(map(printable, describe(group, first, argument(of))))

    def lines(self, of: Implementation, name: str, level: str) -> list[str]:
        """Return the lines of a red cell. `name` is the cell's name in them."""
        if self.only_errors and not any("error" in finding.kinds for finding in self.known):
            title = f"{name} ({level}) has no result to compare for {groups_in_words(self.result.counts)}"
            changes: list[str] = []
        else:
            title = f"{name} differs from the oracle ({level}, {self.result.elements:,} elements)"
            title += f"; causes: {summary([one for _, one in self.smallest])}" if self.smallest else ""
            by_group = not any(change.startswith(UNEXPLAINED) for change in self.changes)
            changes = shown_groups(self.changes) if by_group else list(self.changes)
            if self.known:
                known = ", ".join(finding.name for finding in self.known)
                changes.insert(0, f"known findings: {known}; what is new:")
        lines = [title]
        # The same error is reported once, whatever the group.
        told: dict[str, tuple[str, Counterexample]] = {}
        for number, (group, one) in enumerate(self.smallest):
            told.setdefault(one.comparison.error or str(number), (group, one))
        for group, one in told.values():
            lines += describe(group, one, argument(of))
        some_errors = any(one.kind == "error" for _, one in self.smallest) and not self.only_errors
        if some_errors and self.result.learned is not None:
            lines.append(
                "what a kernel is not made for it declares (@mxcheck.domain) or refuses (raise "
                "mxcheck.NotSupported)"
            )
        return lines + changes


def compare_cell(
    kernel: Kernel, of: Implementation, cell: Cell, level: str, narrowing: Narrowing = EVERYTHING
) -> ComparedCell:
    """Run a cell through the kernel of an implementation, and judge the result."""
    recorded = bool(known_counts(of.name, cell.id, level))
    result = run_cell(kernel, cell, level, narrowing, as_recorded=recorded)
    known = findings_of(of.name, cell.id)
    if result.reason is not None:
        return ComparedCell(
            result=result, verdict="unsupported", changes=(), smallest=(), likeness="", known=known
        )
    verdict, changes = compare_with_known(
        of.name, cell.id, level, result.counts, every_example=narrowing.every_example
    )
    red = verdict == "red"
    return ComparedCell(
        result=result,
        verdict=verdict,
        changes=tuple(changes),
        smallest=tuple(counterexamples(kernel, result)) if red else (),
        likeness=looks_like(kernel, cell) if red else "",
        known=known,
    )


def argument(one: Implementation) -> str:
    """Return the command-line argument that names an implementation."""
    # One that is not registered has the name that `registry.implementation` makes of its target.
    return one.target if one.name == one.target.replace(":", ".") else one.name
