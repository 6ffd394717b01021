"""The sensitivity run's two tables, as text, Markdown and JSON: by group, and one line for each fault.

Reads only detections.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from mxcheck.reporting.markdown import cell, table
from mxcheck.reporting.tables import titled_table
from validation.sensitivity.detection import OF_THE_GATE, CheckResult, Detection, KernelResult, ModelResult

#: Maximum number of red tests named, besides cells of the kernel suite.
_MOST_TESTS = 2
_CAUGHT: Mapping[str, Callable[[Detection], bool]] = {
    "kernel suite": lambda one: one.kernels.caught,
    "model suite": lambda one: one.models.caught,
    "either": lambda one: one.stage == "reduced",
    "own tests": lambda one: one.stage == "own tests",
    "full gate": lambda one: one.stage == "full",
    "neither": lambda one: one.stage == "never",
}
_ALONE: Mapping[str, Callable[[Detection], bool]] = {
    "without digests": lambda one: one.without_digests,
    "bounds alone": lambda one: one.bounds.seen,
    "drift alone": lambda one: one.drift.seen,
    "drift elsewhere": lambda one: one.drift_elsewhere.seen,
}
GROUP_COLUMNS = ("group", "faults", *_CAUGHT, "caught", *_ALONE)
MATRIX_COLUMNS = (
    *("fault", "what is wrong", "kernel suite", "model suite: steps"),
    *("bounds alone", "drift alone", "drift elsewhere", "caught by"),
)
_WHAT = (
    "kernel suite: red cells of those of the fault's formats, and mismatches by element in the worst of "
    "them. model suite: the steps of docs/gate.md that failed, over all cases of the reduced gate. "
    "without digests: caught by more than step 4's comparison with accepted digests. "
    "bounds, drift alone: whether step 5 or step 6 would have seen it without the others, drift on a "
    "machine with the baseline's arithmetic and elsewhere, on one of other arithmetic; in brackets the worst "
    "figure over its bound."
)


def group_rows(detections: Sequence[Detection]) -> list[tuple[str, ...]]:
    """Return one line for each group in the order of the faults, and their sum, under `GROUP_COLUMNS`."""
    groups = dict.fromkeys(one.group for one in detections)
    lines = [_counts(group, [one for one in detections if one.group == group]) for group in groups]
    return [*lines, _counts("all", detections)]


def _counts(title: str, found: Sequence[Detection]) -> tuple[str, ...]:
    caught = sum(one.stage != "never" for one in found)
    return (
        title,
        str(len(found)),
        *(str(sum(map(sees, found))) for sees in _CAUGHT.values()),
        f"{100 * caught / len(found):.1f} %" if found else "",
        *(str(sum(map(sees, found))) for sees in _ALONE.values()),
    )


def matrix_row(one: Detection) -> tuple[str, ...]:
    """Return a fault's line, under `MATRIX_COLUMNS`."""
    return (
        one.name,
        one.what,
        _kernels(one.kernels),
        _models(one.models),
        *(_check(result) for result in (one.bounds, one.drift, one.drift_elsewhere)),
        f"full gate: {_models(one.full)}" if one.full is not None and one.stage == "full" else one.stage,
    )


def _kernels(result: KernelResult) -> str:
    if not result.caught:
        return "-"
    red, ran = result.cells
    parts = [f"{red} of {ran} cells ({_percent(result.share)})"] if red else []
    parts += [f"{name} {failed} of {count}" for name, failed, count in result.tests[:_MOST_TESTS]]
    parts += [f"{rest} more tests"] if (rest := len(result.tests) - _MOST_TESTS) > 0 else []
    parts += [result.ended] if result.ended != "finished" else []
    return ", ".join(parts) or "error"


def _models(result: ModelResult) -> str:
    if not result.caught:
        return "-"
    red, ran = result.cases
    return ", ".join(result.steps) + (f" ({red} of {ran} cases)" if red else "")


def _check(result: CheckResult) -> str:
    if result.margin is None:
        return "-"
    return f"{'yes' if result.seen else 'no'} ({_figure(result.margin)})"


def _figure(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2g}" if value < 100 else f"{value:.0e}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def group_table(detections: Sequence[Detection]) -> Table:
    """Return the table of groups for the terminal."""
    *lines, last = group_rows(detections)
    found = _table("mxcheck: faults caught, by group", GROUP_COLUMNS)
    for line in lines:
        found.add_row(*line)
    found.add_section()
    found.add_row(*last)
    return found


def matrix_table(detections: Sequence[Detection]) -> Table:
    """Return the table of faults for the terminal, without their descriptions."""
    columns = [name for name in MATRIX_COLUMNS if name != "what is wrong"]
    found = _table("mxcheck: what saw each fault", columns, caption=_WHAT)
    for one in detections:
        name, _, *others = matrix_row(one)
        style = "bold red" if one.trouble else ("yellow" if one.stage == "never" else None)
        found.add_row(name, *others, style=style)
    return found


def _table(title: str, columns: Iterable[str], caption: str | None = None) -> Table:
    found = titled_table(title, caption)
    for number, name in enumerate(columns):
        found.add_column(name, justify="right" if number and caption is None else "left", no_wrap=True)
    return found


def trouble(detections: Sequence[Detection]) -> list[str]:
    """Return the required corrections of the catalogue, a line each."""
    return [one.trouble for one in detections if one.trouble]


def markdown(detections: Sequence[Detection], facts: Mapping[str, str]) -> str:
    """Return the summary for people. `facts` is the basis of the run, by name: date, versions, wall time."""
    groups = list(dict.fromkeys(one.group for one in detections))
    lines = [
        "# Sensitivity",
        "",
        "Faults put into the running code, and which suite saw them.",
        "Written by `python -m validation sensitivity --summary`.",
        "",
        f"**{_headline(detections)}**",
        *_unseen([one for one in detections if one.unseen]),
        "",
        "; ".join(f"{name}: {value}" for name, value in facts.items()) + ".",
        "",
        *_markdown_table(GROUP_COLUMNS, group_rows(detections), right=True),
        "",
        _WHAT,
        "",
    ]
    for group in groups:
        rows = [matrix_row(one) for one in detections if one.group == group]
        lines += [f"## {group}", "", *_markdown_table(MATRIX_COLUMNS, rows), ""]
    survivors = [one for one in detections if one.stage == "never"]
    if survivors:
        lines += ["## Not caught", ""]
        lines += [f"- `{one.name}`: {one.what} {one.survives or 'Not explained yet.'}" for one in survivors]
        lines.append("")
    return "\n".join(lines)


def _headline(detections: Sequence[Detection]) -> str:
    """Count faults of the product, which the suites must detect, and separately those of the code that
    judges."""
    product = [one for one in detections if one.group not in OF_THE_GATE]
    gate = [one for one in detections if one.group in OF_THE_GATE]
    parts = []
    if product:
        parts.append(f"{sum(map(_by_suites, product))} of {len(product)} faults of the product caught.")
    if gate:
        parts.append(
            f"{sum(one.stage != 'never' for one in gate)} of {len(gate)} faults of what judges and keeps "
            f"records caught: {sum(map(_by_suites, gate))} by the suites, the others by its own tests."
        )
    return " ".join(parts)


def _by_suites(one: Detection) -> bool:
    return one.stage in ("reduced", "full")


def _unseen(found: Sequence[Detection]) -> list[str]:
    if not found:
        return []
    shares = [
        f"{count} ({100 * count / len(found):.1f} %) {words}"
        for count, words in (
            (sum(one.stage != "never" for one in found), "were caught"),
            (sum(one.without_digests for one in found), "without digests that were accepted"),
        )
    ]
    who = f"Of the {len(found)} that were written by somebody who had read no check"
    return [f"{who}, before any run looked for them, {', '.join(shares)}."]


def _markdown_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: bool = False
) -> list[str]:
    sides = [False, *[right] * (len(columns) - 1)]
    return table(columns, [list(map(cell, row)) for row in rows], right=sides)


def as_json(detections: Sequence[Detection], facts: Mapping[str, str]) -> str:
    """Return the summary for programs: infinite margins are the word `inf`."""
    rows = [{**asdict(one), "stage": one.stage} for one in detections]
    return json.dumps({**facts, "faults": [_plain(row) for row in rows]}, indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, float) and math.isinf(value):
        return "inf"
    return value
