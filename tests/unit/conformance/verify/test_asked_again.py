"""A cast that is right alone and wrong in other surroundings is caught by a cell, and told with its place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import islice

import pytest
import torch
from torch import Tensor

from mxcheck.conformance import cell_run
from mxcheck.conformance.cases.cells import cells
from mxcheck.conformance.cases.generator import examples
from mxcheck.conformance.cell_run import CellResult, counterexamples, run_cell
from mxcheck.conformance.failure_text import as_data, describe
from mxcheck.conformance.verify.asked_again import asked_again
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager

CELLS = {cell.id: cell for cell in cells("full")}
GROUPS = ["same_memory", "storage_offset", "huge", "two_threads", "two_callers", "two_callers"]
SOME = ["mxfp8_e4m3-floor", "mxint8-ceil", "nvfp4-amax", "e4m3_tensor-amax", "e4m3_row-amax"]

Cast = Callable[[Tensor, CastSpec], tuple[Tensor, ...]]


def spoilt(parts: tuple[Tensor, ...], place: int) -> tuple[Tensor, ...]:
    codes, *others = parts
    codes.view(-1)[place] ^= 1
    return (codes, *others)


def above_a_million(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    parts = quantize_eager(x, spec)
    return spoilt(parts, 1 << 20) if x.numel() > 1 << 20 else parts


def without_its_offset(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    return quantize_eager(x.as_strided(x.shape, x.stride(), 0) if x.is_contiguous() else x, spec)


def of_one_thread(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    parts = quantize_eager(x, spec)
    return spoilt(parts, 5) if torch.get_num_threads() > 1 else parts


def with_a_shared_input() -> Cast:
    kept: dict[torch.Size, Tensor] = {}

    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        scratch = kept.setdefault(x.shape, torch.empty(x.shape))
        scratch.copy_(x)
        return quantize_eager(scratch, spec)

    return lambda x, spec: cast(x, spec) if x.dtype == torch.float32 else quantize_eager(x, spec)


def with_a_shared_output() -> Cast:
    kept: dict[torch.Size, Tensor] = {}

    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, *others = quantize_eager(x, spec)
        return (kept.setdefault(x.shape, torch.empty_like(codes)).copy_(codes), *others)

    return cast


def with_scales_of_an_address() -> Cast:
    """What was cast is known again by its address and shape. It is kept: no other tensor gets its address."""
    kept: dict[object, tuple[Tensor, ...]] = {}

    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, *scales = quantize_eager(x, spec)
        _, *first = kept.setdefault((x.data_ptr(), x.shape), (x, *scales))
        return codes, *first

    return cast


def after_many_calls(calls: int) -> Cast:
    called = [0]

    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        called[0] += 1
        parts = quantize_eager(x, spec)
        return spoilt(parts, 0) if called[0] > calls else parts

    return cast


@pytest.mark.parametrize("cell", SOME)
@pytest.mark.parametrize("kernel", [quantize_eager, fake_quantize_eager])
def test_a_right_cast_is_right_in_all(kernel: Cast, cell: str) -> None:
    found = list(asked_again(kernel, CELLS[cell], "quick"))
    assert [one.example.group for one in found] == GROUPS
    assert not any(one.comparison.counts for one in found)
    assert {one.comparison.unsupported for one in found} == {None}


def test_what_they_are() -> None:
    by_group = {one.example.group: one.example for one in asked_again(quantize_eager, CELLS[SOME[0]], "full")}
    offset, huge, threads = (by_group[name].x for name in ("storage_offset", "huge", "two_threads"))
    assert offset.is_contiguous()
    assert offset.storage_offset() % 4 == 3
    assert huge.numel() > 1 << 20
    assert threads.numel() > 1 << 15


@pytest.mark.parametrize("cell", SOME)
@pytest.mark.parametrize(
    ("cast", "group"),
    [
        (above_a_million, "huge"),
        (without_its_offset, "storage_offset"),
        (of_one_thread, "two_threads"),
        (with_scales_of_an_address(), "same_memory"),
        (with_a_shared_input(), "two_callers"),
        (with_a_shared_output(), "two_callers"),
    ],
)
def test_each_is_caught_in_its_own(cast: Cast, group: str, cell: str) -> None:
    wrong = {one.example.group for one in asked_again(cast, CELLS[cell], "quick") if one.comparison.counts}
    assert wrong == {group}


def test_values_are_held_too() -> None:
    def cast(x: Tensor, spec: CastSpec) -> Tensor:
        values = fake_quantize_eager(x, spec)
        return -values if torch.get_num_threads() > 1 else values

    found = {one.example.group: one.comparison for one in asked_again(cast, CELLS[SOME[0]], "quick")}
    assert set(found["two_threads"].counts) == {"value", "zero sign"}


def test_codes_in_one_call_and_values_in_another() -> None:
    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...] | Tensor:
        return (fake_quantize_eager if torch.get_num_threads() > 1 else quantize_eager)(x, spec)

    found = {one.example.group: one.comparison for one in asked_again(cast, CELLS[SOME[0]], "quick")}
    assert (
        found["two_threads"].error == "TypeError: it returns values in one call, codes and scales in another"
    )


@pytest.mark.usefixtures("one_example")
def test_what_a_kernel_refuses_it_is_not_held_to() -> None:
    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        if x.storage_offset():
            raise NotImplementedError("no offset")
        return quantize_eager(x, spec)

    result = run_cell(cast, CELLS["mxfp4_e2m1-floor"], "quick")
    assert "no offset" in result.unsupported.values()
    assert "storage_offset" in result.unsupported
    assert result.counts == {}


def test_a_kernel_that_raises_beside_another_caller() -> None:
    in_use = threading.Lock()

    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        if not in_use.acquire(blocking=False):
            raise RuntimeError("in use")
        try:
            return quantize_eager(x, spec)
        finally:
            in_use.release()

    found = [one.comparison for one in asked_again(cast, CELLS["mxfp4_e2m1-floor"], "quick")]
    assert "RuntimeError: in use" in [one.error for one in found[-2:]]


# A cell


@pytest.fixture
def one_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first, so that a cell is short."""
    monkeypatch.setattr(cell_run, "examples", lambda *asked: islice(examples(*asked), 1))


def red(cast: Cast, cell: str = "mxfp8_e4m3-floor") -> tuple[CellResult, list[str]]:
    result = run_cell(cast, CELLS[cell], "quick")
    ((group, one),) = counterexamples(cast, result)
    assert as_data(one, "mine")["reproduce"] == ""
    return result, describe(group, one, "mine")


@pytest.mark.usefixtures("one_example")
@pytest.mark.usefixtures("edges_alone")
def test_the_first_wrong_element_is_told_where_it_is() -> None:
    """What is wrong against the oracle, too, is shown by one number."""
    result = run_cell(above_a_million, CELLS["mxfp8_e4m3-floor"], "quick")
    ((group, one),) = counterexamples(above_a_million, result)
    assert result.counts == {"huge": {"code": 1}}
    assert (group, one.x.numel() > 1 << 20, int(one.x.count_nonzero())) == ("huge", True, 1)
    assert len(as_data(one, "mine")["reproduce"]) < 200


@pytest.mark.usefixtures("one_example")
@pytest.mark.parametrize("cell", ["nvfp4-amax", "e4m3_tensor-amax", "e4m3_row-amax"])
def test_so_it_is_where_a_tensor_or_a_row_has_one_scale(cell: str) -> None:
    result, lines = red(of_one_thread, cell)
    assert result.counts == {"two_threads": {"code": 1}}
    assert "  code: [0, 5] got " in "\n".join(lines)
    assert "at [0, 5] of a tensor of shape (24, 256), with torch.set_num_threads(2)" in lines[-2]


@pytest.mark.usefixtures("one_example")
def test_the_first_input_is_asked_again_last() -> None:
    """A cast that is skipped from some call on: the cell before it may be long over."""
    count = [0]

    def counting(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        count[0] += 1
        return quantize_eager(x, spec)

    run_cell(counting, CELLS["mxfp8_e4m3-floor"], "quick")
    result, lines = red(after_many_calls(count[0] - 1))
    assert result.counts == {"asked_again": {"code": 1}}
    assert "asked again after all else; asked first it gave other bits" in lines[-2]


@pytest.mark.usefixtures("one_example")
def test_what_differs_each_time_as_known_is_no_difference_of_surroundings() -> None:
    """A published implementation that is known to differ from the oracle is compared with itself."""

    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        return codes ^ 1, scales

    result = run_cell(cast, CELLS["mxfp8_e4m3-floor"], "quick")
    assert not {"storage_offset", "huge", "two_threads", "two_callers", "asked_again"} & result.counts.keys()


def test_settings_that_two_callers_leave_changed_are_put_back() -> None:
    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        parts = quantize_eager(x, spec)
        torch.set_default_dtype(before)
        return parts

    list(asked_again(cast, CELLS["mxfp4_e2m1-floor"], "quick"))
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == 1
