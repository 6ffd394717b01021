"""Shards of runs with known verdicts, and the required result of their merge.

A merge that loses a shard's red, or excuses its exit status, turns no run red, only more runs green.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mxcheck.distributed.merge import Merged, merge_folder
from mxcheck.distributed.shard_file import Basis, ShardRun, encode, file_name
from mxcheck.gate.case import Case
from mxcheck.gate.check import check
from mxcheck.gate.result import CaseResult, Outcome
from validation.known_verdicts.healthy import HEALTHY

_BASIS = Basis(
    mxcheck="example",
    commit="c" * 40,
    changes="",
    sources="5" * 16,
    baselines="b" * 16,
    selection="",
    arguments="tests/models",
    options="kernel eager",
    run="",
)
_COUNT = 3
_CASES = tuple(
    Case(model=f"example{index}", precision=precision, tier="B")
    for index in range(1, _COUNT + 1)
    for precision in ("mxfp8_e4m3", "mxint8")
)
_FAILED = (check("cast codes", False, "an example's codes"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class _KnownRun:
    """Shards, and the required result of their merge: `green`, `red`, or `refused`."""

    name: str
    what: str
    shards: tuple[ShardRun, ...]
    says: str


def _result(case: Case) -> CaseResult:
    record = replace(HEALTHY, model=case.model, precision=case.precision, tier=case.tier, options=[])
    return CaseResult(case=case, outcome=Outcome.PASSED, record=record)


def _shard(index: int, **changes: Any) -> ShardRun:
    """Return one of three shards, all green: two cases, with these fields."""
    part = _CASES[2 * index - 2 : 2 * index]
    names = tuple(case.id for case in part)
    shard = ShardRun(
        index=index,
        count=_COUNT,
        basis=_BASIS,
        cases=_CASES,
        part=names,
        selected=names,
        results=tuple(map(_result, part)),
        messages={},
        failures={},
        exit_status=0,
    )
    return replace(shard, **changes)


def green_shards() -> tuple[ShardRun, ...]:
    """Return a run without any error."""
    return tuple(_shard(index) for index in range(1, _COUNT + 1))


def _with(index: int, **changes: Any) -> tuple[ShardRun, ...]:
    return tuple(_shard(one, **(changes if one == index else {})) for one in range(1, _COUNT + 1))


def _ended(index: int, outcome: Outcome, *, place: int = 1, exit_status: int = 1) -> tuple[ShardRun, ...]:
    """Return the green run with a case of this outcome in one shard."""
    results = list(_shard(index).results)
    lacks = outcome in (Outcome.SKIPPED, Outcome.ERROR, Outcome.CRASHED, Outcome.NOT_RUN)
    results[place] = replace(
        results[place],
        outcome=outcome,
        record=None if lacks else results[place].record,
        failures=_FAILED if outcome is Outcome.FAILED else (),
    )
    return _with(index, results=tuple(results), exit_status=exit_status)


def _basis(**changes: str) -> Basis:
    return Basis(**{**asdict(_BASIS), **changes})


def _known_runs() -> Iterator[_KnownRun]:
    def known(name: str, what: str, shards: tuple[ShardRun, ...], says: str) -> _KnownRun:
        return _KnownRun(name=name, what=what, shards=shards, says=says)

    yield known("green", "nothing", green_shards(), "green")
    yield known("skipped", "nothing: a case was skipped", _ended(1, Outcome.SKIPPED, exit_status=0), "green")
    for index in range(1, _COUNT + 1):
        where = f"in shard {index} of {_COUNT}"
        for place in (0, 1):
            shards = _ended(index, Outcome.FAILED, place=place)
            yield known(f"red-{index}-{place}", f"case {place + 1} is red {where}", shards, "red")
        shards = _ended(index, Outcome.CRASHED, exit_status=0)
        yield known(f"crash-{index}", f"a case crashed {where}", shards, "red")
        shards = _with(index, failures={"tests/test_own.py::test_one": "an example"}, exit_status=1)
        yield known(f"failure-{index}", f"another test failed {where}", shards, "red")
        shards = _with(index, results=_shard(index).results[:1])
        yield known(f"row-{index}", f"a case has no row {where}", shards, "red")
        shards = _with(index, selected=_shard(index).part[:1], results=_shard(index).results[:1])
        yield known(f"left-out-{index}", f"a case was not selected {where}", shards, "red")
        others = tuple(shard for shard in green_shards() if shard.index != index)
        yield known(f"missing-{index}", f"shard {index} is missing", others, "refused")
        for what, value in (("baselines", "other"), ("sources", "other"), ("commit", "d" * 40)):
            shards = _with(index, basis=_basis(**{what: value}))
            yield known(f"{what}-{index}", f"other {what} {where}", shards, "refused")
    for outcome in (Outcome.MISSING, Outcome.CORRUPT, Outcome.ERROR, Outcome.NOT_RUN, Outcome.NO_ROW):
        shards = _ended(_COUNT, outcome)
        yield known(f"end-{outcome.name.lower()}", f"a case ended as {outcome}", shards, "red")
    for status in (1, 2, 3, 4, 5, 70, -9):
        for index in (1, _COUNT):
            shards = _with(index, exit_status=status)
            yield known(f"exit-{status}-{index}", f"pytest ended with {status}", shards, "red")
    red = _ended(_COUNT, Outcome.FAILED, exit_status=2)
    yield known("interrupted", "a red shard was interrupted", red, "red")
    yield known("other-run", "shards of another run", _with(2, basis=_basis(run="another")), "refused")
    yield known("other-cases", "a shard of other cases", _with(3, cases=_CASES[::-1]), "refused")
    skipped = tuple(
        replace(
            shard,
            results=tuple(
                replace(one, outcome=Outcome.SKIPPED, record=None, reason="an example")
                for one in shard.results
            ),
        )
        for shard in green_shards()
    )
    yield known("all-skipped", "every case was skipped", skipped, "red")


def missed_merges(join: Callable[[Path], Merged] = merge_folder) -> Iterator[tuple[str, str]]:
    """Yield the name of each run that a merge misjudges, and the actual result, in one line."""
    for known in _known_runs():
        try:
            with tempfile.TemporaryDirectory(prefix="mxcheck-example-") as folder:
                write_shards(Path(folder), known.shards)
                says = {0: "green", 1: "red"}[join(Path(folder)).exit_status]
        except ValueError:
            says = "refused"
        except Exception as error:  # noqa: BLE001  (reported, whatever it is)
            says = " ".join(f"{type(error).__name__}: {error}".split())
        if says != known.says:
            yield known.name, f"{known.what}; expected {known.says}, got {says}"


def write_shards(folder: Path, shards: tuple[ShardRun, ...]) -> None:
    """Write each shard's file."""
    for shard in shards:
        (folder / file_name(shard.index, shard.count)).write_text(encode(shard), encoding="utf-8")
