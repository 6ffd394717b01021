"""Split a run into one part for each machine: whole models, longest first, with the same result on every
machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """The `index`-th of `count` parts; `index` counts from 1."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Parse `2/4`, the second of four. Raises ValueError for anything else, and for a part beyond the
    last."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= index <= count:
        raise ValueError(f"--mx-shard must be i/N with i from 1 to N, as in 2/4, got {text!r}")
    return Shard(index=index, count=count)


def split(costs: Mapping[str, float], count: int) -> list[list[str]]:
    """Split the names into `count` parts of about the same cost: the costliest first, each to the part with
    the lowest cost so far (Graham 1969: at most 4/3 of the optimum). Names keep the order of `costs` within a
    part; equal costs are sorted by name, so that every machine computes the same parts."""
    parts: list[tuple[float, int]] = [(0.0, part) for part in range(count)]
    part_of = {}
    for name in sorted(costs, key=lambda name: (-costs[name], name)):
        parts.sort()
        total, part = parts[0]
        parts[0] = (total + costs[name], part)
        part_of[name] = part
    return [[name for name in costs if part_of[name] == part] for part in range(count)]
