"""The orderings of a run: select them, and compare the accepted baselines with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxcheck.gate.baseline import BaselineError, read
from mxcheck.gate.orderings import ModelOrdering, OrderingResult, compare, model_orderings, unexpected_result
from mxcheck.gate.shipped import in_force
from mxcheck.pytest_plugin.options.mx_options import Options
from mxcheck.run.default_gate import WHOLE_LADDER
from mxcheck.run.laid_out_cases import chosen_precisions
from mxcheck.run.settings import Settings


def orderings_of(config: pytest.Config, run: Settings, parameter: str) -> list[ModelOrdering]:
    """Return the orderings of the run's reference models between its precisions, whatever the tiers: those
    that hold for `mx_ordering`, the exceptions for `mx_ordering_exception`.

    None where options change the cases, since the orderings were shown at the defaults. Only the options are
    read, so that every xdist worker collects the same tests.
    """
    plain = {case.plain for case in run.cases if not case.options}
    if any(case.plain not in plain for case in run.cases):
        return []
    return model_orderings(
        [model for model in WHOLE_LADDER if model in run.models],
        chosen_precisions(Options(config), run.own),
        exceptions=parameter == "mx_ordering_exception",
    )


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
