"""Collects the ratios of a run and prints them as Markdown, one table a tensor."""

from __future__ import annotations

from statistics import geometric_mean

import pytest

Row = dict[str, str | float]

_RATIOS = pytest.StashKey[list[Row]]()


@pytest.fixture(scope="session")
def ratios(pytestconfig: pytest.Config) -> list[Row]:
    """Where a benchmark leaves its row: name, format, size, clone, ours, part."""
    return pytestconfig.stash.setdefault(_RATIOS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash.get(_RATIOS, [])
    if not rows:
        return
    terminalreporter.section("median time / time of torch.clone (median time / ours)")
    for size in dict.fromkeys(row["size"] for row in rows):
        terminalreporter.write_line("")
        for line in _table(str(size), [row for row in rows if row["size"] == size]):
            terminalreporter.write_line(line)


def _table(size: str, rows: list[Row]) -> list[str]:
    formats = list(dict.fromkeys(str(row["format"]) for row in rows))
    lines = [f"| {size} | {' | '.join(formats)} | geometric mean |", "|---" * (len(formats) + 2) + "|"]
    for name in dict.fromkeys(str(row["name"]) for row in rows):
        mine = {row["format"]: row for row in rows if row["name"] == name}
        cells = [_cell(mine[format]) if format in mine else "" for format in formats]
        mean = geometric_mean(float(row["ours"]) for row in mine.values())
        lines.append(f"| {name} | {' | '.join(cells)} | ({mean:.1f}) |")
    return lines


def _cell(row: Row) -> str:
    return f"{row['clone']:.1f} ({row['ours']:.1f})"
