"""The generator: in a fixed order, plain first, every layout and dtype."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pytest
import torch

from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.conformance.cases.edge_blocks import GROUPS
from mxcheck.conformance.cases.generator import OTHER_BLOCK_SIZES, Example, examples, spread_with_ties
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.conformance.cases.tensors import TENSOR_GROUPS
from mxcheck.conformance.verify.verifier import expected_parts
from mxcheck.kernels.api import quantize

CELLS = {cell.id: cell for cell in cells("quick")}
SOME = ("mxfp8_e4m3-floor", "mxfp4_e2m1-floor-stochastic", "mxint8-ceil", "nvfp4-amax", "e5m2_tensor-amax")
LAYOUTS = {"ragged_tails", "axes", "transposed", "strided", "dimensions"}
INPUTS = {"bfloat16_input", "float16_input", "mixed_float32", "mixed_bfloat16", "mixed_float16", "long"}
each_cell = pytest.mark.parametrize("cell", [CELLS[name] for name in SOME], ids=SOME)


DIGESTS = {
    "mxfp8_e4m3-floor": "81f7e0b6b5af",
    "mxfp4_e2m1-floor-stochastic": "aa54042db4a3",
    "mxint8-ceil": "3e16213741d2",
    "nvfp4-amax": "950b8c8b6178",
    "e5m2_tensor-amax": "cfb1e0b29c05",
}


def digest(found: Iterable[Example]) -> str:
    """Of inputs, random integers and the oracle's results. A NaN's bits are the machine's."""
    total = hashlib.sha256()
    for one in found:
        total.update(f"{one.group} {tuple(one.x.shape)} {one.x.stride()} {one.spec}".encode())
        x = one.x.float()
        random = () if one.spec.random is None else (one.spec.random.numpy(),)
        for part in (x.where(~x.isnan(), torch.nan).numpy(), *random, *expected_parts(one.x, one.spec)):
            total.update(part.tobytes())
    return total.hexdigest()[:12]


@each_cell
def test_inputs_and_expected_results_stand(cell: Cell) -> None:
    """The findings count the mismatches on these."""
    assert digest(examples(cell, "quick")) == DIGESTS[cell.id]


def test_cells_differ() -> None:
    """Each has a stream of its own."""
    found = [next(iter(examples(CELLS[name], "quick"))).x for name in ("nvfp4-amax", "e4m3_row-amax")]
    assert not torch.equal(*found)


@pytest.mark.parametrize("name", [cell.id for cell in cells("quick")])
def test_the_first_example_is_plain(name: str) -> None:
    first = next(iter(examples(CELLS[name], "quick")))
    assert first.x.dtype == torch.float32
    assert first.x.is_contiguous()
    assert first.x.isfinite().all()
    assert first.spec == CELLS[name].spec()
    assert first.x.shape[-1] % (first.spec.block_size or 1) == 0


@each_cell
def test_quick_has_every_group_layout_and_dtype(cell: Cell) -> None:
    found = list(examples(cell, "quick"))
    groups = {one.group for one in found}
    e8m0 = cell.format not in ("nvfp4", "e5m2_tensor")
    own = {*GROUPS["quick"], *(f"blocks_of_{size}" for size in OTHER_BLOCK_SIZES)} if e8m0 else set()
    plain = own or set(TENSOR_GROUPS["quick"])
    plain -= {"scale_boundaries_of_any_tensor"} if cell.format != "nvfp4" else set()
    halves = {f"{group}, {dtype}" for group in plain for dtype in ("bfloat16", "float16")}
    assert groups - halves == plain | LAYOUTS | INPUTS
    for group in GROUPS["quick"] if e8m0 else ():
        assert f"{group}, bfloat16" in groups
    assert {one.x.dim() for one in found} == {1, 2, 3, 4, 5}
    for group in ("axes", "transposed", "strided"):
        here = [one for one in found if one.group == group]
        assert [one.spec.axis for one in here] == [-3, -2, -1, 0, 1, 2]
        assert len({(one.x.shape, one.x.stride()) for one in here}) == 1
        assert here[0].x.is_contiguous() == (group == "axes")
    lengths = {one.x.shape[-1] for one in found if one.group == "ragged_tails"}
    assert min(lengths) == 1
    assert {length % 32 for length in lengths} >= {1, 31, 24}
    assert max(lengths) > 2 * 32


def test_every_16_bit_value_is_an_input() -> None:
    for group, dtype in (("bfloat16_input", torch.bfloat16), ("float16_input", torch.float16)):
        [one] = [one for one in examples(CELLS["mxfp8_e5m2-floor"], "quick") if one.group == group]
        assert one.x.dtype == dtype
        assert set(one.x.view(torch.int16).flatten().tolist()) == set(range(-(1 << 15), 1 << 15))
        [one] = [one for one in examples(CELLS["nvfp4-amax"], "quick") if one.group == group]
        assert one.x.dtype == dtype
        assert one.x.isfinite().all()
        assert one.x.numel() > 3000


def test_full_has_each_group_for_every_block_size_and_along_the_first_axis() -> None:
    cell = CELLS["mxfp4_e2m1-rceil"]
    seen: dict[str, tuple[int, int | None]] = {}
    for one in examples(cell, "full"):
        seen.setdefault(one.group, (one.spec.axis, one.spec.block_size))
        if one.spec.axis == 0 and ", first axis" in one.group:
            assert one.x.shape[0] == 32
    for group in GROUPS["full"]:
        assert seen[group] == (-1, 32)
        assert seen[f"{group}, first axis"] == (0, 32)
        for size in OTHER_BLOCK_SIZES:
            assert seen[f"{group}, blocks of {size}"] == (-1, size)
    assert set(seen) >= LAYOUTS | INPUTS


def test_stochastic_examples_carry_integers_with_the_edges() -> None:
    for one in examples(CELLS["mxfp8_e4m3-floor-stochastic"], "quick"):
        random = one.spec.random
        assert (random.shape, random.dtype) == (one.x.shape, torch.int64)
        assert 0 <= random.min() <= random.max() < 1 << 32
        if random.numel() > 1000:
            share = {
                edge: (random == edge).float().mean().item() for edge in (0, 2**31 - 1, 2**31, 2**32 - 1)
            }
            assert all(0.08 < part < 0.17 for part in share.values()), share


def test_others_carry_none() -> None:
    assert all(one.spec.random is None for one in examples(CELLS["mxfp8_e4m3-floor-away"], "quick"))


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp6_e2m3", "fp4_e2m1", "mxint8"])
@pytest.mark.parametrize("rounding", ["away", "zero"])
def test_numbers_with_ties_show_which_rounding_it_is(name: str, rounding: str) -> None:
    x = spread_with_ties((4, 64), Draws("ties"))
    even, other = (quantize(x, name, rounding=one).codes for one in ("even", rounding))
    assert (even != other).sum() >= 5
    assert ((x == 0) & x.signbit()).any()
