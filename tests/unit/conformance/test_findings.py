"""Known findings: the two data files agree with each other, with the oracle and with the document; a run that
shows anything else is red."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mxcheck.conformance import findings as module
from mxcheck.conformance.cases.cells import LEVELS, Cell, cells
from mxcheck.conformance.failure_text import results
from mxcheck.conformance.findings import (
    Finding,
    compare_with_known,
    findings,
    findings_of,
    known,
    known_counts,
)
from mxcheck.conformance.verify.verifier import KINDS, Comparison, expected_parts, expected_values
from mxcheck.formats.aliases import precision_of
from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.notation import DTYPES, parse_hex
from mxcheck.kernels.registry import implementations

CELLS = {cell.id: cell for cell in cells("full")}
ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "findings.md"
TOOL = ROOT / "tools" / "record_findings.py"
CAST = {"format", "rule", "dtype", "shape", "axis", "block_size", "input"}
PARTS = ("codes", "scales", "tensor_scale", "values")

each_finding = pytest.mark.parametrize("finding", [pytest.param(one, id=one.name) for one in findings()])


def problems(finding: Finding) -> list[str]:
    """What is wrong with a finding as it is written down."""
    told, found = finding.counterexample, []
    if not finding.name.startswith(finding.implementation.replace("_", "-") + "-"):
        found.append("the name does not begin with the implementation's")
    if finding.implementation not in implementations():
        found.append("no such implementation")
    found += [f"no format {name}" for name in finding.formats if name not in BLOCK_FORMATS]
    found += [
        f"no rule {rule}" for rule in finding.rules if rule not in {cell.rule for cell in CELLS.values()}
    ]
    found += [f"no kind {kind}" for kind in finding.kinds if kind not in KINDS]
    if not (finding.versions and finding.formats and finding.rules and finding.kinds):
        found.append("an empty list")
    if not finding.cause.endswith(".") or re.search(r"[.!?]\s", finding.cause):
        found.append("the cause is not one sentence")
    sides = {f"{part}_{side}" for part in PARTS for side in ("got", "expected")}
    found += [f"no key {key}" for key in told if key not in {*CAST, *sides, "error"}]
    if f"{precision_of(told['format'])}-{told['rule']}" not in CELLS or not finding.shows_in(
        f"{precision_of(told['format'])}-{told['rule']}"
    ):
        found.append("the counterexample is of none of its cells")
    if told.get("dtype", "float32") not in DTYPES:
        found.append("no such dtype")
    pairs = {part: (told.get(f"{part}_got"), told.get(f"{part}_expected")) for part in PARTS}
    found += [
        f"{part} got or expected, not both"
        for part, two in pairs.items()
        if (None in two) != (two == (None, None))
    ]
    if "error" not in told and all(got == expected for got, expected in pairs.values()):
        found.append("what was got is what was expected")
    return found


def an_example(finding: Finding) -> tuple[torch.Tensor, Cell]:
    """Input and cell of a finding's counterexample."""
    told = finding.counterexample
    dtype = told.get("dtype", "float32")
    values = parse_hex(told["input"].split(), dtype)
    x = torch.from_numpy(values.reshape(tuple(told.get("shape") or values.shape))).to(getattr(torch, dtype))
    return x, CELLS[f"{precision_of(told['format'])}-{told['rule']}"]


# The data files


@each_finding
def test_a_finding_is_well_formed(finding: Finding) -> None:
    assert not problems(finding)


def test_names_are_unique() -> None:
    names = [finding.name for finding in findings()]
    assert len(names) == len(set(names))


SOUND = Finding(
    name="torchao-one",
    implementation="torchao",
    versions=("0",),
    formats=("fp8_e4m3", "nvfp4"),
    rules=("floor", "amax"),
    kinds=("code",),
    cause="It multiplies by 2.5 where it ought to divide.",
    counterexample={
        "format": "fp8_e4m3",
        "rule": "floor",
        "input": "3f800000 0*31",
        "scales_got": "77",
        "scales_expected": "78",
    },
)
FAULTS: Mapping[str, Callable[[Finding], Finding]] = {
    "what was got is what was expected": lambda one: replace(
        one, counterexample={**one.counterexample, "scales_got": "78"}
    ),
    "scales got or expected, not both": lambda one: replace(
        one, counterexample={key: value for key, value in one.counterexample.items() if key != "scales_got"}
    ),
    "no key scale": lambda one: replace(one, counterexample={**one.counterexample, "scale": "00"}),
    "no such dtype": lambda one: replace(one, counterexample={**one.counterexample, "dtype": "float8"}),
    "the counterexample is of none of its cells": lambda one: replace(
        one, counterexample={**one.counterexample, "rule": "ceil"}
    ),
    "no format fp8": lambda one: replace(one, formats=("fp8_e4m3", "fp8")),
    "no rule nearest": lambda one: replace(one, rules=("floor", "nearest")),
    "no kind sign": lambda one: replace(one, kinds=("sign",)),
    "an empty list": lambda one: replace(one, versions=()),
    "no such implementation": lambda one: replace(one, name="torchai-one", implementation="torchai"),
    "the name does not begin with the implementation's": lambda one: replace(one, name="one"),
    "the cause is not one sentence": lambda one: replace(one, cause="It multiplies. It ought to divide."),
}


def test_a_sound_finding_has_no_problems() -> None:
    assert not problems(SOUND)


@pytest.mark.parametrize("problem", FAULTS)
def test_a_fault_is_refused(problem: str) -> None:
    assert problem in problems(FAULTS[problem](SOUND))


@each_finding
def test_expected_bits_are_the_oracles(finding: Finding) -> None:
    told = finding.counterexample
    x, cell = an_example(finding)
    spec = cell.spec(axis=told.get("axis", -1), block_size=told.get("block_size"))
    expected: tuple[Any, ...] = expected_parts(x, spec)
    if "values_expected" in told:
        expected = (expected_values(expected, x.dtype, spec).float().numpy(),)
    words = results(Comparison(got=expected, expected=expected))
    keys = [key for key in told if key.endswith("_expected")]
    assert {key: words[key] for key in keys} == {key: told[key] for key in keys}
    assert keys or "error" in told


@pytest.mark.parametrize("implementation", known())
def test_every_known_mismatch_has_a_finding(implementation: str) -> None:
    assert implementation in implementations()
    for cell, levels in known()[implementation]["cells"].items():
        explained = {kind for finding in findings_of(implementation, cell) for kind in finding.kinds}
        assert cell in CELLS
        assert set(levels) <= set(LEVELS)
        assert shown_kinds(implementation, cell) <= explained, cell


@each_finding
def test_a_finding_shows_in_each_of_its_cells(finding: Finding) -> None:
    shown = {name: shown_kinds(finding.implementation, name) for name in CELLS if finding.shows_in(name)}
    assert shown
    assert all(kinds & set(finding.kinds) for kinds in shown.values()), shown
    assert set(finding.kinds) <= set().union(*shown.values())


@each_finding
def test_a_finding_was_seen_on_the_version_that_is_recorded(finding: Finding) -> None:
    assert known()[finding.implementation]["version"] in finding.versions


def test_the_counts_are_written_as_the_tool_writes_them() -> None:
    tool = runpy.run_path(str(TOOL))
    text = tool["KNOWN"].read_text(encoding="utf-8")
    assert tool["as_text"](json.loads(text)) == text
    assert max(map(len, text.splitlines())) < 8000


def shown_kinds(implementation: str, cell: str) -> set[str]:
    levels = known()[implementation]["cells"].get(cell, {})
    return {kind for groups in levels.values() for kinds in groups.values() for kind in kinds}


# What a run is compared with


@pytest.fixture
def one_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """One finding, of codes, in one cell: `wide` shows two."""
    cell = {"quick": {"wide": {"code": 2}, "boundaries": {"code": 1}}}
    data = {"torchao": {"version": "0", "cells": {"mxfp8_e4m3-floor": cell, "mxfp8_e4m3-ceil": cell}}}
    monkeypatch.setattr(module, "findings", lambda: (SOUND,))
    monkeypatch.setattr(module, "known", lambda: data)


def verdict(counts: Mapping[str, Mapping[str, int]], cell: str = "mxfp8_e4m3-floor") -> tuple[str, list[str]]:
    return compare_with_known("torchao", cell, "quick", counts)


@pytest.mark.usefixtures("one_known")
def test_what_is_known_is_known() -> None:
    assert verdict({"wide": {"code": 2}, "boundaries": {"code": 1}})[0] == "known"


@pytest.mark.usefixtures("one_known")
def test_nothing_where_nothing_is_known_is_exact() -> None:
    assert verdict({}, "mxfp8_e5m2-floor") == ("exact", [])
    assert compare_with_known("another", "mxfp8_e4m3-floor", "quick", {}) == ("exact", [])


@pytest.mark.usefixtures("one_known")
def test_values_in_the_last_bit_are_not_red() -> None:
    last = {"wide": {"last bit": 5}}
    assert verdict(last, "mxfp8_e5m2-floor") == ("last bit", [])
    assert verdict({"wide": {"last bit": 5, "value": 1}}, "mxfp8_e5m2-floor")[0] == "red"
    assert verdict(last)[0] == "red"  # and what was known is gone


@pytest.mark.usefixtures("one_known")
@pytest.mark.parametrize(
    ("counts", "line"),
    [
        pytest.param(
            {"wide": {"code": 2}, "boundaries": {"code": 1}, "every_code": {"code": 5}},
            "every_code: 5 x code, known 0",
            id="a group appears",
        ),
        pytest.param(
            {"wide": {"code": 2, "scale": 1}, "boundaries": {"code": 1}},
            "wide: 1 x scale, known 0",
            id="a kind appears",
        ),
        pytest.param({"wide": {"code": 2}}, "boundaries: 0 x code, known 1", id="a group vanishes"),
        pytest.param({}, "wide: 0 x code, known 2", id="all of it vanishes"),
        pytest.param(
            {"wide": {"code": 3}, "boundaries": {"code": 1}}, "wide: 3 x code, known 2", id="it grows"
        ),
        pytest.param(
            {"wide": {"code": 1}, "boundaries": {"code": 1}}, "wide: 1 x code, known 2", id="it shrinks"
        ),
    ],
)
def test_a_change_is_red(counts: dict[str, dict[str, int]], line: str) -> None:
    result, lines = verdict(counts)
    assert result == "red"
    assert line in lines


@pytest.mark.usefixtures("one_known")
def test_a_new_cell_or_implementation_is_red_and_a_kind_at_a_level_that_was_not_counted() -> None:
    counts = {"wide": {"code": 2}, "boundaries": {"code": 1}}
    assert verdict(counts, "mxfp8_e5m2-floor")[0] == "red"
    assert compare_with_known("torchao", "mxfp8_e4m3-floor", "full", counts) == ("known", [])
    new = {"wide": {"code": 2, "scale": 1}}
    assert compare_with_known("torchao", "mxfp8_e4m3-floor", "full", new) == (
        "red",
        ["no finding explains: scale"],
    )
    assert compare_with_known("another", "mxfp8_e4m3-floor", "quick", counts)[0] == "red"


@pytest.mark.usefixtures("one_known")
def test_recorded_counts_that_no_finding_explains_are_red(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"wide": {"code": 2}, "boundaries": {"code": 1}}
    assert verdict(counts, "mxfp8_e4m3-ceil") == ("red", ["no finding explains: code"])
    monkeypatch.setattr(module, "findings", lambda: (replace(SOUND, kinds=("scale",)),))
    assert verdict(counts) == ("red", ["no finding explains: code"])


def test_recorded_counts_are_judged_known() -> None:
    for implementation, data in known().items():
        for cell, levels in data["cells"].items():
            for level, counts in levels.items():
                assert compare_with_known(implementation, cell, level, counts)[0] == (
                    "known" if counts else "exact"
                )
                assert known_counts(implementation, cell, level) == counts


# The document


def test_the_document_tells_every_finding_and_no_other() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert f"**{len(findings())} findings" in text
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \|(.*)$", text, re.MULTILINE))
    assert list(rows) == [finding.name for finding in findings()]
    for finding in findings():
        row = rows[finding.name]
        assert finding.cause in row, finding.name
        assert f"`{finding.counterexample['input']}`" in row, finding.name
        assert row.rstrip(" |").endswith("yes" if finding.open else "no"), finding.name
        assert all(version in text for version in finding.versions)
