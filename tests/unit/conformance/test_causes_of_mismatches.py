"""Each cause of a cell's mismatches is told once, by an input that shows it and no other."""

from __future__ import annotations

import pytest
from planted_causes import PAIRS, Pair, cast_with

from mxcheck.conformance.cells import cells
from mxcheck.conformance.describe import describe
from mxcheck.conformance.run import counterexamples, run_cell
from mxcheck.conformance.verifier import compare

CELLS = {cell.id: cell for cell in cells("full")}


@pytest.mark.parametrize("pair", [pytest.param(pair, id=name) for name, pair in PAIRS.items()])
def test_two_causes_are_both_shown_and_each_by_an_input_of_its_own(pair: Pair) -> None:
    """Where its own cause is mended an example is right; where the other one is, it is as wrong as before."""
    kernel = cast_with(pair.causes)
    found = counterexamples(kernel, run_cell(kernel, CELLS[pair.cell], "quick"))
    shown = []
    for group, one in found:
        mended = [compare(cast_with(pair.causes[:at] + pair.causes[at + 1 :]), one.x, one.spec) for at in (0, 1)]
        fails = [one.kind in again.counts for again in mended]
        assert sorted(fails) == [False, True], describe(group, one, "k:f")
        shown.append(fails.index(False))
    assert set(shown) == {0, 1}, [describe(group, one, "k:f")[0] for group, one in found]
