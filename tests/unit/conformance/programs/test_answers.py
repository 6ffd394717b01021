"""What is told of answers that cannot be asked for again: the block that shows each cause, as it is."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from case_programs import answered
from torch import Tensor

from mxcheck.conformance.cases.cells import Cell, cells
from mxcheck.conformance.cases.generator import Example, example, spread_with_ties
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.conformance.failure_text import describe
from mxcheck.conformance.programs.answers import Compared, compare_results, cut_examples
from mxcheck.conformance.programs.case_files import open_cases, write_cases
from mxcheck.conformance.programs.case_results import ResultsReader
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager

#: Of the element that is wrong, in a tensor of `SHAPE` seen as outer x columns x inner.
ROW, COLUMN, SHAPE = 5, 77, (8, 96)


def held(folder: Path, cell: Cell, kernel: Callable[..., object], shape: tuple[int, int] = SHAPE) -> Compared:
    """One case, with these answers."""

    def one() -> Iterator[Example]:
        x = spread_with_ties(shape, Draws("answers"))
        x[x == 0] = 1.5
        yield example("numbers", x, cell)

    file = io.BytesIO()
    write_cases(file, cell, "quick", one())
    (folder / "cases.bin").write_bytes(file.getvalue())
    cases = open_cases(folder / "cases.bin")
    values = kernel is spoilt_values
    results = answered(file.getvalue(), kernel, values=values)
    return compare_results(cases, ResultsReader(file=io.BytesIO(results), name="r", header=cases.header))


def spoilt(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    codes, *others = quantize_eager(x, spec)
    codes[ROW, COLUMN, 0] ^= 3
    return codes, *others


def spoilt_values(x: Tensor, spec: CastSpec) -> Tensor:
    values = fake_quantize_eager(x, spec)
    values[ROW, COLUMN, 0] *= -3
    return values


def of(name: str) -> Cell:
    return next(cell for cell in cells("full") if cell.id == name)


@pytest.mark.parametrize(
    ("name", "length"),
    [("mxfp8_e4m3-floor", 32), ("mxfp4_e2m1-rceil-stochastic", 32), ("e4m3_row-amax", 96)],
)
@pytest.mark.parametrize("kernel", [spoilt, spoilt_values], ids=["code", "value"])
def test_what_shares_its_scale_is_cut_out(
    name: str, length: int, kernel: Callable[..., object], tmp_path: Path
) -> None:
    """And a command shows the bits that it should have."""
    ((group, one),) = cut_examples(held(tmp_path, of(name), kernel))
    assert group == "numbers"
    assert one.x.numel() == length
    kind = "value" if kernel is spoilt_values else "code"
    assert one.comparison.places == {kind: (0, COLUMN % length)}
    lines = describe(group, one, None)
    assert ": cut out of the input, " in lines[0]
    assert f"  at [{ROW}, {COLUMN}] of a tensor of shape {SHAPE}" in lines
    assert lines[-1].startswith(f"  reproduce: mxcheck explain {of(name).format} --hex ")


def test_a_scale_of_a_whole_tensor(tmp_path: Path) -> None:
    """A small tensor is shown as it is; a block of a large one has other bits by itself, which is told."""
    for name in ("nvfp4-amax", "e4m3_tensor-amax"):
        ((group, one),) = cut_examples(held(tmp_path, of(name), spoilt))
        lines = describe(group, one, None)
        assert f"  at [{ROW}, {COLUMN}] of a tensor of shape {SHAPE}, all of which share a scale" in lines
        assert "reproduction" in lines[-1]

    def last(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, *others = quantize_eager(x, spec)
        codes[-1, -1, 0] ^= 3
        return codes, *others

    ((group, one),) = cut_examples(held(tmp_path, of("nvfp4-amax"), last, (2, 32)))
    assert one.x.shape == (2, 32)
    assert describe(group, one, None)[-1].startswith("  reproduce: mxcheck explain nvfp4 --hex ")


def test_a_wrong_scale(tmp_path: Path) -> None:
    """Told with the codes below it."""

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        scales[ROW, 2, 0] += 1
        return codes, scales

    ((_, one),) = cut_examples(held(tmp_path, of("mxfp8_e4m3-floor"), kernel))
    assert (one.kind, tuple(one.x.shape), one.comparison.places) == ("scale", (1, 32), {"scale": (0, 0)})
    assert one.comparison.got[1].item() == one.comparison.expected[1].item() + 1
    assert torch.isfinite(one.x).all()
