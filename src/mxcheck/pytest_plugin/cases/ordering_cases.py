"""The orderings of a run: select them, and compare the accepted baselines with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mxcheck.gate.baseline import BaselineError, read
from mxcheck.gate.case import Case
from mxcheck.gate.orderings import ORDERINGS, Deviation, Ordering, OrderingResult, Shown, compare, deviation
from mxcheck.gate.shipped import in_force
from mxcheck.pytest_plugin.options.mx_options import Options
from mxcheck.run.default_gate import WHOLE_LADDER
from mxcheck.run.laid_out_cases import chosen_precisions
from mxcheck.run.settings import Settings

#: Permitted results of a comparison for each expected one. An order that was undecided may become clear.
_ALLOWED: dict[Shown, tuple[Shown, ...]] = {
    "holds": ("holds",),
    "undecided": ("undecided", "holds"),
    "reversed": ("reversed",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOrdering:
    """An ordering on one of the reference models, and this model's exception, if any."""

    model: str
    ordering: Ordering
    exception: Deviation | None

    @property
    def id(self) -> str:
        return f"{self.model}-{self.ordering.id}"

    @property
    def cases(self) -> tuple[Case, Case]:
        lower, higher = (_case(self.model, name) for name in (self.ordering.lower, self.ordering.higher))
        return lower, higher


def _case(model: str, name: str) -> Case:
    precision, _, tier = name.rpartition("-")
    return Case(model=model, precision=precision, tier=tier)


def orderings_of(config: pytest.Config, run: Settings, parameter: str) -> list[ModelOrdering]:
    """Return the orderings of the run's reference models between its precisions, whatever the tiers: those
    that hold for `mx_ordering`, the exceptions for `mx_ordering_exception`.

    None where options change the cases, since the orderings were shown at the defaults. Only the options are
    read, so that every xdist worker collects the same tests.
    """
    precisions = chosen_precisions(Options(config), run.own)
    plain = {case.plain for case in run.cases if not case.options}
    if any(case.plain not in plain for case in run.cases):
        return []
    found = [
        ModelOrdering(model=model, ordering=one, exception=deviation(model, one))
        for model in WHOLE_LADDER
        if model in run.models
        for one in ORDERINGS
    ]
    return [
        one
        for one in found
        if {case.precision for case in one.cases} <= set(precisions)
        and (one.exception is not None) == (parameter == "mx_ordering_exception")
    ]


def compare_models(one: ModelOrdering, baselines: Path) -> OrderingResult:
    """Compare the accepted records of an ordering: skip where one is missing, fail where they show an
    unexpected result."""
    records = []
    for case in one.cases:
        path = in_force(baselines, case.baseline)
        if not path.is_file():
            pytest.skip(f"no accepted baseline {path} to order")
        try:
            records.append(read(path))
        except BaselineError as error:
            pytest.fail(str(error), pytrace=False)
    try:
        found = compare(*records)
    except ValueError as error:
        pytest.fail(f"{one.id}: {error}", pytrace=False)
    if message := unexpected_result(one, found):
        pytest.fail(message, pytrace=False)
    return found


def unexpected_result(one: ModelOrdering, found: OrderingResult) -> str:
    """Return the error in a comparison, in a few lines; empty where the result is expected."""
    expected: Shown = one.exception.shows if one.exception else "holds"
    if found.shows in _ALLOWED[expected]:
        return ""
    lines = [
        f"{one.id}: {found.shows}, expected: {expected} ({(one.exception or one.ordering).why})",
        f"  {found}",
    ]
    if one.exception is not None:
        lines.append("  this model is listed as an exception (mxcheck.gate.orderings.EXCEPTIONS): look why")
    lines.append(f"  baselines: {', '.join(case.baseline.as_posix() for case in one.cases)}")
    return "\n".join(lines)
