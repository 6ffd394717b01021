"""The conformance matrix: implementation x format x rule, as a table, as Markdown and as JSON.

Reads only rows. A row is plain data: `implementation`, `version`, `format`, `rule`, `level`, `elements`,
`verdict` (`exact`, `last bit`, `known`, `red`, `unsupported`, `error`), `reason` (why the whole cell is
unsupported, or None), `unsupported` (group of inputs -> why), `mismatches`, `findings`, `counterexamples`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from mxcheck.conformance.cases.group_names import group_in_words
from mxcheck.conformance.verify.conditions import LAST_BIT
from mxcheck.files.printed import printable
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.spec import SCALE_RULES
from mxcheck.kernels.registry import HOUSE
from mxcheck.reporting.markdown import cell, words
from mxcheck.reporting.markdown import table as markdown_table
from mxcheck.reporting.table import render
from mxcheck.reporting.tables import titled_table

Row = Mapping[str, Any]

_STYLES = {
    "exact": "green",
    LAST_BIT: "green",
    "known": "yellow",
    "red": "bold red",
    "unsupported": "dim",
    "error": "bold red",
}


def cell_text(row: Row | None) -> str:
    """Return the matrix entry of a cell; `*` marks one with inputs that were refused, or skipped by a learned
    domain."""
    if row is None:
        return ""
    star = "*" if row["unsupported"] or row.get("domain", "").startswith("learned") else ""
    match row["verdict"]:
        case "exact":
            return f"exact{star}"
        case verdict if verdict == LAST_BIT:
            return f"{LAST_BIT}{star}"
        case "known":
            count = len(row["findings"])
            return f"{count} finding{'s' if count > 1 else ''}{star}"
        case "unsupported":
            return "-"
        case verdict:
            return f"{'DIFFERS' if verdict == 'red' else 'ERROR'}{star}"


def nothing_compared(name: str, refusal: str) -> str:
    """Return the message of a kernel that is red because it gave nothing to compare; `refusal` is its first,
    if any."""
    why = f"; its first refusal: {refusal}" if refusal else ""
    return f"red: no result of {name} was compared{why}"


def matrix_table(rows: Sequence[Row]) -> Table:
    """Return a table with one line for each kernel and format, and one column for each rule; lines without a
    supported cell are omitted."""
    table = titled_table(
        f"mxcheck: conformance, bit by bit (level {rows[0]['level']})" if rows else "mxcheck: conformance",
        _CAPTION,
    )
    rules = _rules(rows)
    for name in ("implementation", "format", *rules):
        table.add_column(name.replace("stochastic", "stoch."), no_wrap=True)
    last = ""
    for name, format_name, cells in _lines(rows):
        if last and name != last:
            table.add_section()
        shown = [_styled(cells.get(rule)) for rule in rules]
        table.add_row(name if name != last else "", format_name, *shown)
        last = name
    return table


def _styled(row: Row | None) -> str | Text:
    style = _STYLES.get(row["verdict"]) if row else None
    return Text(cell_text(row), style=style) if style else cell_text(row)


def rendered(rows: Sequence[Row], *, color: bool) -> str:
    """Return the table, and below it findings by name and the reasons for unsupported cells."""
    return render(matrix_table(rows), color=color) + printable("".join(f"{line}\n" for line in _notes(rows)))


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Return rows in the order of tables: ours, then the others by name."""
    formats = list(BLOCK_FORMATS)
    return sorted(
        rows,
        key=lambda row: (
            row["implementation"] not in HOUSE,
            row["implementation"],
            formats.index(row["format"]),
            row["rule"].count("-"),
        ),
    )


def markdown(rows: Sequence[Row]) -> str:
    """Return the matrix as Markdown, with its notes."""
    rules = _rules(rows)
    lines = markdown_table(
        ("implementation", "format", *rules),
        [
            list(map(cell, (name, format_name, *(cell_text(cells.get(rule)) for rule in rules))))
            for name, format_name, cells in _lines(rows)
        ],
        right=[False] * (2 + len(rules)),
    )
    level = rows[0]["level"] if rows else "quick"
    notes = [f"- {words(line)}" for line in _notes(rows)]
    return "\n".join([f"Level `{level}`.", "", *lines, "", _CAPTION, "", *notes, ""])


def as_json(rows: Sequence[Row]) -> str:
    """Return every row, with its counterexamples, as JSON."""
    return json.dumps(list(rows), indent=1, sort_keys=True) + "\n"


_CAPTION = (
    "exact: every scale and code is the oracle's; last bit: only values under a scale that is no power of "
    "two differ, by one unit in the last place, see below; finding: a known difference, named below; "
    "DIFFERS: an unknown difference; -: not supported; *: some inputs are not supported, or lie outside the "
    "domain that was learned, see below"
)


#: Replaces the name of a format in a reason.
_ITS_FORMAT = "\0"


def _rules(rows: Sequence[Row]) -> list[str]:
    """Return rules with rounding to even first, and formats without a choice of rule last."""

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
    """Yield findings, then for each kernel its unsupported cells and inputs."""
    causes = {name: cause for row in rows for name, cause in (row.get("findings") or {}).items()}
    for name, cause in causes.items():
        yield f"finding {name}: {cause}"
    own: dict[str, list[Row]] = {}
    for row in rows:
        own.setdefault(_title(row), []).append(row)
    for title, its_rows in own.items():
        whole = dict.fromkeys(row["reason"] for row in its_rows if row["reason"])
        if whole:
            yield f"not supported, {title}: {'; '.join(_grouped(list(whole)))}"
        yield from _last_bits(title, its_rows)
        parts = _refused_inputs([row for row in its_rows if row["verdict"] != "unsupported"])
        if parts:
            yield f"some inputs not supported (*), {title}: {'; '.join(parts)}"


def _last_bits(title: str, rows: Sequence[Row]) -> Iterator[str]:
    """Yield how many values of each format are off in the last bit."""
    counts = {
        row["format"]: (sum(kinds.get(LAST_BIT, 0) for kinds in row["mismatches"].values()), row["elements"])
        for row in rows
        if row["verdict"] == LAST_BIT
    }
    if counts:
        parts = (f"{name} {number:,} of {of:,} values" for name, (number, of) in counts.items())
        yield f"in the last bit, {title}: {', '.join(parts)}"


def _refused_inputs(rows: Sequence[Row]) -> list[str]:
    """Return each reason once, with its groups of inputs, and the formats if not all. Reasons that differ
    only in the name of their format or in their last word are merged."""
    everywhere = {row["format"] for row in rows}
    told: dict[str, tuple[dict[str, None], dict[str, None], dict[str, None]]] = {}
    for row in rows:
        for group, reason in row["unsupported"].items():
            shared = reason.replace(row["format"], _ITS_FORMAT)
            start, _, end = (shared, "", "") if _ITS_FORMAT in shared else reason.rpartition(" ")
            ends, groups, formats = told.setdefault(start, ({}, {}, {}))
            ends.setdefault(end)
            groups.setdefault(group_in_words(group))
            formats.setdefault(row["format"])
    texts = []
    for start, (ends, groups, formats) in told.items():
        reason = start.replace(_ITS_FORMAT, ", ".join(formats))
        narrowed = reason == start and set(formats) != everywhere
        where = ", ".join(groups) + (f"; only {', '.join(formats)}" if narrowed else "")
        texts.append(f"{reason} {', '.join(ends)}".strip() + f" ({where})")
    return texts


def _grouped(reasons: list[str]) -> list[str]:
    """Merge reasons that differ only in their last word: `x has no format a, b, c`."""
    groups: dict[str, list[str]] = {}
    for reason in reasons:
        start, _, end = reason.rpartition(" ")
        groups.setdefault(start, []).append(end)
    return [f"{start} {', '.join(ends)}" for start, ends in groups.items()]
