"""The plugin's part for the kernel suite: its kernels, cells and parameters."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.narrowing import EVERYTHING, Narrowing
from mxcheck.conformance.findings import Finding
from mxcheck.formats.aliases import aliases_of, precision_of
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.kernels.names_in_source import check_has
from mxcheck.kernels.registry import HOUSE, OWN, PRODUCTS, Implementation, implementation, implementations
from mxcheck.run.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelCase:
    """A kernel under test, and the cast that it must compute."""

    implementation: Implementation
    cell: Cell
    level: str
    narrowing: Narrowing = EVERYTHING

    @property
    def id(self) -> str:
        return f"{self.implementation.name}-{self.cell.id}"

    @property
    def other_ids(self) -> tuple[str, ...]:
        """Its former ids, which `-k` accepts as well."""
        return tuple(f"{self.implementation.name}-{former}" for former in self.cell.former_ids)


def make_importable(settings: Settings, *, started_in: Path, root: Path) -> None:
    """Make the named modules importable: add to sys.path, for a kernel `module:function`, the folder in which
    pytest was started, as `python -m pytest` does and the bare command does not; and the checkout of
    microxcaling.

    Raises:
        ValueError: it is no checkout of it.
    """
    named = (*settings.kernels, *settings.metrics)
    if any(":" in name for name in named) and str(started_in) not in sys.path:
        sys.path.insert(0, str(started_in))
    if settings.microxcaling:
        _find_microxcaling(settings.microxcaling, root)


def _find_microxcaling(path: str, root: Path) -> None:
    checkout = root / path
    if not (checkout / "mx" / "mx_ops.py").is_file():
        raise ValueError(
            f"--mx-microxcaling={path}: no checkout of microxcaling, there is no file mx/mx_ops.py in it; "
            f"name the folder that `git clone` made"
        )
    if str(checkout) not in sys.path:
        sys.path.append(str(checkout))


def chosen(settings: Settings) -> tuple[list[Implementation], list[tuple[Implementation, str]]]:
    """Return the kernels of this run, and those that cannot be called here with the reason for each.

    Raises:
        ValueError: an implementation that was named on the command line is unknown or not installed.
    """
    named = [implementation(name) for name in settings.kernels]
    absent = [(one, reason) for one in named if (reason := one.missing()) is not None]
    if absent:
        raise ValueError(f"--mx-kernel={absent[0][0].name}: {absent[0][1]}")
    if named:
        return named, []
    everything = [one for one in implementations().values() if not one.named_only]
    missing = [(one, reason) for one in everything if (reason := one.missing()) is not None]
    return [one for one in everything if one.missing() is None], missing


def check_findable(named: list[Implementation], *, collected: list[Path]) -> None:
    """Refuse a kernel whose module is missing, or lacks the function. Nothing is imported, so for a package
    only the outermost one is searched for.

    Args:
        collected: directories to search too: during collection pytest adds a test file's directory to
            sys.path.

    Raises:
        ValueError: there is no such module, or no such function in it.
    """
    for one in named:
        module, _, function = one.target.partition(":")
        top = module.partition(".")[0]
        if not top:
            raise ValueError(f"--mx-kernel={one.target}: give the module in full, without a dot before it")
        if top in sys.modules:
            continue
        if (spec := find_spec(top)) is not None:
            if module == top:
                check_has(spec, function)
            continue
        later = (
            found
            for folder in collected
            for end in ("", "/__init__")
            for found in folder.rglob(f"{top}{end}.py")
        )
        if next(later, None) is None:
            raise ValueError(
                f"--mx-kernel={one.target}: there is no module {top!r} on sys.path; start pytest in its "
                f"directory, or put that on PYTHONPATH"
            )


def format_marks(name: str) -> list[pytest.MarkDecorator]:
    """Return the marks of a case of this format, by our name and by the field's, for `-m` and `-k`."""
    return [getattr(pytest.mark, one) for one in (name, *aliases_of(name))]


def kernel_cases(settings: Settings) -> list[Any]:
    """Return the parameters of the conformance test; a missing kernel becomes one skip."""
    present, missing = chosen(settings)
    found = [
        pytest.param(case, id=case.id, marks=format_marks(cell.format))
        for one in present
        for cell in settings.narrowing.cells(settings.level)
        for case in [
            KernelCase(implementation=one, cell=cell, level=settings.level, narrowing=settings.narrowing)
        ]
    ]
    return found + [
        pytest.param(None, id=f"{one.name}-missing", marks=[pytest.mark.skip(reason=reason)])
        for one, reason in missing
    ]


def implementation_cases(settings: Settings) -> list[Any]:
    """Return the parameters of the test of many calls: our own kernels and those from packages; peers only if
    named. Our functions that return values are those that our kernels call for values."""
    found = chosen(settings)[0]
    if not settings.kernels:
        found = [one for one in found if one.name in OWN or not (one.cpu_only or one.name in HOUSE)]
    return [pytest.param(one, id=one.name) for one in found]


def finding_cases(settings: Settings, findings: tuple[Finding, ...]) -> list[Any]:
    """Return the parameters of the test of findings: those of this run's kernels."""
    names = [one.name for one in chosen(settings)[0]]
    found = [pytest.param(one, id=one.name) for one in findings if one.implementation in names]
    skip = pytest.mark.skip(reason=f"no finding is known of {', '.join(names)}")
    return found or [pytest.param(None, id="no-finding", marks=[skip])]


def product_cases(settings: Settings) -> list[Any]:
    """Return the parameters of the tests of products: the kernels that have one, among the named ones if
    any."""
    names = [name for name in PRODUCTS if not settings.kernels or name in settings.kernels]
    skip = pytest.mark.skip(reason=f"only {', '.join(PRODUCTS)} have a matrix product here")
    found = [pytest.param(name, id=name) for name in names]
    return found or [pytest.param(None, id="no-product", marks=[skip])]


def layout_cases(settings: Settings) -> list[Any]:
    """Return the parameters of the tests of layouts: the formats with one scale for each block, unless none
    of the named kernels is ours."""
    if settings.kernels and not set(settings.kernels) & {*OWN}:
        skip = pytest.mark.skip(reason="the tests of layouts are of mxcheck's own code: --mx-kernel=eager")
        return [pytest.param(None, id="all-formats", marks=[skip])]
    names = [name for name, block in BLOCK_FORMATS.items() if block.block_size is not None]
    return [pytest.param(name, id=precision_of(name), marks=format_marks(name)) for name in names]
