"""Identify the changed rows of a tensor by the digests of its row groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroups:
    """Digests of the rows of a tensor.

    Attributes:
        rows: number of rows.
        groups: one digest for each ceil(rows / groups) rows, in order; the last group holds the remainder.

    Raises ValueError where the number of digests does not fit the number of rows.
    """

    rows: int
    groups: tuple[str, ...]

    def __post_init__(self) -> None:
        if type(self.rows) is not int or self.rows < 0:
            raise ValueError(f"rows must be a whole number of 0 or more, got {self.rows!r:.40}")
        if not self.groups or not all(isinstance(one, str) for one in self.groups):
            raise ValueError(f"groups must be at least one text, got {self.groups!r:.40}")
        if self.rows and -(-self.rows // self.size) != len(self.groups):
            raise ValueError(
                f"{len(self.groups)} digests of {self.rows} rows; allowed: one of each ceil(rows / digests) "
                f"rows"
            )

    @property
    def size(self) -> int:
        """Rows in a group."""
        return max(1, -(-self.rows // len(self.groups)))

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"rows": self.rows, "groups": list(self.groups)}


def row_groups_from_dict(data: Any) -> RowGroups:
    """Decode the output of `RowGroups.as_dict`. Raises ValueError for anything else."""
    if (
        not isinstance(data, dict)
        or data.keys() != {"rows", "groups"}
        or not isinstance(data["groups"], list)
    ):
        raise ValueError(f"a digest must be a table of rows and groups, got {data!r:.60}")
    return RowGroups(rows=data["rows"], groups=tuple(data["groups"]))


#: A record's digests: module -> codes, scales or operands -> their digests.
Digests: TypeAlias = dict[str, dict[str, RowGroups]]


def digests_as_dict(digests: Digests) -> dict[str, Any]:
    """Return plain JSON types."""
    return {
        module: {kind: groups.as_dict() for kind, groups in found.items()}
        for module, found in digests.items()
    }


def digests_from_dict(data: Mapping[str, Any]) -> Digests:
    """Decode the output of `digests_as_dict`. Raises ValueError for anything else."""
    for module, found in data.items():
        if not isinstance(found, dict) or not found.keys() <= {"codes", "scales", "operands"}:
            raise ValueError(f"digests of {module} must be of codes, scales or operands, got {found!r:.40}")
    return {
        module: {kind: row_groups_from_dict(groups) for kind, groups in found.items()}
        for module, found in data.items()
    }


def changed_rows(now: RowGroups, then: RowGroups, what: str = "rows") -> str:
    """Describe the changed rows, such as "rows 128 to 255 of 1024"; empty where none changed. `what` is the
    plural noun for the rows."""
    if now == then:
        return ""
    if now.rows != then.rows:
        return f"{now.rows} {what}, accepted {then.rows}"
    if len(now.groups) != len(then.groups):
        return f"{now.rows} {what} in {len(now.groups)} groups, accepted {len(then.groups)}"
    if now.rows == 0 or all(one != other for one, other in zip(now.groups, then.groups, strict=True)):
        return f"all {now.rows} {what}"
    return f"{what} {', '.join(_stretches(now.rows, now.size, now.groups, then.groups))} of {now.rows}"


def _stretches(rows: int, size: int, now: Sequence[str], then: Sequence[str]) -> Iterator[str]:
    """Yield first and last row, counted from 0, of each run of changed groups."""
    groups = list(enumerate(zip(now, then, strict=True)))
    for changed, run in groupby(groups, key=lambda group: group[1][0] != group[1][1]):
        numbers = [number for number, _ in run]
        first, last = numbers[0] * size, min(rows, (numbers[-1] + 1) * size) - 1
        if changed:
            yield str(first) if first == last else f"{first} to {last}"
