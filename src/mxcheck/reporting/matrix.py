"""The conformance matrix: implementation x format x rule, as a table, as Markdown and as JSON.

Reads rows, nothing else. A row is plain data: `implementation`, `version`, `format`, `rule`, `level`,
`elements`, `verdict` (`exact`, `known`, `red`, `unsupported`, `error`), `reason`, `unsupported`,
`mismatches`, `findings`, `counterexamples`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.spec import SCALE_RULES
from mxcheck.reporting.table import render

Row = Mapping[str, Any]

_STYLES = {"exact": "green", "known": "yellow", "red": "bold red", "unsupported": "dim", "error": "bold red"}


def cell_text(row: Row | None) -> str:
    """What stands in the matrix for a cell."""
    match row and row["verdict"]:
        case None:
            return ""
        case "exact":
            return "exact"
        case "known":
            count = len(row["findings"])  # type: ignore[index]
            return f"{count} finding{'s' if count > 1 else ''}"
        case "unsupported":
            return "-"
        case verdict:
            return "DIFFERS" if verdict == "red" else "ERROR"


def matrix_table(rows: Sequence[Row]) -> Table:
    """One line an implementation and format, one column a rule; lines with nothing supported are left out."""
    table = Table(
        title=f"mxcheck: conformance, bit by bit (level {rows[0]['level']})"
        if rows
        else "mxcheck: conformance",
        title_justify="left",
        caption=_CAPTION,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    rules = _rules(rows)
    for name in ("implementation", "format", *rules):
        table.add_column(name.replace("stochastic", "stoch."), no_wrap=True)
    last = ""
    for name, format_name, cells in _lines(rows):
        if last and name != last:
            table.add_section()
        shown = [_styled(cells.get(rule)) for rule in rules]
        table.add_row(escape(name) if name != last else "", format_name, *shown)
        last = name
    return table


def _styled(row: Row | None) -> str:
    style = _STYLES.get(row["verdict"]) if row else None
    return f"[{style}]{cell_text(row)}[/]" if style else cell_text(row)


def rendered(rows: Sequence[Row], *, color: bool) -> str:
    """The table and what it cannot hold: findings by name, and why something is not supported."""
    return render(matrix_table(rows), color=color) + "".join(f"{line}\n" for line in _notes(rows))


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows in the order of tables, whichever came first: ours, then the others by name."""
    formats = list(BLOCK_FORMATS)
    return sorted(
        rows,
        key=lambda row: (
            row["implementation"] not in ("eager", "eager_values"),
            row["implementation"],
            formats.index(row["format"]),
            row["rule"].count("-"),
        ),
    )


def markdown(rows: Sequence[Row]) -> str:
    """The matrix as Markdown, with its notes."""
    rules = _rules(rows)
    lines = [
        "| implementation | format | " + " | ".join(rules) + " |",
        "|---" * (2 + len(rules)) + "|",
    ]
    for name, format_name, cells in _lines(rows):
        shown = [cell_text(cells.get(rule)) for rule in rules]
        lines.append(f"| {name} | {format_name} | " + " | ".join(shown) + " |")
    level = rows[0]["level"] if rows else "quick"
    notes = [f"- {line.strip()}" for line in _notes(rows)]
    return "\n".join([f"Level `{level}`.", "", *lines, "", _CAPTION, "", *notes, ""])


def as_json(rows: Sequence[Row]) -> str:
    """Every row, with its counterexamples."""
    return json.dumps(list(rows), indent=1, sort_keys=True) + "\n"


_CAPTION = (
    "exact: every scale and code as the oracle has it; finding: a known difference, named below; "
    "DIFFERS: one that is not known; -: not supported"
)


def _rules(rows: Sequence[Row]) -> list[str]:
    """Rules with rounding to even first, formats without a choice of rule last."""

    def order(rule: str) -> tuple[bool, int, int]:
        return rule == "amax", rule.count("-"), SCALE_RULES.index(rule.partition("-")[0])

    return sorted({row["rule"] for row in rows}, key=lambda rule: (*order(rule), rule))


def _lines(rows: Sequence[Row]) -> Iterator[tuple[str, str, dict[str, Row]]]:
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((_title(row), row["format"]), {})[row["rule"]] = row
    for (name, format_name), cells in lines.items():
        if any(row["verdict"] != "unsupported" for row in cells.values()):
            yield name, format_name, cells


def _title(row: Row) -> str:
    return f"{row['implementation']} {row['version']}".strip()


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    """Findings with their cells' number, then for each implementation what it does not support."""
    causes = {name: cause for row in rows for name, cause in (row.get("findings") or {}).items()}
    for name, cause in causes.items():
        yield f"finding {name}: {cause}"
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        told = reasons.setdefault(_title(row), {})
        for reason in [row["reason"]] if row.get("reason") else row["unsupported"].values():
            told.setdefault(reason)
    for title, texts in reasons.items():
        if texts:
            yield f"not supported, {title}: {'; '.join(_grouped(list(texts)))}"


def _grouped(reasons: list[str]) -> list[str]:
    """Reasons that differ in their last word only, as one: `x has no format a, b, c`."""
    groups: dict[str, list[str]] = {}
    for reason in reasons:
        start, _, end = reason.rpartition(" ")
        groups.setdefault(start, []).append(end)
    return [f"{start} {', '.join(ends)}" for start, ends in groups.items()]
