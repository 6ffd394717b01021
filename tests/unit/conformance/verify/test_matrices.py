"""Whole matrices and single rows: what is asked, what is expected, and faults that nothing else shows."""

from __future__ import annotations

import hashlib
from itertools import product
from typing import Any

import faults_of_shape
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mxcheck.conformance import cell_run
from mxcheck.conformance.cases.cells import cells
from mxcheck.conformance.cases.generator import Example, examples
from mxcheck.conformance.cell_run import counterexamples, run_cell
from mxcheck.conformance.verify.matrices import BLOCKS, ROWS, Matrix, matrices
from mxcheck.conformance.verify.verifier import compare, expected_parts
from mxcheck.formats.oracle import Parts
from mxcheck.kernels.domain import Domain, domain
from mxcheck.kernels.eager import quantize_eager

pytestmark = pytest.mark.slow

CELLS = {cell.id: cell for cell in cells("full")}
FLOOR = CELLS["mxfp8_e4m3-floor"]
SOME = (
    "mxfp8_e4m3-rceil-nan_stays",
    "mxfp4_e2m1-floor-stochastic",
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
            assert _bits(part) == _bits(wanted)
        held += 1
    assert held > 200


@pytest.mark.parametrize(
    ("cell", "digest"), [("mxfp8_e4m3-floor-stochastic", "f2e4da5ccf22"), ("e4m3_row-amax", "9eb4420a481d")]
)
def test_inputs_and_expected_results_stand(cell: str, digest: str) -> None:
    """The findings count the mismatches on these. A NaN's bits are the machine's."""
    total = hashlib.sha256()
    for one in matrices(CELLS[cell], "quick"):
        x, spec = one.example.x.float(), one.example.spec
        total.update(f"{tuple(x.shape)} {one.example.x.stride()} {spec}".encode())
        random = () if spec.random is None else (spec.random.numpy(),)
        for part in (x.where(~x.isnan(), torch.nan).numpy(), *random, *one.expected):
            total.update(part.tobytes())
    assert total.hexdigest()[:12] == digest


def _bits(part: NDArray[Any]) -> bytes:
    """Of NaN codes the sign says nothing: torch's conversions of fp16 differ in it."""
    codes = np.where((part & 0x7F) == 0x7F, 0x7F, part) if part.dtype == np.uint8 else part
    return np.ascontiguousarray(codes).tobytes()


@pytest.mark.parametrize(
    ("cell", "level", "most"),
    [
        ("mxfp8_e4m3-floor", "quick", 1 << 20),
        ("nvfp4-amax", "quick", 1 << 20),
        ("e4m3_row-amax", "quick", 1 << 20),
        ("mxfp8_e4m3-floor", "full", 1 << 25),
    ],
)
def test_every_pair_occurs(cell: str, level: str, most: int) -> None:
    size = CELLS[cell].spec().block_size or 32
    pairs = set()
    for one in matrices(CELLS[cell], level):
        x, axis = one.example.x, one.example.spec.axis
        if one.example.spec.block_size in (size, None):
            pairs.add((x.shape[1 + axis], x.shape[axis]))
    columns = [*(count * size for count in BLOCKS), 2 * size + size // 2 + 1]
    asked = {(rows, length) for rows, length in product(ROWS, columns) if rows * length <= most}
    assert pairs == {*asked, (ROWS[-1], size)}
    if level == "full":
        left_out = set(product(ROWS, columns)) - pairs
        assert {rows for rows, _ in left_out} == {ROWS[-1]}
        assert min(length for _, length in left_out) > 8 * size


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
    for one in matrices(CELLS["mxfp4_e2m1-floor"], "full"):
        dtype = one.example.x.dtype
        largest[dtype] = max(largest.get(dtype, 0), one.example.x.numel())
    assert len(largest) == 3
    assert min(largest.values()) > 1 << 20


# Faults that a shape brings about: all are asked the inputs of one cell, which are made once

_SHOWN_BY_EDGES_TOO = {
    "aligned_rows_of_a_wider_matrix",
    "bf16_tiles",
    "many_rows",
    "more_than_a_million",
    "one_row_less_than_a_warp",
    "one_row_more_than_a_warp",
    "pairs_of_rows_share_a_scale",
    "rows_behind_a_tile",
    "tail_in_whole_rows_of_tiles",
    "third_tile",
}


@pytest.fixture(scope="module")
def edges() -> list[tuple[Example, Parts]]:
    return [(one, expected_parts(one.x, one.spec)) for one in examples(FLOOR, "quick")]


@pytest.fixture(scope="module")
def whole() -> list[Matrix]:
    return list(matrices(FLOOR, "quick"))


@pytest.mark.parametrize("name", faults_of_shape.FAULTS)
def test_a_fault_of_shape_is_red(
    name: str, edges: list[tuple[Example, Parts]], whole: list[Matrix], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_run, "examples", lambda *_: iter([one for one, _ in edges]))
    monkeypatch.setattr(cell_run, "matrices", lambda *_: iter(whole))
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


@pytest.mark.parametrize("name", [name for name in faults_of_shape.FAULTS if name not in _SHOWN_BY_EDGES_TOO])
def test_most_are_shown_by_nothing_else(name: str, edges: list[tuple[Example, Parts]]) -> None:
    """The edges are asked in many shapes, too; what they show of these faults they show by chance."""
    kernel = faults_of_shape.FAULTS[name]
    assert not any(compare(kernel, one.x, one.spec, oracle=oracle).counts for one, oracle in edges)


@pytest.mark.parametrize("cell", ["nvfp4-amax", "e4m3_row-amax", "mxint8-floor-stochastic"])
@pytest.mark.parametrize("name", ["many_rows", "single_column_of_blocks", "first_axis_in_whole_tiles"])
def test_so_it_is_for_other_scales(name: str, cell: str) -> None:
    assert run_cell(domain()(faults_of_shape.FAULTS[name]), CELLS[cell], "quick").counts


@pytest.mark.parametrize("cell", SOME)
def test_the_house_kernel_is_exact_on_all(cell: str) -> None:
    for one in matrices(CELLS[cell], "quick"):
        found = compare(quantize_eager, one.example.x, one.example.spec, oracle=one.expected)
        assert (dict(found.counts), found.unsupported) == ({}, None)
