"""Examples of outcomes: which are green, and that a result is transmitted unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.case_cost import Cost
from mxcheck.gate.check import check
from mxcheck.gate.drift import Drift
from mxcheck.gate.result import CaseResult, Outcome, all_green, result_from_dict
from validation.known_verdicts.expectation import Expectation, expect
from validation.known_verdicts.healthy import HEALTHY

_GREEN = ("PASSED", "ACCEPTED", "UPDATED", "RECENTRED", "MEASURED")
_RED = ("FAILED", "MISSING", "CORRUPT", "ERROR", "CRASHED", "NOT_RUN", "NO_ROW")


def _run(*names: str) -> bool:
    """Return whether a run of cases with these outcomes is green."""
    return all_green(CaseResult(case=HEALTHY.case, outcome=Outcome[name]) for name in names)


def _runs(name: str) -> list[bool]:
    """Return the same for one such case alone, and for one after and before another that passed."""
    return [_run(name), _run("PASSED", name), _run(name, "PASSED")]


def _arrives(result: CaseResult) -> bool:
    """Return whether a result is unchanged after transmission."""
    return result_from_dict(result.as_dict()) == result


_FAILED = CaseResult(
    case=HEALTHY.case,
    outcome=Outcome.FAILED,
    failures=(check("cast codes", False, "codes moved"), check("losses", False, "losses moved")),
    record=HEALTHY,
    bounds=Bounds(kl=1.0, rise=0.5, whose="an example's"),
    drift=Drift(median=1.0, rms=2.0, max=3.0, median_bound=4.0, rms_bound=5.0, max_bound=6.0),
    message="what a red case says",
    seconds=1.5,
    load_seconds=0.5,
    worker="gw1",
    cost=Cost(device="cpu", tokens=1000, seconds={"forward": 0.5, "metrics": 0.25}, peak_bytes=2**30),
)


def _ends(names: Sequence[str], *, green: bool) -> tuple[Expectation, ...]:
    return tuple(
        expect(
            f"end-{name.lower()}",
            f"runs of one case that ended as {name}, and of one before and after another that passed",
            partial(_runs, name),
            [green] * 3,
        )
        for name in names
    )


OUTCOMES: tuple[Expectation, ...] = (
    *_ends(_GREEN, green=True),
    *_ends(_RED, green=False),
    expect(
        "end-skipped",
        "a run of skipped cases alone, and one with a case that passed",
        lambda: [_run("SKIPPED"), _run("SKIPPED", "PASSED")],
        [False, True],
    ),
    expect("end-none", "a run without a case", _run, False),
    expect(
        "end-known", "every end", lambda: sorted(Outcome.__members__), sorted((*_GREEN, *_RED, "SKIPPED"))
    ),
    expect("end-arrives", "a red result that was sent", lambda: _arrives(_FAILED), True),
    expect(
        "end-arrives-green",
        "one that passed",
        lambda: _arrives(replace(_FAILED, outcome=Outcome.PASSED, failures=(), message="")),
        True,
    ),
    expect("end-word", "what the table says", lambda: _FAILED.word, "FAIL step 4,6"),
)
