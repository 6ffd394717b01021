"""Each cause of a cell's mismatches is told once, by an input that shows it and no other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from planted_causes import (
    PAIRS,
    Pair,
    Planted,
    cast_with,
    clamp_wraps,
    nan_scale_is_fe,
    powers_of_two_one_up,
    raises_below_16_rows,
    ties_away,
    ties_toward_zero,
    truncates,
    zero_block_has_scale_1,
    zero_signs_lost,
)
from torch import Tensor
from wrong_casts import Parts

from mxcheck.conformance.cases.cells import cells
from mxcheck.conformance.cases.generator import Example
from mxcheck.conformance.cell_run import counterexamples, run_cell
from mxcheck.conformance.failure_text import as_data, describe, summary
from mxcheck.conformance.shrink.shrinker import Counterexample, shrink
from mxcheck.conformance.verify.causes_of_mismatches import Mismatch, causes
from mxcheck.conformance.verify.conditions import Condition, Sighting, is_open
from mxcheck.conformance.verify.verifier import Comparison, compare
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.domain import domain

pytestmark = pytest.mark.usefixtures("edges_alone")
C, NONE = Condition, Condition(0)
CELLS = {cell.id: cell for cell in cells("full")}


@pytest.mark.slow
@pytest.mark.parametrize("pair", [pytest.param(pair, id=name) for name, pair in PAIRS.items()])
def test_two_causes_are_both_shown_and_each_by_an_input_of_its_own(pair: Pair) -> None:
    """Where its own cause is mended an example is right; where the other one is, it is as wrong as before."""
    kernel = domain()(cast_with(pair.causes))
    found = counterexamples(kernel, run_cell(kernel, CELLS[pair.cell], "quick"))
    shown = []
    for group, one in found:
        mended = [
            compare(cast_with(pair.causes[:at] + pair.causes[at + 1 :]), one.x, one.spec) for at in (0, 1)
        ]
        fails = [one.kind in again.counts for again in mended]
        assert sorted(fails) == [False, True], describe(group, one, "k:f")
        shown.append(fails.index(False))
    assert set(shown) == {0, 1}, [describe(group, one, "k:f")[0] for group, one in found]


def told(cell: str, *planted: Planted) -> list[tuple[str, Counterexample]]:
    kernel = domain()(cast_with(planted))
    return counterexamples(kernel, run_cell(kernel, CELLS[cell], "quick"))


def test_an_error_does_not_take_the_place_of_a_mismatch() -> None:
    """As many rows are kept as the kernel wants."""
    error, tie = (one for _, one in told("mxfp8_e4m3-floor", raises_below_16_rows, ties_away))
    assert error.comparison.error == "ValueError: at least 16 rows, got 1"
    size = "a tensor of shape (16, 32) in float32"
    assert (tie.kind, tie.x.shape, int(tie.x.count_nonzero())) == ("code", (16, 32), 1)
    assert describe("here", tie, "k:f")[:4] == [
        f"code (tie), {tie.count:,} times: smallest input, {size}, axis -1, from here:",
        "  input: [0, 0] 3f880000 (1.0625); the other 511 are 0",
        "  scales: as expected",
        "  code: [0, 0] got 79, expected 78",
    ]


def whole_tiles_only(x: Tensor, spec: CastSpec, parts: Parts) -> Parts:
    if x.shape[spec.axis] % 128:
        raise ValueError(f"whole tiles only, got {tuple(x.shape)}")
    return parts


def test_as_many_blocks_are_kept_as_the_kernel_wants() -> None:
    x = torch.randn(128, 256, generator=torch.Generator().manual_seed(0))
    kernel, spec = (
        cast_with([whole_tiles_only, raises_below_16_rows, truncates]),
        CELLS["mxfp8_e4m3-floor"].spec(),
    )
    one = shrink(kernel, x, spec, "code", compare(kernel, x, spec))
    assert (one.kind, one.x.shape, int(one.x.count_nonzero())) == ("code", (16, 128), 1)


def test_a_tie_is_shown_beside_lost_signs_of_zeros() -> None:
    kinds = [
        (one.kind, one.x[0, 0].item())
        for _, one in told("mxfp8_e4m3-floor", ties_toward_zero, zero_signs_lost)
    ]
    assert kinds[0] == ("code", 1.1875)
    assert [kind for kind, _ in kinds] == ["code", "zero sign"]


def test_what_is_finite_comes_first_and_what_ocp_leaves_open_last() -> None:
    found = told(
        "mxfp8_e4m3-floor", nan_scale_is_fe, zero_block_has_scale_1, powers_of_two_one_up, zero_signs_lost
    )
    assert [one.open for _, one in found] == [False, False, True, True, True]
    assert all(one.x.isfinite().all() for _, one in found if not one.open)
    lines = [describe(group, one, "k:f")[0].partition("),")[0] for group, one in found]
    assert lines == [
        "scale (threshold of the scale",
        "zero sign (negative",
        "scale (zero block; OCP is silent",
        "scale (NaN in the block; OCP is silent",
        "scale (Inf in the block; OCP is silent",
    ]
    assert summary([one for _, one in found]) == "2 wrong, 3 differ where OCP is silent"
    data = as_data(found[3][1], "k:f")
    assert (data["condition"], data["open"], data["mismatches"]) == (
        "NaN in the block",
        True,
        found[3][1].count,
    )


@pytest.mark.parametrize(
    ("effect", "condition", "silent"),
    [
        ("one up", C.CLAMPED_BELOW, True),
        ("one down", C.CLAMPED_ABOVE, True),
        ("NaN", C.CLAMPED_ABOVE, True),
        ("NaN", C.CLAMPED_BELOW, False),
        ("other", C.CLAMPED_BELOW, False),
        ("other", C.CLAMPED_BELOW | C.INF_IN_BLOCK, True),
        ("to zero", C.CLAMPED_ABOVE, False),
        ("other", C.ZERO_BLOCK, True),
    ],
)
def test_a_clamp_is_open_as_far_as_its_neighbours(effect: str, condition: Condition, silent: bool) -> None:
    """A scale of 2^0 for what is clamped to 2^-127 makes zeros of numbers: wrong by any definition."""
    sighting = Sighting(kind="scale", effect=effect, conditions=condition, codes=1, count=1, place=(0, 0))
    assert is_open(sighting, CELLS["mxfp8_e4m3-floor"].spec()) == silent
    element = replace(sighting, kind="code", effect="one up")
    assert is_open(element, CELLS["mxfp8_e4m3-floor"].spec())


def test_ocp_is_not_named_of_a_format_that_it_does_not_have() -> None:
    """NVFP4, and the scales of a row or a tensor."""
    found = told("nvfp4-amax", zero_block_has_scale_1)
    assert [one.open for _, one in found] == [True] * len(found)
    assert summary([one for _, one in found]).endswith("where no definition is common")
    assert "; no definition is common)" in describe(*found[0], "k:f")[0]
    assert "OCP" not in " ".join(line for group, one in found for line in describe(group, one, "k:f"))


def test_only_differences_of_its_own_kind_are_listed() -> None:
    x, spec = torch.full((1, 32), -0.0), CELLS["mxfp8_e4m3-floor"].spec()
    x[0, 31] = 1.1875

    def kernel(x: Tensor, spec: CastSpec) -> Parts:
        codes, scales = cast_with([ties_toward_zero, zero_signs_lost])(x, spec)
        assert isinstance(codes, Tensor)
        if not x.signbit().any():
            raise ValueError("a zero must be negative")
        return codes, scales

    one = shrink(kernel, x, spec, "code", compare(kernel, x, spec))
    assert describe("here", one, "k:f")[3] == "  code: [0, 0] got 79, expected 7a; 1 of another kind"


@pytest.mark.parametrize("largest", [2.0**-100, 1.0, 2.0**120])
def test_exponents_come_close_to_zero(largest: float) -> None:
    x, spec = torch.full((1, 32), largest * 1.1875), CELLS["mxfp8_e4m3-floor"].spec()
    kernel = cast_with([ties_toward_zero])
    one = shrink(kernel, x, spec, "code", compare(kernel, x, spec))
    assert one.x[0, 0] == 1.1875


def test_they_stay_where_the_mismatch_needs_them() -> None:
    x, spec = torch.full((1, 32), 2.0**-130), CELLS["mxfp8_e5m2-floor"].spec()
    kernel = cast_with([clamp_wraps])
    one = shrink(kernel, x, spec, "scale", compare(kernel, x, spec))
    assert one.x[0, 0] == 2.0**-113  # the largest that is clamped: 2^(-127 + 15) is not


def test_what_is_wrong_moves_to_the_front() -> None:
    x, spec = torch.zeros(3, 70), CELLS["mxfp8_e4m3-floor"].spec()
    x[2, 40], x[2, 60] = 1.75, 2.0**-10 * 1.1875
    kernel = cast_with([ties_toward_zero])
    one = shrink(kernel, x, spec, "code", compare(kernel, x, spec))
    assert one.comparison.places["code"] == (0, 0)


# Causes of sightings


def sighting(
    effect: str = "one up", conditions: Condition = NONE, *, codes: int = 0b110, count: int = 100
) -> Sighting:
    return Sighting(kind="code", effect=effect, conditions=conditions, codes=codes, count=count, place=(0, 0))


def found_causes(*seen: Sighting) -> list[tuple[set[str], Condition, int]]:
    cell = CELLS["mxfp8_e4m3-floor"]
    base = Example(group="a", x=torch.zeros(1, 32), spec=cell.spec())
    mismatches = [Mismatch(sighting=one, example=base, seen=Comparison()) for one in seen]
    return [(set(one.effects), one.mismatch.sighting.conditions, one.count) for one in causes(mismatches)]


def test_few_conditions_explain_more_of_them() -> None:
    tie, both, other = (
        sighting(conditions=C.TIE),
        sighting(conditions=C.TIE | C.NEGATIVE),
        sighting(conditions=C.CARRY),
    )
    assert found_causes(both, tie, other) == [({"one up"}, C.TIE, 200), ({"one up"}, C.CARRY, 100)]


def test_another_effect_is_another_cause() -> None:
    assert len(found_causes(sighting(conditions=C.TIE), sighting("to zero", C.SUBNORMAL))) == 2
    assert len(found_causes(sighting(), sighting("one down", C.TIE))) == 2


def test_a_single_code_explains_no_other() -> None:
    assert len(found_causes(sighting(codes=0b10), sighting(conditions=C.TIE))) == 2
    assert len(found_causes(sighting(codes=0b10), sighting(conditions=C.TIE, codes=0b10))) == 1


def test_a_flipped_bit_is_one_cause_and_so_is_garbage() -> None:
    assert found_causes(sighting(), sighting("one down")) == [({"one up", "one down"}, NONE, 200)]
    garbage = [sighting(effect) for effect in ("sign", "one up", "other", "to zero")]
    assert [count for _, _, count in found_causes(*garbage)] == [400]
    rare = sighting("sign", C.TIE, count=1)
    assert len(found_causes(sighting("other", count=1000), rare)) == 1
    assert len(found_causes(sighting("other", count=10), rare)) == 2


def test_what_is_so_by_chance_explains_nothing_that_is_frequent() -> None:
    garbage, by_chance = sighting("other"), sighting("to zero", count=3)
    often = sighting("to zero", C.ONE_ROW, count=60), sighting("to zero", C.ONE_ROW | C.TIE, count=60)
    assert found_causes(garbage, by_chance, *often) == [
        ({"other", "to zero"}, NONE, 103),
        ({"to zero"}, C.ONE_ROW, 120),
    ]


def test_the_least_code_is_flushed_to_zero_and_one_down() -> None:
    flushed = sighting("to zero", C.SUBNORMAL), sighting("one down", C.SUBNORMAL, codes=0b10)
    assert len(found_causes(*flushed)) == 1
    assert len(found_causes(flushed[0], sighting("one down", C.SUBNORMAL, codes=0b100))) == 2
