"""Whole matrices and single rows: what is asked, what is expected, and faults that nothing else shows."""

from __future__ import annotations

from itertools import product

import faults_of_shape
import numpy as np
import pytest
import torch

from mxcheck.conformance.cells import cells
from mxcheck.conformance.generator import examples
from mxcheck.conformance.matrices import BLOCKS, MOST_ELEMENTS, ROWS, matrices
from mxcheck.conformance.run import counterexamples, run_cell
from mxcheck.conformance.verifier import compare, expected_parts
from mxcheck.kernels.domain import Domain, domain
from mxcheck.kernels.eager import quantize_eager

CELLS = {cell.id: cell for cell in cells("full")}
FLOOR = CELLS["fp8_e4m3-floor"]
SOME = (
    "fp8_e4m3-rceil-nan_stays",
    "fp4_e2m1-floor-stochastic",
    "mxint8-ceil",
    "nvfp4-amax",
    "e4m3_tensor-amax",
    "e5m2_row-amax",
)
SMALL = 1 << 15


@pytest.mark.parametrize("cell", SOME)
def test_what_is_gathered_is_the_oracle_s_word(cell: str) -> None:
    held = 0
    for one in matrices(CELLS[cell], "quick"):
        x, spec = one.example.x, one.example.spec
        if x.numel() > SMALL and x.shape[0] < ROWS[-1]:
            continue
        oracle = expected_parts(x, spec)
        assert [part.shape for part in one.expected] == [part.shape for part in oracle]
        for part, wanted in zip(one.expected, oracle, strict=True):
            assert np.ascontiguousarray(part).tobytes() == wanted.tobytes()
        held += 1
    assert held > 200


@pytest.mark.parametrize("cell", ["fp8_e4m3-floor", "nvfp4-amax", "e4m3_row-amax"])
def test_every_pair_occurs(cell: str) -> None:
    size = CELLS[cell].spec().block_size or 32
    pairs = set()
    for one in matrices(CELLS[cell], "quick"):
        x, axis = one.example.x, one.example.spec.axis
        pairs.add((x.shape[1 + axis], x.shape[axis]))
        assert x.numel() <= max(MOST_ELEMENTS["quick"], ROWS[-1] * size)
    columns = [*(count * size for count in BLOCKS), 2 * size + size // 2 + 1]
    asked = {(rows, length) for rows, length in product(ROWS, columns) if rows * length <= 1 << 20}
    assert pairs == {*asked, (ROWS[-1], size)}


def test_each_dtype_layout_and_axis_meets_single_rows_and_tiles() -> None:
    seen = {}
    for one in matrices(FLOOR, "quick"):
        x = one.example.x
        rows = x.shape[1 + one.example.spec.axis]
        layout = (x.is_contiguous(), x.stride(-1) == 1, x.storage_offset() % 8 == 0)
        seen.setdefault(rows, set()).add((x.dtype, one.example.spec.axis, layout))
    for rows in (1, 128):
        assert {(dtype, axis) for dtype, axis, _ in seen[rows]} == set(
            product((torch.float32, torch.bfloat16, torch.float16), (-1, 0))
        )
    assert len({layout for _, _, layout in seen[128]}) >= 5


@pytest.mark.parametrize(
    "made_for",
    [
        Domain(dtypes=(torch.bfloat16,)),
        Domain(rows_multiple=128, columns_multiple=128, ranks=(2,), contiguous=True, axes=(-1,)),
        Domain(least_rows=16, axes=(0,)),
        Domain(block_sizes=(16,), ragged=False),
    ],
    ids=lambda one: one.words,
)
def test_all_lie_inside_of_a_domain(made_for: Domain) -> None:
    found = list(matrices(FLOOR, "quick", made_for))
    assert len(found) > 15
    assert not any(made_for.refuses(one.example.x, one.example.spec) for one in found)


def test_full_asks_larger_ones_in_each_dtype() -> None:
    largest = {}
    for one in matrices(CELLS["fp4_e2m1-floor"], "full"):
        dtype = one.example.x.dtype
        largest[dtype] = max(largest.get(dtype, 0), one.example.x.numel())
    assert len(largest) == 3
    assert min(largest.values()) > 1 << 20


# Faults that a shape brings about


@pytest.mark.parametrize("name", faults_of_shape.FAULTS)
def test_a_fault_of_shape_is_red(name: str) -> None:
    kernel = domain()(faults_of_shape.FAULTS[name])
    result = run_cell(kernel, FLOOR, "quick")
    assert {kind for kinds in result.counts.values() for kind in kinds} <= {
        "code",
        "scale",
        "zero sign",
        "nan",
    }
    assert result.counts
    shown = counterexamples(kernel, result)
    assert shown
    for _, one in shown:  # what is shown fails, unless it takes other surroundings
        assert one.surroundings or compare(kernel, one.x, one.spec).counts


@pytest.mark.parametrize("name", faults_of_shape.FAULTS)
def test_the_edges_alone_do_not_show_it(name: str) -> None:
    """They are what the suite asked before it asked matrices; a fault that they show belongs elsewhere."""
    shown = {"rows_apart", "sliced_matrix", "transposed_matrix"}
    kernel = faults_of_shape.FAULTS[name]
    groups = {
        one.group
        for one in examples(FLOOR, "quick")
        if one.x.dim() == 2 and one.x.shape[0] <= 8 and compare(kernel, one.x, one.spec).counts
    }
    assert name in shown or not groups


@pytest.mark.parametrize("cell", ["nvfp4-amax", "e4m3_row-amax", "mxint8-floor-stochastic"])
@pytest.mark.parametrize("name", ["many_rows", "single_column_of_blocks", "first_axis_in_whole_tiles"])
def test_so_it_is_for_other_scales(name: str, cell: str) -> None:
    assert run_cell(domain()(faults_of_shape.FAULTS[name]), CELLS[cell], "quick").counts


@pytest.mark.parametrize("cell", SOME)
def test_the_house_kernel_is_exact_on_all(cell: str) -> None:
    for one in matrices(CELLS[cell], "quick"):
        found = compare(quantize_eager, one.example.x, one.example.spec, oracle=one.expected)
        assert (dict(found.counts), found.unsupported) == ({}, None)
