"""One worker's kernels under test, and the verdict of each test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mxcheck.files.printed import raised
from mxcheck.kernels.registry import Implementation
from mxcheck.pytest_plugin.kernels import KernelCase

if TYPE_CHECKING:
    from mxcheck.conformance.run import CellResult


class NotLoadedError(ValueError):
    """A kernel that cannot be loaded, in one line; `told` if a test of this worker has reported it."""

    def __init__(self, text: str, *, told: bool) -> None:
        super().__init__(text)
        self.told = told


@dataclass(slots=True)
class KernelBench:
    """One worker's kernels, loaded once each; a failed load is not repeated."""

    device: str = "cpu"
    loaded: dict[str, Callable[..., Any] | str] = field(default_factory=dict)
    told: bool = False

    def kernel(self, one: Implementation) -> Callable[..., Any]:
        """Return the function.

        Raises:
            NotLoadedError: there is none.
        """
        from mxcheck.conformance.devices import on_device
        from mxcheck.kernels.api import load_target
        from mxcheck.kernels.device_choice import resolve_device
        from mxcheck.kernels.usual_settings import check_subnormals, usual_settings

        told = one.name in self.loaded
        if not told:
            try:
                device = "cpu" if one.cpu_only else resolve_device(self.device)
                with usual_settings():  # isolate settings that a module changes at import
                    self.loaded[one.name] = on_device(load_target(one.target), device)
                    check_subnormals()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  (a user's module may raise anything: a skip, too)
                self.loaded[one.name] = f"mxcheck: {one.name} cannot be loaded: {raised(error)}"
        function = self.loaded[one.name]
        if isinstance(function, str):
            raise NotLoadedError(function, told=told)
        return function

    def check_process(self) -> None:
        """Raise NotLoadedError where this process cannot compare anything."""
        from mxcheck.kernels.usual_settings import check_subnormals

        try:
            check_subnormals()
        except ValueError as error:
            told, self.told = self.told, True
            raise NotLoadedError(f"mxcheck: {error}", told=told) from error

    def many_calls(self, one: Implementation, level: str) -> tuple[int, list[str]]:
        """Return how often a kernel was called with the same numbers, and lines on results that changed
        during the calls, with two threads, or with two callers. The first supported cell of `level` is used.

        Raises:
            NotLoadedError: there is no such function.
            NotSupported: it does none of the cells.
        """
        from mxcheck.conformance.many_calls import (
            at_two_threads,
            callers_as_they_like,
            changed_afterwards,
            first_cell,
            many_calls,
        )

        kernel = self.kernel(one)
        asking, wrong = first_cell(kernel, level)
        calls, found = 1, [wrong]
        if not wrong:
            many = many_calls(one.name if one.name == "eager" else kernel, asking)
            calls = many.calls
            found = [
                *many.found,
                *at_two_threads(kernel, asking),
                *callers_as_they_like(kernel, asking),
                *changed_afterwards(kernel, asking),
            ]
        return calls, [f"mxcheck: {one.name}, {asking.cell.id}: {line}" for line in found]

    def hold(self, case: KernelCase) -> tuple[dict[str, Any], str, str]:
        """Return (row of the matrix, verdict, message) of a case. The verdict is `red`, `unsupported`,
        `known`, `exact`, `last bit` (only values in the last place of formats whose scale has a significand),
        or `told`: an error that failed another case already."""
        from mxcheck.conformance.describe import as_data
        from mxcheck.conformance.held_cell import argument, hold_cell

        name = case.implementation.name
        row: dict[str, Any] = {
            "implementation": name,
            "version": case.implementation.version(),
            "format": case.cell.format,
            "rule": case.cell.rule,
            "level": case.level,
            "elements": 0,
            "reason": None,
            "unsupported": {},
            "domain": "",
            "mismatches": {},
            "findings": {},
            "counterexamples": [],
        }
        try:
            kernel = self.kernel(case.implementation)
        except NotLoadedError as error:
            return {**row, "verdict": "error"}, "told" if error.told else "red", str(error)
        held = hold_cell(kernel, case.implementation, case.cell, case.level, case.narrowing)
        result, verdict = held.result, held.verdict
        row |= {
            "elements": result.elements,
            "reason": result.reason,
            "unsupported": result.unsupported,
            "domain": _domain_in_words(result),
            "mismatches": result.counts,
            "findings": {finding.name: finding.cause for finding in held.known}
            if verdict in ("known", "red")
            else {},
            "counterexamples": [
                {"group": group, **as_data(one, argument(case.implementation))}
                for group, one in held.smallest
            ],
        }
        if result.reason is not None:
            return {**row, "verdict": "unsupported"}, "unsupported", result.reason
        row["verdict"] = "error" if verdict == "red" and held.only_errors else verdict
        lines = held.lines(case.implementation, f"mxcheck: {case.id}", case.level) if verdict == "red" else []
        told = [f"mxcheck: {case.id} {held.likeness}"] if held.likeness else []
        return row, verdict, "\n".join([*told, *lines])


def _domain_in_words(result: CellResult) -> str:
    if not result.domain or result.learned is None:
        return result.domain
    because = f" ({'; '.join(result.learned)})" if result.learned else ""
    return f"learned: {result.domain}{because}"
