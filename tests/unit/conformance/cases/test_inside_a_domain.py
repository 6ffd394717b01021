"""Kernels that are made for less: each is asked inside of its domain, right or wrong; and what is learned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.conformance.cases.generator import ANYTHING, examples
from mxcheck.conformance.cell_run import run_cell
from mxcheck.conformance.implementation.learned_domain import learned_domain
from mxcheck.conformance.verify.verifier import compare
from mxcheck.formats.spec import CastSpec, cast_spec, resolve_axis
from mxcheck.kernels.domain import Domain, NotSupported, domain
from mxcheck.kernels.eager import quantize_eager

pytestmark = pytest.mark.slow

Cast = Callable[[Tensor, CastSpec], tuple[Tensor, ...]]
CELLS = {cell.id: cell for cell in cells("full")}
SOME = ("mxfp8_e4m3-floor", "mxfp4_e2m1-rceil", "nvfp4-amax", "e4m3_row-amax", "mxint8-floor-stochastic")

BF16 = Domain(dtypes=(torch.bfloat16,))
TILES = Domain(rows_multiple=128, columns_multiple=128, ranks=(2,), contiguous=True, axes=(-1,))
SIXTEEN_ROWS = Domain(least_rows=16)
FIRST_AXIS = Domain(axes=(0,), ragged=False)
SMALL = Domain(
    dtypes=(torch.float16, torch.bfloat16), rows_multiple=8, columns_multiple=64, block_sizes=(16, 32, None)
)
SHORT = Domain(most_rows=64, most_columns=256, least_rows=2)
ALIGNED = Domain(alignment=16, most_rows=65_535)


def of(made_for: Domain, wrong: bool = False) -> Cast:
    """A cast that dies outside of a domain, and says so nowhere but in what it declares."""

    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        assert not made_for.refuses(x, spec), "it reads memory that is none of its own"
        codes, *others = quantize_eager(x, spec)
        return (codes ^ 1 if wrong else codes, *others)

    cast.mxcheck_domain = made_for  # type: ignore[attr-defined]
    return cast


@pytest.mark.usefixtures("edges_alone")
@pytest.mark.parametrize(
    ("made_for", "cell"),
    [
        # Each domain with blocks, and with one of the others; tensors with one scale are slow in tiles.
        *((made_for, "mxfp8_e4m3-floor") for made_for in (BF16, TILES, SIXTEEN_ROWS, FIRST_AXIS, SMALL)),
        (BF16, "e4m3_row-amax"),
        (TILES, "mxfp4_e2m1-rceil"),
        (SIXTEEN_ROWS, "mxint8-floor-stochastic"),
        (FIRST_AXIS, "mxint8-floor-stochastic"),
        (SMALL, "nvfp4-amax"),
    ],
    ids=lambda one: one if isinstance(one, str) else one.words,
)
def test_a_right_kernel_is_exact_and_a_wrong_one_red(made_for: Domain, cell: str) -> None:
    right = run_cell(of(made_for), CELLS[cell], "quick")
    assert (right.counts, right.unsupported, right.learned) == ({}, {}, None)
    assert right.elements > 1 << 18
    assert run_cell(of(made_for, wrong=True), CELLS[cell], "quick").counts


@pytest.mark.parametrize(("made_for", "cell"), [(SHORT, "mxfp4_e2m1-floor"), (ALIGNED, "nvfp4-amax")])
def test_a_right_kernel_of_small_or_aligned_inputs_is_exact(made_for: Domain, cell: str) -> None:
    right = run_cell(of(made_for), CELLS[cell], "quick")
    assert (right.counts, right.unsupported, right.learned) == ({}, {}, None)
    assert right.elements > 1 << 18


@pytest.mark.parametrize("cell", SOME)
@pytest.mark.parametrize("made_for", [BF16, TILES, SMALL], ids=lambda one: one.words)
def test_every_group_of_edges_is_laid_out_inside(made_for: Domain, cell: str) -> None:
    anywhere = {one.group.partition(",")[0] for one in examples(CELLS[cell], "quick")}
    inside = list(examples(CELLS[cell], "quick", made_for))
    assert not any(made_for.refuses(one.x, one.spec) for one in inside)
    left_out = anywhere - {one.group.partition(",")[0] for one in inside}
    only = (
        "float16_input",
        "mixed_",
        "blocks_of_",
        "ragged_",
        "axes",
        "transposed",
        "strided",
        "dimensions",
        "long",
    )
    assert all(group.startswith(only) for group in left_out), left_out


def test_of_each_dtype_there_is_every_edge() -> None:
    made_for = Domain(rows_multiple=16)
    groups = {one.group: one.x.dtype for one in examples(CELLS["mxfp8_e4m3-floor"], "quick", made_for)}
    for group in ("every_code", "boundaries", "zero_and_subnormal", "not_finite", "amax_boundaries"):
        assert groups[group] == torch.float32
        assert groups[f"{group}, bfloat16"] == torch.bfloat16


def test_no_block_is_lost_where_one_matrix_may_not_hold_all() -> None:
    """Of each group there are the same blocks, in as many matrices as it takes."""
    cell = CELLS["mxfp8_e4m3-floor"]
    blocks: list[dict[str, set[bytes]]] = []
    for made_for in (Domain(), Domain(most_rows=8, most_columns=64)):
        found: dict[str, set[bytes]] = {}
        for one in examples(cell, "quick", made_for):
            if one.group in ("every_code", "boundaries", "amax_boundaries"):
                found.setdefault(one.group, set()).update(
                    row.numpy().tobytes() for row in one.x.reshape(-1, 32)
                )
        blocks.append(found)
    assert blocks[0] == blocks[1]
    assert len(blocks[0]) == 3


def test_a_domain_that_restricts_nothing_changes_no_example() -> None:
    cell = CELLS["mxfp8_e4m3-floor"]
    plain, wide = (list(examples(cell, "quick", *one)) for one in ((), (ANYTHING,)))
    assert [one.group for one in plain] == [one.group for one in wide]
    assert plain[0].x.dtype == torch.float32


def refusing(made_for: Domain) -> Cast:
    """A cast that refuses what lies outside, and declares nothing."""

    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        if why := made_for.refuses(x, spec):
            raise NotImplementedError(why)
        return quantize_eager(x, spec)

    return cast


@pytest.mark.parametrize(
    "made_for",
    [
        Domain(),
        BF16,
        Domain(rows_multiple=128, columns_multiple=128),
        SIXTEEN_ROWS,
        Domain(least_columns=64, ragged=False),
        Domain(dtypes=(torch.float16,), least_rows=2, ragged=False),
    ],
    ids=lambda one: one.words or "anything",
)
def test_what_is_refused_is_learned(made_for: Domain) -> None:
    cell = CELLS["mxfp8_e4m3-floor"]
    assert_learned(made_for)
    result = run_cell(refusing(made_for), cell, "quick")
    assert result.counts == {}
    assert result.learned is not None
    assert result.elements > 1 << 18


@pytest.mark.parametrize(
    "made_for",
    [
        Domain(most_rows=64),
        Domain(most_columns=256),
        Domain(most_columns=4096, most_rows=65_535),
        Domain(columns_multiple=1024, ragged=False, dtypes=(torch.bfloat16,)),
        Domain(alignment=16),
    ],
    ids=lambda one: one.words,
)
def test_limits_from_above_and_long_rows_are_learned(made_for: Domain) -> None:
    assert_learned(made_for)


def assert_learned(made_for: Domain) -> None:
    cell = CELLS["mxfp8_e4m3-floor"]
    learned = learned_domain(refusing(made_for), cell).domain
    assert learned.alignment == made_for.alignment
    for rows in (1, 2, 15, 16, 17, 64, 65, 128, 200, 256, 65_536):
        for columns in (1, 32, 33, 64, 96, 128, 160, 256, 288, 1024, 1056, 4096, 4128):
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                x = torch.empty(rows, columns, dtype=dtype, device="meta")
                assert bool(learned.refuses(x, cell.spec())) == bool(made_for.refuses(x, cell.spec())), (
                    x.shape
                )


def test_a_kernel_of_one_dtype_that_is_wrong_is_red_though_it_refuses_fp32() -> None:
    def flipped(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        if x.dtype != torch.bfloat16:
            raise NotImplementedError("bf16 only")
        codes, *others = quantize_eager(x, spec)
        return (codes ^ 1, *others)

    assert "every_code" in run_cell(flipped, CELLS["mxfp8_e4m3-floor"], "quick").counts


def test_whoever_refuses_all_is_not_compared() -> None:
    never = refusing(Domain(formats=("fp4_e2m1",)))
    with pytest.raises(NotSupported, match=r"^no format fp8_e4m3$"):
        learned_domain(never, CELLS["mxfp8_e4m3-floor"])
    result = run_cell(never, CELLS["mxfp8_e4m3-floor"], "quick")
    assert (result.elements, result.reason) == (0, "no format fp8_e4m3")


# Whose word it is


def of_torch(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    x.to(torch.float8_e4m3fn).max()  # an operation that the dtype lacks
    return quantize_eager(x, spec)


def skipping(_: Tensor, __: CastSpec) -> tuple[Tensor, ...]:
    pytest.skip("hidden")


def of_its_own(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    raise NotImplementedError("not yet")


@pytest.mark.parametrize(
    ("cast", "unsupported", "error"),
    [
        (of_its_own, "not yet", ""),
        (of_torch, None, "NotImplementedError"),
        (skipping, None, "Skipped: hidden"),
    ],
)
def test_a_refusal_is_the_kernel_s_own_word(cast: Cast, unsupported: str | None, error: str) -> None:
    found = compare(cast, torch.ones(1, 32), cast_spec("fp8_e4m3"))
    assert found.unsupported == unsupported
    assert found.error.startswith(error)
    assert bool(found.error) == bool(error)


def test_an_interrupt_is_nobody_s_word() -> None:
    def interrupted(_: Tensor, __: CastSpec) -> tuple[Tensor, ...]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(interrupted, torch.ones(1, 32), cast_spec("fp8_e4m3"))


def test_a_declared_domain_is_not_asked_outside() -> None:
    @domain(axes=[-1], ranks=[2])
    def last_axis(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        assert (x.dim(), resolve_axis(2, spec.axis)) == (2, 1)
        return quantize_eager(x, spec)

    cell = Cell(format="fp8_e4m3", scale_rule="floor")
    assert run_cell(last_axis, cell, "quick").counts == {}
    assert compare(last_axis, torch.ones(32), cell.spec()).unsupported.startswith(
        "outside of its domain: no input of 1 dimensions"
    )
