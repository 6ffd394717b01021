"""Which rows of a tensor changed, by the digests of its row groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby


def changed_rows(rows: int, now: Sequence[str], then: Sequence[str], what: str = "rows") -> str:
    """The rows that changed, such as "rows 128 to 255 of 1024"; empty where none did.

    Groups hold ceil(rows / groups) rows each, in their order, and the last one what is left of them: what
    `mxcheck.kernels.digest` makes.

    Args:
        rows: how many rows there are, now as then.
        now, then: the digests of the row groups.
        what: what the rows are called, in the plural.

    Raises:
        ValueError: so many digests are not those of so many rows.
    """
    if len(now) != len(then):
        return f"{len(now)} digests, accepted {len(then)}: another number of {what}"
    size = -(-rows // max(1, len(now)))
    if rows and -(-rows // max(1, size)) != len(now):
        raise ValueError(
            f"{len(now)} digests of {rows} {what}; allowed: one of each ceil({what} / digests) {what}; give "
            f"the number of {what} that the digests were made of"
        )
    if list(now) == list(then):
        return ""
    if rows == 0 or all(one != other for one, other in zip(now, then, strict=True)):
        return f"all {rows} {what}"
    return f"{what} {', '.join(_stretches(rows, size, now, then))} of {rows}"


def _stretches(rows: int, size: int, now: Sequence[str], then: Sequence[str]) -> Iterator[str]:
    """First and last row, counted from 0, of each run of groups that changed."""
    groups = list(enumerate(zip(now, then, strict=True)))
    for changed, run in groupby(groups, key=lambda group: group[1][0] != group[1][1]):
        numbers = [number for number, _ in run]
        first, last = numbers[0] * size, min(rows, (numbers[-1] + 1) * size) - 1
        if changed:
            yield str(first) if first == last else f"{first} to {last}"
