"""Where a published implementation is known to differ from its dialect. Torch-free; two data files.

`findings.toml`, written by hand: what was found, on which versions, the shrunk counterexample, the cause.
`known.json`, written by `tools/record_findings.py`: for each cell with a finding, how many mismatches of
which kind each group of inputs shows. A run is held against these counts, so that a finding cannot grow,
shrink or vanish unseen.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

Counts = Mapping[str, Mapping[str, int]]  # group -> kind -> number


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference.

    Attributes:
        name: what it is called in tables.
        implementation: a name of the registry.
        versions: of the library, that it was seen on.
        formats, rules: the cells that show it are these formats with these rules, where there are such.
        kinds: the kinds of mismatch that it shows as (`verifier.KINDS`).
        open: OCP MX v1.0 leaves this open (zero blocks, clamps, NaN and Inf), so that only the dialect is
            broken.
        cause: one sentence.
        counterexample: `format` and `rule` of the cast, with `dtype`, `shape`, `axis` and `block_size` where
            they are not the usual ones; `input` as hex words; and what came of it, as hex words too:
            `codes_got`, `codes_expected`, `scales_got`, `scales_expected`, `tensor_scale_got`,
            `tensor_scale_expected`, or `values_got`, `values_expected`, or the `error`.
    """

    name: str
    implementation: str
    versions: tuple[str, ...]
    formats: tuple[str, ...]
    rules: tuple[str, ...]
    kinds: tuple[str, ...]
    open: bool = False
    cause: str
    counterexample: Mapping[str, Any]

    def shows_in(self, cell: str) -> bool:
        """Whether the cell of this id is one of its own."""
        return any(cell == f"{name}-{rule}" for name in self.formats for rule in self.rules)


@cache
def findings() -> tuple[Finding, ...]:
    """Every finding, in the order of the file."""
    rows = tomllib.loads((files(__package__) / "findings.toml").read_text()).get("finding", [])
    return tuple(map(_finding, rows))


def _finding(row: dict[str, Any]) -> Finding:
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in row.items()
    }
    return Finding(**fields)


def findings_of(implementation: str, cell: str) -> tuple[Finding, ...]:
    """The findings that a cell shows."""
    return tuple(
        finding
        for finding in findings()
        if finding.implementation == implementation and finding.shows_in(cell)
    )


@cache
def known() -> Mapping[str, Any]:
    """implementation -> {"version", "cells": cell -> level -> group -> kind -> number}."""
    data: Mapping[str, Any] = json.loads((files(__package__) / "known.json").read_text())
    return data


def known_counts(implementation: str, cell: str, level: str) -> Counts:
    """The mismatches that are known of a cell; empty where it is exact."""
    counts: Counts = known().get(implementation, {}).get("cells", {}).get(cell, {}).get(level, {})
    return counts


def judge(implementation: str, cell: str, level: str, found: Counts) -> tuple[str, list[str]]:
    """("exact" | "known" | "red", what differs from what is known) of a cell's mismatches."""
    expected = known_counts(implementation, cell, level)
    if found == expected:
        if not found:
            return "exact", []
        explained = {kind for finding in findings_of(implementation, cell) for kind in finding.kinds}
        unexplained = {kind for kinds in found.values() for kind in kinds} - explained
        return ("red" if unexplained else "known"), [f"no finding explains: {', '.join(sorted(unexplained))}"]
    lines = []
    for group in dict.fromkeys([*found, *expected]):
        got, want = found.get(group, {}), expected.get(group, {})
        for kind in dict.fromkeys([*got, *want]):
            if got.get(kind, 0) != want.get(kind, 0):
                was = f", known {want.get(kind, 0)}" if expected else ""
                lines.append(f"{group}: {got.get(kind, 0)} x {kind}{was}")
    return "red", lines
