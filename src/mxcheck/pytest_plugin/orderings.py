"""The orderings of a run: which of them take part, and whether the accepted baselines show them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mxcheck.gate.baseline import BaselineError, read
from mxcheck.gate.case import Case
from mxcheck.gate.orderings import ORDERINGS, Comparison, Deviation, Ordering, Shown, compare, deviation
from mxcheck.gate.shipped import in_force
from mxcheck.pytest_plugin.cases import chosen_steps
from mxcheck.pytest_plugin.options import Options
from mxcheck.pytest_plugin.settings import Settings
from mxcheck.run.default_gate import WHOLE_LADDER

#: What a comparison may show where this is expected. An order that was too close to call may become clear.
_ALLOWED: dict[Shown, tuple[Shown, ...]] = {
    "holds": ("holds",),
    "undecided": ("undecided", "holds"),
    "reversed": ("reversed",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOrdering:
    """An ordering on one of the reference models, and the exception that this model makes."""

    model: str
    ordering: Ordering
    exception: Deviation | None

    @property
    def id(self) -> str:
        return f"{self.model}-{self.ordering.id}"

    @property
    def cases(self) -> tuple[Case, Case]:
        lower, higher = (_case(self.model, stage) for stage in (self.ordering.lower, self.ordering.higher))
        return lower, higher


def _case(model: str, stage: str) -> Case:
    precision, _, tier = stage.rpartition("-")
    return Case(model=model, precision=precision, tier=tier)


def orderings_of(config: pytest.Config, run: Settings, parameter: str) -> list[ModelOrdering]:
    """The orderings of the run's reference models between steps that it asks for, whatever the tiers: those
    that hold as `mx_ordering`, the exceptions as `mx_ordering_exception`.

    None where options make other cases of them: the orderings were shown at the defaults. Looks at the
    options only, so that every worker of xdist collects the same.
    """
    steps = chosen_steps(Options(config), run.own)
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
        if {case.precision for case in one.cases} <= set(steps)
        and (one.exception is not None) == (parameter == "mx_ordering_exception")
    ]


def hold(one: ModelOrdering, baselines: Path) -> Comparison:
    """Compare the accepted records of an ordering: skipped where one is missing, failed where they show
    something else than is expected."""
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
    if message := judge(one, found):
        pytest.fail(message, pytrace=False)
    return found


def judge(one: ModelOrdering, found: Comparison) -> str:
    """What is wrong with a comparison, in a few lines; empty where it shows what is expected."""
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
