"""The kernel suite's side of the plugin: which implementations and cells, and what a result means for a
test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mxcheck.conformance.cells import Cell, cells
from mxcheck.conformance.findings import Finding, findings_of, judge
from mxcheck.formats.elements import ELEMENT_FORMATS
from mxcheck.kernels.registry import Implementation, implementation, implementations
from mxcheck.pytest_plugin.options import Settings

if TYPE_CHECKING:
    import torch

    from mxcheck.conformance.run import CellResult
    from mxcheck.conformance.shrinker import Counterexample
    from mxcheck.models.recipe import Recipe

#: Implementations with a matrix product of their own (`mxcheck.kernels.peers.products`), ours first.
PRODUCT_NAMES = ("eager", "torchao", "scaled_mm", "microxcaling")

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


def make_importable(settings: Settings, *, started_in: Path, root: Path) -> None:
    """Put on sys.path what the options name: for a kernel `module:function` the folder that pytest was
    started in, as `python -m pytest` does and the bare command does not; and the checkout of microxcaling.

    Raises:
        ValueError: it is no checkout of it.
    """
    if any(":" in name for name in settings.kernels) and str(started_in) not in sys.path:
        sys.path.insert(0, str(started_in))
    if settings.microxcaling:
        _find_microxcaling(settings.microxcaling, root)


def _find_microxcaling(path: str, root: Path) -> None:
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


def check_findable(named: list[Implementation], *, collected: list[Path]) -> None:
    """Refuse a kernel whose module is nowhere. Imports nothing, so looks for the outermost package only.

    Args:
        collected: directories that are searched too: pytest puts a test file's on sys.path as it collects.

    Raises:
        ValueError: there is no such module.
    """
    for one in named:
        top = one.target.partition(":")[0].partition(".")[0]
        if not top:
            raise ValueError(f"--mx-kernel {one.target}: give the module in full, without a dot before it")
        if top in sys.modules or find_spec(top) is not None:
            continue
        later = (
            found
            for folder in collected
            for end in ("", "/__init__")
            for found in folder.rglob(f"{top}{end}.py")
        )
        if next(later, None) is None:
            raise ValueError(
                f"--mx-kernel {one.target}: there is no module {top!r} on sys.path; start pytest in its "
                f"directory, or put that on PYTHONPATH"
            )


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
    found = [pytest.param(one, id=one.name) for one in findings if one.implementation in names]
    skip = pytest.mark.skip(reason=f"no finding is known of {', '.join(names)}")
    return found or [pytest.param(None, id="no-finding", marks=[skip])]


def product_cases(settings: Settings) -> list[Any]:
    """Parameters of the tests of products: what has one, of the implementations that were named if any."""
    names = [name for name in PRODUCT_NAMES if not settings.kernels or name in settings.kernels]
    skip = pytest.mark.skip(reason=f"only {', '.join(PRODUCT_NAMES)} have a matrix product here")
    found = [pytest.param(name, id=name) for name in names]
    return found or [pytest.param(None, id="no-product", marks=[skip])]


def exhaustive_cases(settings: Settings) -> list[Any]:
    """Parameters of the exhaustive test: one skip unless it was asked for."""
    if settings.level != "exhaustive":
        skip = pytest.mark.skip(reason="2^32 inputs a format: asked for with --mx-level exhaustive")
        return [pytest.param(None, id="all-formats", marks=[skip])]
    return [pytest.param(name, id=name) for name in ELEMENT_FORMATS]


def check_model_kernel(recipe: Recipe, *, like: torch.Tensor) -> None:
    """Call the cast of a model run once, on a small tensor of the dtype and device of `like`.

    Raises:
        ValueError: it does not do this, raises, or returns something else than codes and scales; in one line.
    """
    import torch

    from mxcheck.kernels.api import check_parts, resolve_kernel
    from mxcheck.models.probe import probe

    name, spec = recipe.kernel, recipe.spec(axis=-1)
    x = probe(2, 64).to(like.device, like.dtype)
    try:
        kernel = resolve_kernel(name)[0]
    except ValueError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"kernel {name} cannot be loaded: {_one_line(error)}") from error
    try:
        result = kernel(x, spec)
    except NotImplementedError as error:
        reason = str(error) or "no reason given"
        raise ValueError(
            f"kernel {name} does not do this: {reason}; leave such cases out with --mx-format"
        ) from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"kernel {name} raised {_one_line(error)}") from error
    if isinstance(result, torch.Tensor):
        raise ValueError(
            f"kernel {name} returns values; a model run needs codes and scales, because step 4 compares them"
        )
    try:
        check_parts(kernel, result, x, spec)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0]


class NotLoadedError(ValueError):
    """An implementation that cannot be loaded, in one line; `told` if a test of this worker said so."""

    def __init__(self, text: str, *, told: bool) -> None:
        super().__init__(text)
        self.told = told


@dataclass(slots=True)
class KernelBench:
    """One worker's implementations, loaded once each; an implementation that cannot be loaded stays so."""

    device: str = "cpu"
    loaded: dict[str, Callable[..., Any] | str] = field(default_factory=dict)

    def kernel(self, one: Implementation) -> Callable[..., Any]:
        """The function.

        Raises:
            NotLoadedError: there is none.
        """
        from mxcheck.conformance.devices import on_device, resolve_device
        from mxcheck.kernels.api import load_target

        told = one.name in self.loaded
        if not told:
            try:
                device = "cpu" if one.cpu_only else resolve_device(self.device)
                self.loaded[one.name] = on_device(load_target(one.target), device)
            except (Exception, SystemExit) as error:  # noqa: BLE001  (a user's module may raise anything)
                self.loaded[one.name] = f"mxcheck: {one.name} cannot be loaded: {_one_line(error)}"
        function = self.loaded[one.name]
        if isinstance(function, str):
            raise NotLoadedError(function, told=told)
        return function

    def hold(self, case: KernelCase) -> tuple[dict[str, Any], str, str]:
        """(row of the matrix, verdict, message) of a case. The verdict is `red`, `unsupported`, `known`,
        `exact`, or `told`: an error that another case failed with already."""
        from mxcheck.conformance.describe import as_data
        from mxcheck.conformance.run import counterexamples, run_cell

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
            "mismatches": {},
            "findings": {},
            "counterexamples": [],
        }
        try:
            kernel = self.kernel(case.implementation)
        except NotLoadedError as error:
            return {**row, "verdict": "error"}, "told" if error.told else "red", str(error)
        result = run_cell(kernel, case.cell, case.level)
        verdict, changes = judge(name, case.cell.id, case.level, result.counts)
        smallest = counterexamples(kernel, result) if verdict == "red" else []
        known = findings_of(name, case.cell.id)
        row |= {
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
        row["verdict"] = "error" if verdict == "red" and _only_errors(result) else verdict
        return row, verdict, "\n".join(_message(case, result, changes, smallest))


def _only_errors(result: CellResult) -> bool:
    return {kind for kinds in result.counts.values() for kind in kinds} == {"error"}


def _message(
    case: KernelCase, result: CellResult, changes: list[str], smallest: list[tuple[str, Counterexample]]
) -> list[str]:
    """Lines of a red case."""
    from mxcheck.conformance.describe import describe

    known = findings_of(case.implementation.name, case.cell.id)
    if _only_errors(result) and not any("error" in finding.kinds for finding in known):
        lines = [f"mxcheck: {case.id} ({case.level}) has no result to compare for {', '.join(result.counts)}"]
    else:
        lines = [f"mxcheck: {case.id} differs from the oracle ({case.level}, {result.elements:,} elements)"]
        if known:
            lines.append(f"known findings: {', '.join(finding.name for finding in known)}; what is new:")
        lines += changes
    told: dict[str, tuple[str, Counterexample]] = {}  # an error is the same one whatever the group
    for number, (group, one) in enumerate(smallest):
        told.setdefault(one.comparison.error or str(number), (group, one))
    for group, one in list(told.values())[:_MOST_SHOWN]:
        lines += describe(group, one, _argument(case.implementation))
    return lines


def _argument(one: Implementation) -> str:
    return one.name if one.name in implementations() else one.target
