"""Collects the ratios of a run and prints them as Markdown, one table a tensor."""

from __future__ import annotations

from collections.abc import Callable
from statistics import geometric_mean

import pytest

Row = dict[str, str | float]

_RATIOS = pytest.StashKey[list[Row]]()
_HOUSE = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session")
def ratios(pytestconfig: pytest.Config) -> list[Row]:
    """Where a benchmark leaves its row: name, format, size, clone, ours, part."""
    return pytestconfig.stash.setdefault(_RATIOS, [])


@pytest.fixture(scope="session")
def house_ratios(pytestconfig: pytest.Config) -> list[Row]:
    """Where a benchmark of ours leaves its row: name, format, size, copy, allocating."""
    return pytestconfig.stash.setdefault(_HOUSE, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if house := config.stash.get(_HOUSE, []):
        terminalreporter.section(
            "with out= / copy_ (as called / a copy that allocates): medians within a round"
        )
        for size in dict.fromkeys(str(row["size"]) for row in house):
            terminalreporter.write_line("")
            rows = [row for row in house if row["size"] == size]
            for line in _table(size, rows, lambda row: f"{row['copy']:.2f} ({row['allocating']:.2f})"):
                terminalreporter.write_line(line)
    rows = config.stash.get(_RATIOS, [])
    if not rows:
        return
    terminalreporter.section("median time / time of torch.clone (median time / ours)")
    for size in dict.fromkeys(row["size"] for row in rows):
        terminalreporter.write_line("")
        for line in _table(str(size), [row for row in rows if row["size"] == size], _cell):
            terminalreporter.write_line(line)


def _table(size: str, rows: list[Row], cell: Callable[[Row], str]) -> list[str]:
    formats = list(dict.fromkeys(str(row["format"]) for row in rows))
    beside = all("ours" in row for row in rows)
    heads = [size, *formats, *(["geometric mean"] if beside else [])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in dict.fromkeys(str(row["name"]) for row in rows):
        mine = {row["format"]: row for row in rows if row["name"] == name}
        cells = [name, *(cell(mine[format]) if format in mine else "" for format in formats)]
        if beside:
            cells.append(f"({geometric_mean(float(row['ours']) for row in mine.values()):.1f})")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cell(row: Row) -> str:
    return f"{row['clone']:.1f} ({row['ours']:.1f})"
