"""The table at the end of a run: every figure of every row, whole."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.table import Table
from sample_record import build_full_record, build_record

from mxcheck.gate.bounds_tables import Bounds
from mxcheck.gate.case import Case
from mxcheck.gate.drift import Drift
from mxcheck.gate.result import CaseResult, Outcome
from mxcheck.gate.verdict import Check
from mxcheck.models.recipes.ladder import LADDER, MX, TIERS, WHOLE_MODEL, with_tiers
from mxcheck.models.recipes.recipe import recipe
from mxcheck.models.zoo.known_models import REFERENCE_MODELS
from mxcheck.reporting.layers_table import layers_table, without_layers
from mxcheck.reporting.table import (
    looking_ahead_lines,
    percent_change,
    render,
    results_table,
    skipped_lines,
    unverified_lines,
    what_next,
)

BOUNDS = Bounds(kl=0.004, rise=1.0)
DRIFT = Drift(median=1e-5, rms=1.23e-4, max=1.0, median_bound=1.0, rms_bound=1.0, max_bound=1.0)
ROW = CaseResult(
    case=Case(model="ref-llama", precision="mxfp8_e4m3", tier="B"),
    outcome=Outcome.PASSED,
    record=build_record(),
    bounds=BOUNDS,
    drift=DRIFT,
)
CHECKPOINT = {"kind": "checkpoint", "precision": "", "tier": None, "subject": "my-fp8"}
COLUMNS = [
    *("model", "precision", "tier", "perplexity", "cross-ent", "entropy", "change_%_±_SE"),
    *("KL", "top-1_%", "sat._%", "weights", "bounds", "drift", "verdict"),
]


def changed(row: CaseResult, **changes: Any) -> CaseResult:
    """The row with other fields, of its case too."""
    of_case = {name: changes.pop(name) for name in list(changes) if name in Case.__slots__}
    return replace(row, case=replace(row.case, **of_case), **changes)


def ended(row: CaseResult, word: str) -> CaseResult:
    """The row with another verdict, in the table's word."""
    name, _, steps = word.partition(" step ")
    failures = [Check(step=int(step), key="", passed=False, message="") for step in steps.split(",") if step]
    return replace(row, outcome=Outcome(name), failures=tuple(failures))


def cells(row: CaseResult) -> dict[str, str]:
    """One row's cells by the column's name."""
    table = results_table([row])
    return {str(column.header).replace(" ", "_"): str(list(column.cells)[-1]) for column in table.columns}


def text(*rows: CaseResult, color: bool = False) -> str:
    return render(results_table(rows), color=color)


def test_cells() -> None:
    # rises 1, 2, 1.5, 1.2 e-3: mean 1.425e-3, standard error 2.175e-4; exp(mean) - 1 = 1.42602e-3
    assert cells(ROW) == {
        "model": "ref-llama",
        "precision": "mxfp8_e4m3",
        "tier": "B",
        "perplexity": "7.493",
        "cross-ent": "2.01392",
        "entropy": "2.01310",
        "change_%_±_SE": "+0.143 ± 0.022",
        "KL": "0.001000",
        "top-1_%": "98.75",
        "sat._%": "",
        "weights": "26%",  # 33,792 of 131,072 bytes
        "bounds": "25%",
        "drift": "1e-04",
        "verdict": "pass",
    }
    assert list(cells(ROW)) == COLUMNS


@pytest.mark.parametrize(
    ("changes", "column", "cell"),
    [
        pytest.param({"tier": None}, "tier", "", id="whole-model"),
        pytest.param({"options": ("block16", "samples8")}, "tier", "B+block16+samples8", id="options"),
        pytest.param(
            {"tier": None, "options": ("samples8",)}, "tier", "samples8", id="options-of-whole-model"
        ),
        pytest.param({"record": build_record(bit_equal=True)}, "change_%_±_SE", "0", id="bit-equal"),
        pytest.param(
            {
                "record": build_record(
                    reference_losses=[1.0], sequence_losses=[1.0 + math.log(1.5)], reference_entropies=[1.0]
                )
            },
            "change_%_±_SE",
            "+50.000",
            id="one-sequence-has-no-error",
        ),
        pytest.param(
            {"record": build_record(sequence_losses=[1.9, 2.0, 1.8, 1.95])},
            "change_%_±_SE",
            "-9.516 ± 0.000",
            id="a-gain",
        ),
        pytest.param({"record": build_record(weight_bytes=131_072)}, "weights", "100%", id="as-loaded"),
        pytest.param({"record": build_record(weight_bytes=17_408)}, "weights", "13%", id="4.25-bits"),
        pytest.param({"bounds": None}, "bounds", "", id="no-bounds"),
        pytest.param(CHECKPOINT, "precision", "checkpoint.my-fp8", id="checkpoint"),
        pytest.param(CHECKPOINT, "tier", "", id="checkpoint-has-no-tier"),
        pytest.param({"kind": "training"}, "precision", "training.mxfp8_e4m3-B", id="training"),
        pytest.param({"kind": "training", "options": ("x",)}, "tier", "x", id="training-with-option"),
        pytest.param({"bounds": Bounds(kl=0.0, rise=0.0)}, "bounds", "-", id="bounds-of-zero"),
        pytest.param({"bounds": Bounds(kl=0.0005, rise=0.0)}, "bounds", "200%", id="over-bounds"),
        pytest.param({"drift": None}, "drift", "", id="no-baseline"),
        pytest.param({"drift": replace(DRIFT, rms=0.0)}, "drift", "0", id="no-drift"),
    ],
)
def test_a_cell(changes: dict[str, Any], column: str, cell: str) -> None:
    assert cells(changed(ROW, **changes))[column] == cell


def test_percent_carries_the_error_through_the_exponential() -> None:
    record = build_record(
        reference_losses=[0.0, 0.0, 0.0, 0.0], sequence_losses=[math.log(2) + x for x in (-1, 1, -1, 1)]
    )
    change, error = percent_change(record)
    assert change == pytest.approx(100.0)  # twice the perplexity
    assert error == pytest.approx(100 * 2 * math.sqrt(4 / 3) / 2)  # delta method: d exp(m) = exp(m) dm


def test_a_case_that_ended_before_it_measured_has_only_names_and_a_verdict() -> None:
    row = cells(_crash())
    assert {name: cell for name, cell in row.items() if cell} == {
        "model": "ref-moe",
        "precision": "mxint8",
        "tier": "A",
        "verdict": "CRASH",
    }
    assert re.search(r"ref-moe +mxint8 +A +CRASH", text(ROW, changed(ROW, model="ref-moe"), _crash()))


def _crash() -> CaseResult:
    return CaseResult(case=Case(model="ref-moe", precision="mxint8", tier="A"), outcome=Outcome.CRASHED)


VERDICTS = tuple(
    "FAIL step 4,5,6" if outcome is Outcome.FAILED else outcome.value
    for outcome in Outcome
    if outcome is not Outcome.SKIPPED
)
LARGE = build_record(
    perplexity=12345.678,
    cross_entropy=12.34567,
    entropy=10.12345,
    kl=10.123456,
    top1_agreement=1.0,
    sequence_losses=[2.5, 2.9, 2.4, 2.8],
)


def assert_whole(output: str, rows: list[CaseResult]) -> None:
    """Each row is one line that holds every one of its cells, and the header every column."""
    assert "…" not in output
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert " ".join(COLUMNS).replace("_", " ") in lines
    for row in rows:
        assert " ".join(cell for cell in cells(row).values() if cell) in lines


@pytest.mark.parametrize("verdict", VERDICTS)
def test_no_figure_is_folded_or_cut(verdict: str) -> None:
    rows = [
        ended(
            changed(ROW, model=max(REFERENCE_MODELS, key=len), precision=max(LADDER, key=len)),
            verdict,
        ),
        ended(ROW, verdict),
        _crash(),
    ]
    output = text(*rows)
    assert_whole(output, rows)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"model": "meta-llama--Llama-3.1-8B-Instruct"}, id="hub-id"),
        pytest.param({"model": "outlier-llama", "options": ("samples64",)}, id="options"),
        pytest.param({"model": "outlier-llama", "verdict": "FAIL step 2,3,4,5,6"}, id="many-steps"),
        pytest.param({"record": LARGE}, id="large-figures"),
    ],
)
def test_nor_where_the_table_is_wider(changes: dict[str, Any]) -> None:
    others = {name: value for name, value in changes.items() if name != "verdict"}
    rows = [ended(changed(ROW, **others), changes.get("verdict", "FAIL step 4,5,6"))]
    assert_whole(text(*rows), rows)


def test_a_ruined_model_is_still_a_row() -> None:
    """exp overflows beyond 709 nats."""
    rows = [replace(ROW, record=build_record(sequence_losses=[800.0, 801.0, 802.0, 803.0]))]
    assert cells(rows[0])["change_%_±_SE"] == "+inf"
    assert_whole(text(*rows), rows)


def test_a_table_is_no_wider_than_it_needs_to_be() -> None:
    """Two windows side by side on a common screen have 140 columns each: the MX precisions of our models
    fit."""
    rows = [
        changed(ROW, model=model, precision=precision, tier=tier)
        for model in REFERENCE_MODELS
        for precision in MX
        for tier in TIERS
    ]
    assert max(map(len, text(*rows, _crash()).splitlines())) <= 140


@pytest.mark.parametrize("verdict", VERDICTS)
def test_only_what_is_not_good_is_red(verdict: str) -> None:
    red = "\x1b[1;31m"
    good = verdict in ("pass", "accepted", "updated", "recentred", "measured")
    assert (red in text(ended(ROW, verdict), color=True)) is not good


def test_without_colour_there_are_no_escapes() -> None:
    assert "\x1b" not in text(ended(ROW, "CRASH"))


def test_rows_keep_their_order_and_models_are_set_apart() -> None:
    names = ["ref-neo", "ref-neo", "ref-llama", "ref-moe"]
    table = results_table([changed(ROW, model=name) for name in names])
    assert list(table.columns[0].cells) == ["ref-neo", *names[:2], "ref-llama", names[2], "ref-moe", names[3]]
    assert [row.end_section for row in table.rows] == [False, False, True, False, True, False, False]


def test_units_are_explained() -> None:
    output = " ".join(text(ROW).split())
    assert output.startswith("mxcheck: accuracy")
    assert "cross-entropy, entropy, KL in nats/token" in output
    assert "KL in % of its bound" in output
    assert "weights: bytes of all weights, packed, beside those as loaded" in output


def test_no_rows() -> None:
    assert "perplexity" in text()


def skipped(model: str, precision: str, tier: str, reason: str) -> CaseResult:
    case = Case(model=model, precision=precision, tier=tier)
    return CaseResult(case=case, outcome=Outcome.SKIPPED, reason=reason)


def test_skipped_cases_are_one_line_a_reason() -> None:
    no_gpu, no_linear = "needs a CUDA device", "converts none of the 4 modules"
    assert skipped_lines(
        [
            ROW,
            skipped("ref-llama", "te_fp8_current", "A", no_gpu),
            skipped("ref-llama", "te_fp8_current", "B", no_gpu),
            skipped("ref-moe", "te_fp8_current", "B", no_gpu),
            skipped("ref-moe", "bnb_int8", "A", no_linear),
            skipped("ref-moe", "te_mxfp8", "B", no_gpu),
            _crash(),
        ]
    ) == [
        f"skipped: te_fp8_current, te_mxfp8 of ref-llama, ref-moe (cases: 4): {no_gpu}",
        f"skipped: bnb_int8 of ref-moe (cases: 1): {no_linear}",
    ]


def test_without_skipped_cases_there_is_no_such_line() -> None:
    assert skipped_lines([ROW, _crash()]) == []
    assert skipped_lines([]) == []


@pytest.mark.parametrize(("precision", "tier"), with_tiers())
@pytest.mark.parametrize("attention", [False, True], ids=["linears", "attention"])
def test_figures_that_are_not_causal_are_told(precision: str, tier: str | None, attention: bool) -> None:
    ours = LADDER[precision].library is None and precision not in WHOLE_MODEL
    made = recipe(precision, tier=tier, attention=attention and ours)
    row = changed(
        ROW,
        precision=precision,
        tier=tier,
        record=build_record(precision=precision, tier=tier, recipe=made.as_dict()),
    )
    lines = looking_ahead_lines([ROW, row, row, _crash()])
    assert [line.split(":")[1:3] for line in lines] == (
        [[f" {precision} (cases", " 2)"]] if made.looks_ahead else []
    )


def test_a_skipped_case_is_a_row_that_is_not_red() -> None:
    row = skipped("ref-moe", "bnb_int8", "A", "why")
    assert {name: cell for name, cell in cells(row).items() if cell} == {
        "model": "ref-moe", "precision": "bnb_int8", "tier": "A", "verdict": "skipped",
    }  # fmt: skip
    assert "\x1b[1;31m" not in text(row, color=True)


# What stands below the table


def test_experts_that_no_token_reached_are_told_once_a_model() -> None:
    record = build_full_record()
    assert record.counters is not None
    idle = replace(record.counters, expert_rows={"layers.0.experts": (70, 0), "layers.1.experts": (0, 0)})
    rows = [replace(ROW, record=one) for one in (replace(record, counters=idle), record)]
    (line,) = unverified_lines(rows)
    assert line == (
        "unverified: ref-llama sends no token to 3 of its experts (1 of layers.0.experts, 0 of "
        "layers.1.experts, 1 of layers.1.experts); measure more text"
    )
    assert unverified_lines([replace(ROW, record=record)]) == []


def test_what_to_do_about_a_model_without_baselines() -> None:
    missing = replace(ROW, outcome=Outcome.MISSING)
    (line,) = what_next([missing])
    assert line.startswith("mxcheck: ref-llama has no baselines of these cases yet.")
    assert "--snapshot-update" in line
    assert what_next([missing, ROW]) == []
    assert what_next([replace(ROW, outcome=Outcome.MEASURED)]) == [
        "mxcheck: measured only (--mx-measure): nothing was judged"
    ]


def test_the_share_of_saturated_elements() -> None:
    row = replace(ROW, record=build_full_record())  # 32 of 3,200 elements of each operand
    assert cells(row)["sat._%"] == "1.00"


def test_layers_are_sorted_by_their_error() -> None:
    record = build_full_record()
    assert record.sublayers is not None
    (place, error), *_ = record.sublayers.items()
    table = layers_table(replace(record, sublayers={"a": error, place: replace(error, norm=0.5)}))
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows == [
        (place, "50", "5", "-0.4", "30"),
        ("a", "2", "5", "-0.4", "30"),
    ]
    assert without_layers(record) == ""
    assert without_layers(build_record()) == "ref-llama-mxfp8_e4m3-B: no layers: a sample has none"


def first_cells(table: Table) -> list[tuple[str, ...]]:
    return [tuple(map(str, row)) for row in zip(*(column.cells for column in table.columns), strict=True)]


def test_the_reference_stands_before_each_model_without_its_own_case() -> None:
    fp32 = changed(ROW, precision="fp32", tier=None)
    neo = changed(ROW, model="ref-neo")
    rows = first_cells(results_table([ROW, neo, changed(fp32, model="ref-moe")]))
    assert [row[:2] for row in rows] == [
        ("ref-llama", "reference"),
        ("ref-llama", "mxfp8_e4m3"),
        ("ref-neo", "reference"),
        ("ref-neo", "mxfp8_e4m3"),
        ("ref-moe", "fp32"),
    ]
    figures = ("ref-llama", "reference", "", "7.482", "2.01250", "2.01250")
    assert rows[0] == (*figures, *[""] * (len(rows[0]) - len(figures)))


def test_a_case_without_figures_has_no_reference_to_show() -> None:
    assert [row[1] for row in first_cells(results_table([_crash()]))] == [_crash().case.precision]


def test_a_wide_table() -> None:
    table = results_table([replace(ROW, seconds=1.25)], wide=True)
    _, row = first_cells(table)
    wide = dict(zip((str(column.header) for column in table.columns), row, strict=True))
    assert {name: wide[name] for name in ("modules", "Δ cross-ent", "Δ entropy", "seconds")} == {
        "modules": "2",
        "Δ cross-ent": "+0.00142",
        "Δ entropy": "+0.00060",
        "seconds": "1.2",
    }
    assert list(wide)[-1] == "verdict"
