"""Memory that is not the kernel's any more: results that a caller keeps, and what lies around a slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from mxcheck.conformance import cell_run
from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.generator import Example, examples
from mxcheck.conformance.cell_run import counterexamples, run_cell
from mxcheck.conformance.verify.kept_results import CALLS, changed_since, kept_results
from mxcheck.conformance.verify.verifier import compare
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager

FLOOR = Cell(format="fp8_e4m3", scale_rule="floor")
Cast = Callable[[Tensor, CastSpec], Any]


def of_buffers(count: int, cast: Cast = quantize_eager) -> Cast:
    """A cast that returns one of so many buffers in turn, of each shape."""
    buffers: dict[Any, list[Tensor]] = {}
    calls = [0]

    def kernel(x: Tensor, spec: CastSpec) -> Any:
        calls[0] += 1
        made = cast(x, spec)
        parts = made if isinstance(made, tuple) else (made,)
        kept = []
        for number, part in enumerate(parts):
            key = (number, part.shape, part.dtype)
            several = buffers.setdefault(key, [torch.empty_like(part) for _ in range(count)])
            kept.append(several[calls[0] % count].copy_(part))
        return tuple(kept) if isinstance(made, tuple) else kept[0]

    return kernel


def few(cell: Cell, level: str, *_: Any) -> Iterator[Example]:
    return islice(examples(cell, level), 2)


@pytest.mark.usefixtures("edges_alone")
@pytest.mark.parametrize("cast", [quantize_eager, fake_quantize_eager], ids=["codes", "values"])
@pytest.mark.parametrize("count", [1, 2, CALLS - 1])
def test_a_buffer_that_is_used_again_is_red(count: int, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_run, "examples", few)
    result = run_cell(of_buffers(count, cast), FLOOR, "quick")
    assert "kept_results" in result.counts
    ((group, shown),) = counterexamples(of_buffers(count, cast), result)
    assert group == "kept_results"  # which two callers show too, and whatever is overwritten
    assert shown.surroundings.startswith("its result was overwritten by a later call: ")


@pytest.mark.usefixtures("edges_alone")
@pytest.mark.parametrize("cast", [quantize_eager, fake_quantize_eager], ids=["codes", "values"])
def test_a_right_kernel_keeps_what_it_returned(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_run, "examples", few)
    assert run_cell(cast, FLOOR, "quick").counts == {}
    kept = kept_results(cast, FLOOR)
    assert len(kept) == CALLS
    assert not any(one.comparison.counts for one in changed_since(cast, kept))


def test_one_that_gives_nothing_there_says_why() -> None:
    def broken(_: Tensor, __: CastSpec) -> Any:
        raise RuntimeError("broken")

    (said,) = changed_since(broken, kept_results(broken, FLOOR))
    assert said.comparison.error == "RuntimeError: broken"


def writing(behind: int) -> Cast:
    """A cast that writes an element of memory that x is a slice of: so many behind its last, or before its
    first."""

    def kernel(x: Tensor, spec: CastSpec) -> Any:
        end = (
            x.storage_offset() + (x.shape[0] - 1) * x.stride(0) + x.shape[1]
            if behind >= 0
            else x.storage_offset()
        )
        place = end + behind
        if 0 <= place < x.untyped_storage().nbytes() // x.element_size():
            x.as_strided((1,), (1,), place).fill_(0)
        return quantize_eager(x, spec)

    return kernel


@pytest.mark.parametrize("behind", [0, 2, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_writes_around_a_slice_is_red_and_put_back(behind: int, dtype: torch.dtype) -> None:
    memory = torch.full((400,), 3.0, dtype=dtype)
    x = memory[3 : 3 + 256].view(4, 64).copy_(torch.linspace(-1, 1, 256).view(4, 64))
    found = compare(writing(behind), x, FLOOR.spec())
    assert found.error.startswith("it changed memory around its input, ")
    assert found.error.endswith(" bytes of the tensor that it is a slice of")
    assert memory[:3].eq(3).all()
    assert memory[259:].eq(3).all()
    assert compare(quantize_eager, x, FLOOR.spec()).counts == {}


@pytest.mark.usefixtures("edges_alone")
def test_slices_are_among_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_run, "examples", few)
    counts = run_cell(writing(0), FLOOR, "quick").counts
    assert counts == {"storage_offset": {"error": 1}}
