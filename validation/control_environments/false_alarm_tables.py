"""The gate in control environments: the changes in each, as a table, as Markdown, as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from mxcheck.files.printed import one_line
from mxcheck.reporting.markdown import cell, code, fenced
from mxcheck.reporting.markdown import table as markdown_table
from mxcheck.reporting.tables import titled_table

_COLUMNS = (
    "environment",
    "cases",
    "skipped",
    "same arithmetic",
    "reference",
    "losses",
    "KL",
    "rms of losses",
    "true alarms",
    "red",
)
_WHAT = (
    "same arithmetic: cases for which the machine had the baseline's arithmetic: nothing may move by "
    "1e-9. reference, losses, KL: the largest share of what drift is allowed (median, rms or maximum), "
    "over the other cases. rms of losses: the largest of a case, in nats per token."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentRow:
    """The gate's result in one environment.

    Attributes:
        cases: number of cases run; `skipped` of them reported why they cannot run.
        red: case -> the gate's message, for false alarms.
        true_alarms: case -> the real error there that the gate reported.
        same_arithmetic: cases for which the machine had the baseline's arithmetic: nothing may move by 1e-9.
        arithmetics: digests of fixed products, by model and the dtype in which a case computes.
        shares: `reference`, `loss`, `kl` -> the largest ratio to its bound (median, rms or maximum) over the
            cases of other arithmetic, and the case; empty where there are none.
        worst_rms: the largest rms change of the sequences' losses in a case, in nats per token.
        seconds: duration of the run.
    """

    environment: str
    cases: int
    skipped: int
    red: Mapping[str, str]
    true_alarms: Mapping[str, str]
    same_arithmetic: int
    arithmetics: Mapping[str, str]
    shares: Mapping[str, tuple[float, str]]
    worst_rms: float
    seconds: float


def headline(rows: Sequence[EnvironmentRow]) -> str:
    """Return the main result in one sentence."""
    judged = sum(row.cases - row.skipped - len(row.true_alarms) for row in rows)
    distinct = len({tuple(sorted(row.arithmetics.items())) for row in rows})
    red = sum(len(row.red) for row in rows)
    return (
        f"{red} red for nothing of {judged:,} cases in {len(rows)} control environments, which multiply in "
        f"{distinct} different ways"
    )


def false_alarms_table(rows: Sequence[EnvironmentRow]) -> Table:
    """Return a table with one line for each environment."""
    table = titled_table("mxcheck: the gate in control environments", _WHAT)
    for number, name in enumerate(_COLUMNS):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row), style="bold red" if row.red else None)
    return table


def _cells(row: EnvironmentRow) -> tuple[str, ...]:
    shares = [row.shares.get(name) for name in ("reference", "loss", "kl")]
    return (
        row.environment,
        str(row.cases),
        str(row.skipped),
        str(row.same_arithmetic),
        *("" if share is None else f"{share[0]:.2f}" for share in shares),
        "0" if row.worst_rms == 0 else f"{row.worst_rms:.1e}",
        str(len(row.true_alarms)),
        str(len(row.red)),
    )


def describe(rows: Sequence[EnvironmentRow]) -> list[str]:
    """Return a line for each red case, then one for each reason of true alarms."""
    red = [f"{row.environment}: {name}: {words}" for row in rows for name, words in sorted(row.red.items())]
    reasons = Counter(reason for row in rows for reason in row.true_alarms.values())
    return red + [f"true alarms, {count}: {reason}" for reason, count in reasons.items()]


def nearest(rows: Sequence[EnvironmentRow]) -> list[str]:
    """Return for each quantity the case nearest to its bound."""
    lines = []
    for quantity in ("reference", "loss", "kl"):
        found = [(*row.shares[quantity], row.environment) for row in rows if quantity in row.shares]
        if found:
            share, name, environment = max(found)
            lines.append(f"nearest to its bound, {quantity}: {name}, {share:.2f}, in `{environment}`")
    return lines


def markdown(rows: Sequence[EnvironmentRow], facts: Mapping[str, str]) -> str:
    """Return the summary for people. `facts`: the basis of the run, by name: date, processor, versions."""
    cells = [[code(row.environment), *map(cell, _cells(row)[1:])] for row in rows]
    lines = [
        "# Control environments",
        "",
        "Written by `python -m validation false-alarms --summary`: the gate on the reference models, in",
        "environments in which nothing is wrong. What is not named is as it is by default.",
        "",
        f"**{headline(rows)}.**",
        "",
        "; ".join(f"{name}: {value}" for name, value in facts.items()) + ".",
        "",
        _WHAT,
        "",
        *markdown_table(_COLUMNS, cells, right=[False, *[True] * (len(_COLUMNS) - 1)]),
        "",
        *(f"- {line}" for line in nearest(rows)),
        "",
    ]
    if found := describe(rows):
        lines += [*fenced("\n".join(map(one_line, found))), ""]
    return "\n".join(lines)


def as_json(rows: Sequence[EnvironmentRow], facts: Mapping[str, str]) -> str:
    """Return the summary for programs."""
    return json.dumps({**facts, "environments": [asdict(row) for row in rows]}, indent=1) + "\n"
