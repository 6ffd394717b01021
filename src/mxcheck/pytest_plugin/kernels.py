"""The kernel suite's side of the plugin: which implementations and cells, and what a result means for a
test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mxcheck.conformance.cells import Cell, cells
from mxcheck.conformance.findings import Finding, findings_of, judge
from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.kernels.registry import Implementation, implementation, implementations
from mxcheck.pytest_plugin.options import Settings

#: Counterexamples in a failure message; the report has more.
_MOST_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCase:
    """An implementation in the middle, and the cast that it is asked for."""

    implementation: Implementation
    cell: Cell
    level: str

    @property
    def id(self) -> str:
        return f"{self.implementation.name}-{self.cell.id}"


def find_microxcaling(path: str, root: Path) -> None:
    """Make the checkout that `--mx-microxcaling` names importable.

    Raises:
        ValueError: it is no checkout of it.
    """
    checkout = root / path
    if not (checkout / "mx" / "mx_ops.py").is_file():
        raise ValueError(
            f"--mx-microxcaling {path}: no checkout of microxcaling, there is no file mx/mx_ops.py in it; "
            f"name the folder that `git clone` made"
        )
    if str(checkout) not in sys.path:
        sys.path.append(str(checkout))


def chosen(settings: Settings) -> tuple[list[Implementation], list[tuple[Implementation, str]]]:
    """The implementations of this run, and those that cannot be called here, each with the reason.

    Raises:
        ValueError: an implementation that was named on the command line is unknown or not installed.
    """
    named = [implementation(name) for name in settings.kernels]
    absent = [(one, reason) for one in named if (reason := one.missing()) is not None]
    if absent:
        raise ValueError(f"--mx-kernel {absent[0][0].name}: {absent[0][1]}")
    if named:
        return named, []
    everything = list(implementations().values())
    missing = [(one, reason) for one in everything if (reason := one.missing()) is not None]
    return [one for one in everything if one.missing() is None], missing


def kernel_cases(settings: Settings) -> list[Any]:
    """Parameters of the conformance test, an implementation that is missing among them as one skip."""
    present, missing = chosen(settings)
    level = "full" if settings.level == "exhaustive" else settings.level
    found = [
        pytest.param(case, id=case.id, marks=[getattr(pytest.mark, cell.format)])
        for one in present
        for cell in cells(level)
        for case in [KernelCase(implementation=one, cell=cell, level=level)]
    ]
    return found + [
        pytest.param(None, id=f"{one.name}-missing", marks=[pytest.mark.skip(reason=reason)])
        for one, reason in missing
    ]


def finding_cases(settings: Settings, findings: tuple[Finding, ...]) -> list[Any]:
    """Parameters of the test of findings: those of this run's implementations."""
    names = [one.name for one in chosen(settings)[0]]
    return [pytest.param(one, id=one.name) for one in findings if one.implementation in names]


def exhaustive_cases(settings: Settings) -> list[Any]:
    """Parameters of the exhaustive test: one skip unless it was asked for."""
    if settings.level != "exhaustive":
        skip = pytest.mark.skip(reason="2^32 inputs a format: asked for with --mx-level exhaustive")
        return [pytest.param(None, id="all-formats", marks=[skip])]
    return [pytest.param(name, id=name) for name in ELEMENT_FORMATS]


@dataclass(slots=True)
class KernelBench:
    """One worker's implementations, loaded once each; an implementation that cannot be loaded stays so."""

    loaded: dict[str, Callable[..., Any] | str] = field(default_factory=dict)

    def kernel(self, one: Implementation) -> Callable[..., Any]:
        """The function. Fails the test, in one line, where there is none."""
        from mxcheck.kernels.api import load_target

        if one.name not in self.loaded:
            try:
                self.loaded[one.name] = load_target(one.target)
            except Exception as error:  # noqa: BLE001  (a user's module may raise anything at import)
                text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
                self.loaded[one.name] = f"mxcheck: {one.name} cannot be loaded: {text}"
        function = self.loaded[one.name]
        if isinstance(function, str):
            pytest.fail(function, pytrace=False)
        return function

    def hold(self, case: KernelCase) -> tuple[dict[str, Any], str, str]:
        """(row of the matrix, verdict, message) of a case."""
        from mxcheck.conformance.describe import as_data, describe
        from mxcheck.conformance.run import counterexamples, run_cell

        name, kernel = case.implementation.name, self.kernel(case.implementation)
        result = run_cell(kernel, case.cell, case.level)
        verdict, changes = judge(name, case.cell.id, case.level, result.counts)
        smallest = counterexamples(kernel, result) if verdict == "red" else []
        known = findings_of(name, case.cell.id)
        row: dict[str, Any] = {
            "implementation": name,
            "version": case.implementation.version(),
            "format": case.cell.format,
            "rule": case.cell.rule,
            "level": case.level,
            "elements": result.elements,
            "reason": result.reason,
            "unsupported": result.unsupported,
            "mismatches": result.counts,
            "findings": {finding.name: finding.cause for finding in known} if verdict != "exact" else {},
            "counterexamples": [
                {"group": group, **as_data(one, _argument(case.implementation))} for group, one in smallest
            ],
        }
        if result.reason is not None:
            return {**row, "verdict": "unsupported"}, "unsupported", result.reason
        lines = [f"mxcheck: {case.id} differs from the oracle ({case.level}, {result.elements:,} elements)"]
        if known:
            lines.append(f"known findings: {', '.join(finding.name for finding in known)}; what is new:")
        lines += changes
        for group, one in smallest[:_MOST_SHOWN]:
            lines += describe(group, one, _argument(case.implementation))
        return {**row, "verdict": verdict}, verdict, "\n".join(lines)


def _argument(one: Implementation) -> str:
    return one.name if one.name in implementations() else one.target
