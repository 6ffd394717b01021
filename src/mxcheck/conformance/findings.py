"""Known differences of published implementations from their dialects. Torch-free; two data files.

`findings.toml`, written by hand: the difference, the versions it was seen on, the shrunk counterexample, the
cause. `known.json`, written by `tools/record_findings.py`: for each cell with a finding, the number of
mismatches of each kind in each group of inputs. A run is compared with these counts, so a finding cannot
grow, shrink or vanish unseen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any, get_type_hints

from mxcheck.conformance.cases.group_names import group_in_words
from mxcheck.conformance.verify.conditions import LAST_BIT
from mxcheck.files.plain_data import DataError, json_data, toml_data
from mxcheck.files.printed import got, one_line, told
from mxcheck.formats.aliases import precision_of

Counts = Mapping[str, Mapping[str, int]]  # group -> kind -> number


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference.

    Attributes:
        name: its name in tables.
        implementation: its name in the registry.
        versions: versions of the library that it was seen on.
        formats, rules: it shows in the cells of these formats with these rules, as far as they exist.
        kinds: kinds of mismatch that it shows as (`verifier.KINDS`).
        open: OCP MX v1.0 leaves this open (zero blocks, clamps, NaN and Inf), so only the dialect is
            violated.
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
        """Return whether it shows in the cell with this id."""
        return any(cell == f"{precision_of(name)}-{rule}" for name in self.formats for rule in self.rules)


#: How a difference begins that is no group's.
UNEXPLAINED = "no finding explains: "


@cache
def findings() -> tuple[Finding, ...]:
    """Return every finding, in the order of the file."""
    return read_findings((files(__package__) / "findings.toml").read_text())


class FindingsError(ValueError):
    """A file of findings that cannot be used. The message is one printable line."""

    def __init__(self, file: str, message: str) -> None:
        super().__init__(one_line(f"{file}: {told(ValueError(message), 1000)}; look at its last change"))


def read_findings(text: str, *, file: str = "findings.toml") -> tuple[Finding, ...]:
    """Parse the findings of a TOML text. Raises FindingsError if it is invalid."""
    try:
        table = toml_data(text)
        if table.keys() - {"finding"}:
            raise ValueError(f"allowed are tables [[finding]], got {got(sorted(table))}")
        rows = table.get("finding", [])
        if not isinstance(rows, list):
            raise ValueError(f"finding must be [[finding]], got {got(rows)}")
        return tuple(map(_finding, rows))
    except ValueError as error:
        raise FindingsError(file, str(error)) from error


def _finding(row: Any) -> Finding:
    if not isinstance(row, dict):
        raise ValueError(f"a finding must be a table, got {got(row)}")
    hints = get_type_hints(Finding)
    needed = {one.name for one in fields(Finding) if one.default is MISSING}
    if not needed <= row.keys() <= hints.keys():
        names = sorted((needed - row.keys()) | (row.keys() - hints.keys()))
        raise ValueError(f"a finding lacks, or has what it must not: {got(names, 120)}")
    texts = tuple[str, ...]
    for name, value in row.items():
        kind: Any = {texts: list, Mapping[str, Any]: dict}.get(hints[name], hints[name])
        words = hints[name] != texts or all(isinstance(one, str) for one in value if kind is list)
        if type(value) is not kind or not words:
            raise ValueError(f"{name} of a finding must be {kind.__name__}, got {got(value)}")
    given: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in row.items()}
    return Finding(**given)


def findings_of(implementation: str, cell: str) -> tuple[Finding, ...]:
    """Return the findings that show in a cell."""
    return tuple(
        finding
        for finding in findings()
        if finding.implementation == implementation and finding.shows_in(cell)
    )


@cache
def known() -> Mapping[str, Any]:
    """implementation -> {"version", "cells": cell -> level -> group -> kind -> number}."""
    return read_known((files(__package__) / "known.json").read_text())


def read_known(text: str, *, file: str = "known.json") -> Mapping[str, Any]:
    """Parse `known` from a JSON text. Raises FindingsError if it is invalid."""
    try:
        data: Any = json_data(text)
        for name, one in _tables("implementations", data):
            if one.keys() != {"version", "cells"} or not isinstance(one["version"], str):
                raise ValueError(f"{name} must have a version and cells, got {got(one)}")
            for cell, levels in _tables(f"cells of {name}", one["cells"]):
                for level, groups in _tables(cell, levels):
                    for group, kinds in _tables(f"{cell}, {level}", groups):
                        _check_counts(f"{cell}, {level}, {group}", kinds)
    except (ValueError, DataError) as error:
        raise FindingsError(file, str(error)) from error
    found: Mapping[str, Any] = data
    return found


def _tables(what: str, data: Any) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(data, dict) or not all(isinstance(one, dict) for one in data.values()):
        raise ValueError(f"{what} must be a table of tables, got {got(data)}")
    return list(data.items())


def _check_counts(what: str, counts: Mapping[str, Any]) -> None:
    for kind, number in counts.items():
        if type(number) is not int or number < 1:
            raise ValueError(f"{what}: {kind} must be counted by a whole number, got {got(number)}")


def known_counts(implementation: str, cell: str, level: str) -> Counts:
    """Return the known mismatches of a cell; empty where it is exact."""
    counts: Counts = known().get(implementation, {}).get("cells", {}).get(cell, {}).get(level, {})
    return counts


def compare_with_known(
    implementation: str, cell: str, level: str, found: Counts, *, every_example: bool = True
) -> tuple[str, list[str]]:
    """Judge a cell's mismatches. Returns ("exact" | "last bit" | "known" | "red", differences from the known
    counts, largest first).

    Values that differ in the last bit are not wrong: they are compared with the known counts only where those
    have some. If not every example was asked, the known counts are an upper limit. At a level that was never
    counted, though another was, the kinds must be those of a finding.
    """
    expected = known_counts(implementation, cell, level)
    explained = {kind for finding in findings_of(implementation, cell) for kind in finding.kinds}
    counted = known().get(implementation, {}).get("cells", {}).get(cell, {})
    if found and counted and level not in counted:
        new = {kind for kinds in found.values() for kind in kinds} - explained
        return ("red" if new else "known"), [f"{UNEXPLAINED}{', '.join(sorted(new))}"] if new else []
    only_last_bits = {kind for kinds in found.values() for kind in kinds} == {LAST_BIT}
    if only_last_bits and not expected:
        return LAST_BIT, []
    if not every_example:
        expected = {
            group: {kind: min(number, expected.get(group, {}).get(kind, 0)) for kind, number in kinds.items()}
            for group, kinds in found.items()
        }
    if found == expected:
        if not found:
            return "exact", []
        unexplained = {kind for kinds in found.values() for kind in kinds} - explained
        return ("red" if unexplained else "known"), [f"{UNEXPLAINED}{', '.join(sorted(unexplained))}"]

    def by_difference(group: str) -> int:
        return -abs(sum(found.get(group, {}).values()) - sum(expected.get(group, {}).values()))

    lines = []
    for group in sorted(dict.fromkeys([*found, *expected]), key=by_difference):
        got, want = found.get(group, {}), expected.get(group, {})
        for kind in dict.fromkeys([*got, *want]):
            if got.get(kind, 0) != want.get(kind, 0):
                was = f", known {want.get(kind, 0):,}" if expected else ""
                lines.append(f"{group_in_words(group)}: {got.get(kind, 0):,} x {kind}{was}")
    return "red", lines
