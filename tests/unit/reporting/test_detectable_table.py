"""The table of what would be seen of each accepted case."""

from __future__ import annotations

import pytest
from rich.table import Table
from sample_record import build_record

from mxcheck.gate.baseline import BaselineError
from mxcheck.gate.bounds_tables import BoundsTables
from mxcheck.reporting.detectable_table import detectable_table

FP8 = "ref-llama/mxfp8_e4m3-B.json"
BOUNDS = BoundsTables([{"default": {"mxfp8_e4m3-B": {"kl": 0.004}, "mxfp8_e4m3-B+attention": {"kl": 0.25}}}])


def rows(table: Table) -> list[list[str]]:
    return [list(row) for row in zip(*(map(str, column.cells) for column in table.columns), strict=True)]


def test_a_row_a_case() -> None:
    record = build_record()
    (row,) = rows(detectable_table({FP8: record}, BOUNDS))
    assert row[:8] == [FP8, "4", "1000000000", "2.2e-04", "7.2e-04", "0.0725", "22.3", "1.0e-09"]
    # 32/3 times the noise, 8e-5 and 1.6e-5 (four sequences); twice the largest rise, 2e-3, and 0.4 of the
    # largest KL, 1.1e-3
    assert row[8:12] == ["8.6e-04", "4.0e-03", "1.7e-04", "4.4e-04"]
    assert row[12:] == ["3.0e-03"]


def test_the_header_and_what_it_means() -> None:
    table = detectable_table({}, BOUNDS)
    headers = [str(column.header) for column in table.columns]
    assert headers[:6] == ["baseline", "sequences", "tokens", "SE of the rise", "rise seen", "ppl % seen"]
    assert headers[7:] == ["drift here", "elsewhere: loss median", "max", "KL median", "max", "KL headroom"]
    assert "power 0.8" in str(table.caption)


def test_options_have_the_bounds_of_their_own() -> None:
    (row,) = rows(detectable_table({"x.json": build_record(options=["rceil", "attention"])}, BOUNDS))
    assert row[-1] == "2.5e-01"


def test_no_sampling_error_and_too_few_sequences() -> None:
    losses = [2.0, 2.1, 1.9, 2.05]
    single = {name: [2.0] for name in ("reference_losses", "reference_entropies", "sequence_losses")}
    same, one = rows(
        detectable_table(
            {
                "same.json": build_record(sequence_losses=losses, reference_losses=losses),
                "one.json": build_record(**single, sequence_kl=[0.001]),
            },
            BOUNDS,
        )
    )
    assert same[3:6] == ["0", "0", "0"]
    assert one[3:7] == ["inf", "inf", "inf", "inf"]


def test_what_cannot_be_read_is_shown() -> None:
    table = detectable_table({"x.json": BaselineError("baseline x.json was changed")}, BOUNDS)
    assert rows(table) == [["x.json: unreadable", *[""] * 12]]
    assert table.rows[0].style == "bold red"
    assert str(table.caption).startswith("baseline x.json was changed\n")


def test_a_case_without_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no bounds for mxint8-A of ref-llama"):
        detectable_table({"x.json": build_record(precision="mxint8", tier="A")}, BOUNDS)
