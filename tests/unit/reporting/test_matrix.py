"""The conformance matrix: each verdict, the order, the notes, and nothing lost in JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mxcheck.conformance.cases.cells import cells
from mxcheck.reporting.matrix import as_json, cell_text, in_order, markdown, matrix_table, rendered


def row(implementation: str = "eager", verdict: str = "exact", **changes: Any) -> dict[str, Any]:
    return {
        "implementation": implementation,
        "version": "",
        "format": "fp8_e4m3",
        "rule": "floor",
        "level": "quick",
        "elements": 100,
        "verdict": verdict,
        "reason": None,
        "unsupported": {},
        "mismatches": {},
        "findings": {},
        "counterexamples": [],
        **changes,
    }


ROWS = [
    row(),
    row(rule="rceil"),
    row(format="nvfp4", rule="amax"),
    row("torchao", "known", version="0.18.0", findings={"low-scale": "the lowest scale is 2^-126"}),
    row(
        "torchao",
        "unsupported",
        version="0.18.0",
        rule="rceil",
        reason="torchao has no rule rceil",
        elements=0,
    ),
    row("torchao", "red", version="0.18.0", format="fp4_e2m1"),
    row("torchao", "unsupported", version="0.18.0", format="mxint8", reason="torchao has no format mxint8"),
    row(
        "torchao", "unsupported", version="0.18.0", format="fp6_e2m3", reason="torchao has no format fp6_e2m3"
    ),
    row("mine", "error"),
    row("mine", "known", rule="rceil", findings={"low-scale": "the lowest scale is 2^-126", "b": "why b"}),
]


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (None, ""),
        (row(), "exact"),
        (row(verdict="last bit"), "last bit"),
        (row(verdict="last bit", unsupported={"axes": "why"}), "last bit*"),
        (row(verdict="known", findings={"a": "why"}), "1 finding"),
        (row(verdict="known", findings={"a": "why", "b": "why"}), "2 findings"),
        (row(verdict="red"), "DIFFERS"),
        (row(verdict="error"), "ERROR"),
        (row(verdict="unsupported"), "-"),
        (row(unsupported={"axes": "why"}), "exact*"),
        (row(verdict="known", findings={"a": "why"}, unsupported={"axes": "why"}), "1 finding*"),
        (row(verdict="red", unsupported={"axes": "why"}), "DIFFERS*"),
        (row(verdict="error", unsupported={"axes": "why"}), "ERROR*"),
        (row(verdict="unsupported", reason="why", unsupported={"every_code": "why"}), "-"),
    ],
)
def test_a_cell(one: dict[str, Any] | None, text: str) -> None:
    assert cell_text(one) == text


def test_the_table() -> None:
    lines = rendered(ROWS, color=False).splitlines()
    assert lines[0] == "mxcheck: conformance, bit by bit (level quick)"
    table = [line.split() for line in lines[1:11] if line.strip(" ─")]
    assert table == [
        ["implementation", "format", "floor", "rceil", "amax"],
        ["eager", "fp8_e4m3", "exact", "exact"],
        ["nvfp4", "exact"],
        ["torchao", "0.18.0", "fp8_e4m3", "1", "finding", "-"],
        ["fp4_e2m1", "DIFFERS"],
        ["mine", "fp8_e4m3", "ERROR", "2", "findings"],
    ]


def test_formats_with_nothing_supported_have_no_line_but_a_reason() -> None:
    text = rendered(ROWS, color=False)
    table, _, notes = text.partition("exact: every scale")
    assert "mxint8" not in table
    assert "fp6_e2m3" not in table
    assert "torchao has no format mxint8, fp6_e2m3" in notes


def test_the_legend_is_not_as_narrow_as_a_table_of_one_cell() -> None:
    lines = rendered([row("mine", "red")], color=False).splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("exact: "))
    assert len(lines) - start <= 5
    assert 80 < max(map(len, lines)) <= 110


def test_the_notes() -> None:
    lines = rendered(ROWS, color=False).splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("finding "))
    assert lines[start:] == [
        "finding low-scale: the lowest scale is 2^-126",
        "finding b: why b",
        "not supported, torchao 0.18.0: torchao has no rule rceil; torchao has no format mxint8, fp6_e2m3",
    ]


def test_values_in_the_last_bit_are_counted() -> None:
    kinds = {"plain": {"last bit": 1200}, "any_scale": {"last bit": 34}}
    rows = [
        row("mine", "last bit", format="nvfp4", rule="amax", mismatches=kinds, elements=50000),
        row("mine", "red", format="e4m3_row", rule="amax", mismatches={"plain": {"last bit": 3, "value": 1}}),
    ]
    assert "in the last bit, mine: nvfp4 1,234 of 50,000 values" in rendered(rows, color=False).splitlines()


def test_what_an_implementation_refuses_in_part_is_noted() -> None:
    part = row("mine", unsupported={"axes": "only the last axis", "strided": "only the last axis"})
    lines = rendered([part], color=False).splitlines()
    assert lines[-1] == "some inputs not supported (*), mine: only the last axis (axes, strided)"
    assert "mine fp8_e4m3 exact* " in " ".join(" ".join(lines).split())
    star = "*: some inputs are not supported, or lie outside the domain that was learned, see below"
    assert star in " ".join(" ".join(lines).split())
    assert "| mine | fp8_e4m3 | exact* |" in markdown([part])
    assert f"- {lines[-1]}" in markdown([part]).splitlines()


def test_refused_inputs_are_told_once_a_reason() -> None:
    """With the formats if not all; what differs in a format's name or the last word only is one."""
    refused = [
        {"tails": "needs 32, got 33", "half": "no fp16", "nan": "mxint8 has no NaN"},
        {"tails": "needs 32, got 33", "axes": "needs 32, got 7", "nan": "fp4_e2m1 has no NaN"},
        {"tails": "needs 32, got 33"},
    ]
    rows = [
        row("mine", format=name, unsupported=groups)
        for name, groups in zip(("mxint8", "fp4_e2m1", "fp8_e4m3"), refused, strict=True)
    ]
    rows.append(row("mine", "unsupported", format="nvfp4", rule="amax", reason="mine has no format nvfp4"))
    assert rendered(rows, color=False).splitlines()[-2:] == [
        "not supported, mine: mine has no format nvfp4",
        (
            "some inputs not supported (*), mine: needs 32, got 33, 7 (tails, axes); "
            "no fp16 (half; only mxint8); mxint8, fp4_e2m1 has no NaN (nan)"
        ),
    ]


def test_colors_are_asked_for() -> None:
    assert "\x1b[" not in rendered(ROWS, color=False)
    colored = rendered(ROWS, color=True)
    assert "\x1b[32mexact" in colored
    assert "\x1b[1;31mDIFFERS" in colored


def test_markdown() -> None:
    lines = markdown(ROWS).splitlines()
    assert lines[:9] == [
        "Level `quick`.",
        "",
        "| implementation | format | floor | rceil | amax |",
        "|---|---|---|---|---|",
        "| eager | fp8_e4m3 | exact | exact |  |",
        "| eager | nvfp4 |  |  | exact |",
        "| torchao 0.18.0 | fp8_e4m3 | 1 finding | - |  |",
        "| torchao 0.18.0 | fp4_e2m1 | DIFFERS |  |  |",
        "| mine | fp8_e4m3 | ERROR | 2 findings |  |",
    ]
    assert "- finding b: why b" in lines
    assert markdown(ROWS).endswith("\n")
    assert not markdown(ROWS).endswith("\n\n")


def test_json_has_every_row_and_is_sorted_by_key() -> None:
    data = json.loads(as_json(ROWS))
    assert data == ROWS
    assert list(data[0]) == sorted(data[0])
    assert as_json(ROWS).endswith("]\n")


def test_rows_in_order_whichever_came_first() -> None:
    rows = [
        row(name, format=cell.format, rule=cell.rule)
        for name in ("torchao", "gfloat", "eager_values", "eager")
        for cell in cells("quick")[::-1]
    ]
    found = in_order(rows)
    names = list(dict.fromkeys(one["implementation"] for one in found))
    assert names == ["eager", "eager_values", "gfloat", "torchao"]
    formats = [one["format"] for one in found if one["implementation"] == "gfloat"]
    assert list(dict.fromkeys(formats)) == list(dict.fromkeys(cell.format for cell in cells("quick")))
    assert formats == sorted(formats, key=list(dict.fromkeys(formats)).index)
    assert in_order(found) == found


def test_rules_with_rounding_to_even_come_first_and_amax_last() -> None:
    rows = in_order(row(format=cell.format, rule=cell.rule) for cell in cells("quick"))
    header = [column.header for column in matrix_table(rows).columns]
    assert header[2:7] == ["floor", "ceil", "even", "rceil", "reciprocal"]
    assert set(header[7:-1]) == {"floor-away", "floor-zero", "floor-stoch.", "reciprocal-nan_stays"}
    assert header[-1] == "amax"


def test_no_rows() -> None:
    assert matrix_table([]).row_count == 0
    assert json.loads(as_json([])) == []
    assert markdown([]).startswith("Level `quick`.")
