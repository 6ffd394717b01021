"""Groups of blocks: each holds what it says, and the same bits as ever."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from mxcheck.conformance.cases import edge_blocks
from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.conformance.cases.edge_blocks import GROUPS, largest_of_unit_scale
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.formats.blocks import E8M0
from mxcheck.formats.codes import code_values, finite_codes
from mxcheck.formats.oracle import Parts, quantize_array, scale_exponent

E8M0_CELLS = [
    cell
    for cell in cells("quick")
    if cell.spec().block.scale == E8M0 and (cell.rounding, cell.nonfinite) == ("even", "block")
]
each_cell = pytest.mark.parametrize("cell", E8M0_CELLS, ids=lambda cell: cell.id)
DIGESTS = {
    "every_code": "80b1708242f5",
    "boundaries": "e6553f90d20e",
    "bfloat16_together": "cad443c0f6b3",
    "bfloat16_alone_in_part": "6ea146bb2c9a",
    "zero_and_subnormal": "c7f0047053bf",
    "not_finite": "ede2356e067d",
    "infinite": "d9620adfdd05",
    "amax_boundaries": "00e063119518",
    "wide": "79e4311dc5e3",
    "large": "4c6404f12589",
    "constant": "4a4d990c4ee9",
}
ANY = Cell(format="fp8_e4m3", scale_rule="floor")


def made(group: str, cell: Cell = ANY, length: int = 32) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        return GROUPS["full"][group](cell, length, Draws("test"))


def quantized(x: NDArray[np.float32], cell: Cell) -> Parts:
    with np.errstate(all="ignore"):
        return quantize_array(x, cell.spec(block_size=x.shape[1]))


def bits(x: NDArray[np.float32]) -> NDArray[np.uint32]:
    return x.view(np.uint32)


@pytest.mark.parametrize("group", GROUPS["full"])
@pytest.mark.parametrize("length", [16, 32, 128])
def test_blocks_of_any_length_twice_the_same(group: str, length: int) -> None:
    first, again = made(group, length=length), made(group, length=length)
    assert (first.dtype, first.ndim, first.shape[1]) == (np.float32, 2, length)
    assert np.array_equal(bits(first), bits(again))


def test_every_groups_bits_are_those_of_the_findings() -> None:
    """Findings are held by counts: a group that changes has to be run against every implementation again."""
    digests = {name: hashlib.sha256(made(name).tobytes()).hexdigest()[:12] for name in GROUPS["quick"]}
    assert digests == DIGESTS


def test_full_adds_to_quick() -> None:
    assert list(GROUPS["full"])[: len(GROUPS["quick"])] == list(GROUPS["quick"])
    assert set(GROUPS["full"]) - set(GROUPS["quick"]) == {"bfloat16_alone", "wide_at_length"}


@each_cell
def test_the_largest_amax_of_the_scale_one(cell: Cell) -> None:
    element = cell.spec().element
    largest = largest_of_unit_scale(element, cell.scale_rule)
    assert largest.dtype == np.float32
    above = np.nextafter(largest, np.float32(np.inf))
    assert scale_exponent(Fraction(float(largest)), element, cell.scale_rule) == 0
    assert scale_exponent(Fraction(float(above)), element, cell.scale_rule) == 1


@each_cell
def test_every_code_that_can_be_reached_is_there(cell: Cell) -> None:
    x = made("every_code", cell)
    codes, scales = quantized(x, cell)
    assert {127, 67, 227} < set(scales.ravel().tolist())
    at_one = set(codes[(scales == 127).ravel()].ravel().tolist())
    others = np.concatenate([made(name, cell) for name in ("bfloat16_together", "wide", "amax_boundaries")])
    all_codes, all_scales = quantized(others, cell)
    # At the upper clamp mxint8's larger codes are reached with `ceil`, too.
    reached = set(all_codes[(all_scales < 254).ravel()].ravel().tolist())
    assert reached <= at_one <= set(finite_codes(cell.spec().element))
    if cell.scale_rule != "ceil":  # else the largest codes are out of reach
        assert at_one == set(finite_codes(cell.spec().element))


@each_cell
def test_each_boundary_has_both_its_neighbours(cell: Cell) -> None:
    element = cell.spec().element
    x = made("boundaries", cell)
    _, scales = quantized(x, cell)
    assert {127, 67, 227} < set(scales.ravel().tolist())
    at_one = set(bits(x[(scales == 127).ravel()]).ravel().tolist())
    largest = largest_of_unit_scale(element, cell.scale_rule)
    ladder = sorted({abs(code_values(element)[code]) for code in finite_codes(element)})
    points = [(low + high) / 2 for low, high in pairwise(ladder)] + ladder[1:]
    beyond = ladder[-1] + (ladder[-1] - ladder[-2]) / 2
    checked = 0
    for point in (np.float32(value) for value in [*points, beyond]):
        near = np.array([np.nextafter(point, np.float32(0)), point, np.nextafter(point, np.float32(np.inf))])
        near = near[near <= largest]
        assert set(bits(np.concatenate([near, -near])).tolist()) <= at_one
        checked += near.size
    assert checked >= 3 * len(ladder) - 3
    if cell.rule == "floor":
        assert beyond <= largest, "saturation begins within reach"


@each_cell
def test_amax_reaches_every_scale_and_both_clamps(cell: Cell) -> None:
    x = made("amax_boundaries", cell)
    assert np.isfinite(x).all()
    element = cell.spec().element
    found = set(quantized(x, cell)[1].ravel().tolist())
    top = np.finfo(np.float32).max
    highest = scale_exponent(Fraction(float(top)), element, cell.scale_rule) + 127
    assert found == set(range(highest + 1))
    amax = set(bits(np.abs(x).max(1)).tolist())
    threshold = bits(largest_of_unit_scale(element, cell.scale_rule) / np.float32(2.0**element.emax))
    for exponent in (-126, -60, 0, 90, 126):
        one = bits(np.array(2.0**exponent, np.float32)).item()
        significand = int(threshold) - bits(np.array(1.0, np.float32)).item()
        assert {one - 1, one, one + 1, one + significand, one + significand + 1} <= amax


def test_bfloat16_has_every_value() -> None:
    everything = set(range(1 << 16))
    for group in ("bfloat16_together", "bfloat16_alone"):
        words = bits(made(group))
        assert not (words & 0xFFFF).any()
        assert set((words >> 16).ravel().tolist()) == everything
    together = bits(made("bfloat16_together")) >> 16
    _, counts = np.unique(together, return_counts=True)
    assert counts[1:].min() >= 1
    assert (counts >= 2).sum() == np.isfinite(made("bfloat16_alone")).all(1).sum()


def test_alone_is_among_zeros_in_every_position() -> None:
    for group, count in (("bfloat16_alone", 1 << 16), ("bfloat16_alone_in_part", 2048)):
        words = bits(made(group))
        assert words.shape == (count, 32)
        assert ((words != 0).sum(1) <= 1).all()
        assert set(np.argwhere(words)[:, 1].tolist()) == set(range(32))
        assert len(np.unique(words.max(1))) == count


def test_zeros_and_subnormals() -> None:
    x = made("zero_and_subnormal")
    assert not bits(x[0]).any()
    assert (bits(x[1]) == 0x8000_0000).all()
    assert (np.abs(x) <= np.float32(2.0**-126)).all()
    assert ((x == 0).all(1) & np.signbit(x).any(1) & ~np.signbit(x).all(1)).any()
    subnormal = (np.abs(x) > 0) & (np.abs(x) < np.float32(2.0**-126))
    assert subnormal.all(1).any() or (subnormal.sum(1) > 20).any()
    assert (subnormal.any(1) & (np.abs(x) == np.float32(2.0**-126)).any(1)).any()


def test_nan_and_inf_in_every_position() -> None:
    x = made("not_finite")
    special = ~np.isfinite(x)
    alone = special.sum(1) == 1
    for word in (0x7FC0_0000, 0xFFC0_0000, 0x7F80_0001, 0x7F80_0000, 0xFF80_0000):
        here = alone & (bits(x) == word).any(1)
        among_zeros = here & (np.where(special, 0, x) == 0).all(1)
        for rows in (here & ~among_zeros, among_zeros):
            assert set(np.argwhere(special[rows])[:, 1].tolist()) == set(range(32))
        assert ((bits(x) == word).all(1)).any()
    assert (np.isnan(x).any(1) & np.isinf(x).any(1)).sum() >= 32


def test_wide_has_every_exponent_and_every_kind_of_significand() -> None:
    x = made("wide_at_length")
    assert x.size == 16 * made("wide").size
    words = bits(x)
    assert np.isfinite(x).all()
    assert set(((words >> 23) & 0xFF).ravel().tolist()) == set(range(255))
    fraction = words & 0x7F_FFFF
    single = (fraction != 0) & (fraction & (fraction - 1) == 0)
    assert 0.2 < single.mean() < 0.35
    assert 0.4 < np.signbit(x).mean() < 0.6


def test_the_groups_are_named_by_their_functions() -> None:
    for groups in GROUPS.values():
        assert all(getattr(edge_blocks, name) is make for name, make in groups.items())
        assert all(make.__doc__ for make in groups.values())
