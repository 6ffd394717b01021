"""What a run asks of the kernel suite: cells by rule and rounding, examples by block size, dtype and axis."""

from __future__ import annotations

import pytest
import torch

from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.conformance.cases.generator import examples
from mxcheck.conformance.cases.narrowing import EVERYTHING, Narrowing
from mxcheck.conformance.cell_run import run_cell
from mxcheck.conformance.findings import compare_with_known, known
from mxcheck.formats.spec import CastSpec, cast_spec, resolve_axis
from mxcheck.kernels.eager import quantize_eager

CELL = Cell(format="fp4_e2m1", scale_rule="floor")


@pytest.mark.parametrize("level", ["quick", "full"])
def test_all_of_a_level_where_nothing_is_said(level: str) -> None:
    assert EVERYTHING.cells(level) == cells(level)
    assert EVERYTHING.every_example
    assert all(EVERYTHING.takes(one.x, one.spec) for one in examples(CELL, "quick"))


def test_a_rule_and_a_rounding_choose_cells() -> None:
    of_rule = Narrowing(scale_rule="reciprocal").cells("quick")
    assert {cell.rule for cell in of_rule} == {"reciprocal", "reciprocal-nan_stays"}
    away = Narrowing(rounding="away").cells("quick")
    assert {cell.rule for cell in away} == {"floor-away"}
    assert Narrowing(scale_rule="rceil").every_example


def test_both_make_a_cell_that_quick_has_not() -> None:
    named = Narrowing(scale_rule="rceil", rounding="away", formats=("fp8_e4m3",))
    (cell,) = named.cells("quick")
    assert cell == Cell(format="fp8_e4m3", scale_rule="rceil", rounding="away")
    assert cell not in cells("quick")


def test_a_block_size_leaves_the_formats_that_have_it() -> None:
    assert {cell.format for cell in Narrowing(block_size=64).cells("quick")} == {
        *("fp8_e4m3", "fp8_e5m2", "fp6_e3m2", "fp6_e2m3", "fp4_e2m1", "mxint8", "fp4_e3m0")
    }
    assert "nvfp4" in {cell.format for cell in Narrowing(block_size=16).cells("quick")}


def test_no_cell_is_left() -> None:
    with pytest.raises(
        ValueError, match=r"no cell .* is left: --mx-format=mxint8 --mx-scale-rule=even; drop"
    ):
        Narrowing(formats=("mxint8",), scale_rule="even").cells("full")


@pytest.mark.parametrize(
    "narrowing",
    [
        Narrowing(block_size=64),
        Narrowing(dtype="bfloat16"),
        Narrowing(axis=-1),
        Narrowing(axis=0),
        Narrowing(block_size=32, dtype="float16", axis=-1),
    ],
    ids=str,
)
def test_a_kernel_is_called_with_nothing_else(narrowing: Narrowing) -> None:
    """Nor in other surroundings."""
    seen = []

    def kernel(x: torch.Tensor, spec: CastSpec) -> tuple[torch.Tensor, ...]:
        seen.append((x, spec))
        return quantize_eager(x, spec)

    result = run_cell(kernel, CELL, "quick", narrowing)
    assert not narrowing.every_example
    assert result.elements
    assert not result.counts
    assert seen
    for x, spec in seen:
        assert narrowing.block_size in (None, spec.block_size)
        assert narrowing.dtype in (None, str(x.dtype).removeprefix("torch."))
        if narrowing.axis is not None:
            assert resolve_axis(x.dim(), spec.axis) == resolve_axis(x.dim(), narrowing.axis)


def test_an_axis_is_the_same_from_either_end() -> None:
    x, last = torch.ones(2, 3), Narrowing(axis=-1)
    assert last.takes(x, cast_spec("fp4_e2m1", axis=1))
    assert last.takes(x, cast_spec("fp4_e2m1", axis=-1))
    assert not last.takes(x, cast_spec("fp4_e2m1", axis=0))
    assert not Narrowing(axis=2).takes(x, cast_spec("fp4_e2m1", axis=0))
    assert not Narrowing(axis=-3).takes(x, cast_spec("fp4_e2m1", axis=1))


def test_what_is_known_of_all_examples_is_the_most_that_some_may_show() -> None:
    counts = known()["gfloat"]["cells"]["mxfp4_e2m1-floor"]["quick"]
    group, kinds = next(iter(counts.items()))
    kind, number = next(iter(kinds.items()))
    some = {group: {kind: 1}}
    assert compare_with_known("gfloat", "mxfp4_e2m1-floor", "quick", some)[0] == "red"
    assert compare_with_known("gfloat", "mxfp4_e2m1-floor", "quick", some, every_example=False)[0] == "known"
    assert compare_with_known("gfloat", "mxfp4_e2m1-floor", "quick", {}, every_example=False)[0] == "exact"
    more = {group: {kind: number + 1}}
    assert compare_with_known("gfloat", "mxfp4_e2m1-floor", "quick", more, every_example=False)[0] == "red"
    other = {"no such group": {kind: 1}}
    assert compare_with_known("gfloat", "mxfp4_e2m1-floor", "quick", other, every_example=False)[0] == "red"
