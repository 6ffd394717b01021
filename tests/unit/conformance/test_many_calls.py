"""What only thousands of calls, two threads of torch or two callers at once show."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest
import torch
import wrong_casts
from torch import Tensor

from mxcheck.conformance import many_calls as module
from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.many_calls import (
    Asking,
    ManyCalls,
    at_two_threads,
    callers_as_they_like,
    changed_afterwards,
    first_cell,
    many_calls,
)
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels import eager
from mxcheck.kernels.domain import Domain, NotSupported
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager


def asking(format: str, scale_rule: str) -> Asking:
    return Asking(cell=Cell(format=format, scale_rule=scale_rule), domain=Domain())


CELL = asking("fp8_e4m3", "floor")


class Skipping:
    """A cast that is skipped after a number of calls."""

    def __init__(self, after: int) -> None:
        self.calls, self.after = 0, after

    def __call__(self, x: Tensor, spec: CastSpec) -> Tensor:
        self.calls += 1
        return x.clone() if self.calls > self.after else fake_quantize_eager(x, spec)


@pytest.mark.parametrize("after", [100, 5000])
def test_a_cast_that_is_skipped_after_many_calls(after: int) -> None:
    many = many_calls(Skipping(after), CELL)
    (line,) = many.found
    assert many.calls == after + 1
    assert line.startswith(f"fake_quantize: call {after + 1:,} of 6,000 with the same numbers has ")
    assert " at [0, 0], where it had " in line


@pytest.mark.parametrize(
    ("name", "path"), [("fake_quantize", "fake_quantize_eager"), ("quantize", "quantize_eager")]
)
def test_each_path_of_our_own_is_counted(monkeypatch: pytest.MonkeyPatch, name: str, path: str) -> None:
    monkeypatch.setattr(module, "CALLS", 50)
    real, called = getattr(eager, path), [0]

    def cast(x: Tensor, spec: CastSpec) -> object:
        called[0] += 1
        return real(x * 2 if called[0] > 40 else x, spec)

    pair = {"quantize": (cast, fake_quantize_eager), "fake_quantize": (quantize_eager, cast)}[name]
    monkeypatch.setattr("mxcheck.kernels.api._OWN", {"eager": pair})
    (line,) = many_calls("eager", CELL).found
    assert line.startswith(f"{name}: call 41 of 50 ")


def test_a_right_cast_is_the_same_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALLS", 50)
    monkeypatch.setattr(module, "_ROUNDS", 10)
    for cell in (CELL, asking("nvfp4", "amax"), asking("e4m3_row", "amax")):
        for kernel in ("eager", quantize_eager, fake_quantize_eager):
            assert many_calls(kernel, cell) == ManyCalls(calls=50, found=[])
        for kernel in (quantize_eager, fake_quantize_eager):
            assert at_two_threads(kernel, cell) == callers_as_they_like(kernel, cell) == []


def test_a_large_tensor_at_two_threads() -> None:
    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        if torch.get_num_threads() > 1 and x.numel() > 1 << 16:
            codes[-1, 3] ^= 1
        return codes, scales

    (line,) = at_two_threads(cast, CELL)
    assert line.startswith("with two threads of torch, other than with one, it has ")
    assert " at [519, 3], where it had " in line


def test_callers_that_meet_within_an_operation() -> None:
    """In a line of Python, where taking turns line by line does not reach."""
    place: list[Tensor | None] = [None]
    met = threading.Barrier(2)

    def cast(x: Tensor, spec: CastSpec) -> Tensor:
        place[0] = x
        if threading.current_thread() is not threading.main_thread():
            met.wait(timeout=60)
        assert place[0] is not None
        return fake_quantize_eager(place[0], spec)

    lines = callers_as_they_like(cast, CELL)
    assert lines
    for line in lines:
        assert line.startswith("beside another thread's calls, other than alone, call 1 of 200 has ")


def test_what_a_caller_raises_is_told() -> None:
    def cast(x: Tensor, spec: CastSpec) -> Tensor:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("no second thread\nand more")
        return fake_quantize_eager(x, spec)

    told = "other than alone, call 1 of 200 ends in an error: RuntimeError: no second thread"
    assert callers_as_they_like(cast, CELL) == [f"beside another thread's calls, {told}"]


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, SystemExit])
def test_an_error_is_told_with_its_call(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    monkeypatch.setattr(module, "CALLS", 50)
    called = [0]

    def cast(x: Tensor, spec: CastSpec) -> Tensor:
        called[0] += 1
        if called[0] > 40:
            raise error("used up")
        return fake_quantize_eager(x, spec)

    (line, again) = many_calls(cast, CELL).found
    assert line.startswith("fake_quantize: call 41 of 50 with the same numbers ends in an error: ")
    assert line.endswith("used up")
    assert again.startswith("quantize: call 1 of 50 ")


def leaves_double(x: Tensor, spec: CastSpec) -> Tensor:
    if x.shape[0] == 1:
        torch.set_default_dtype(torch.float64)
    return fake_quantize_eager(x, spec)


def test_a_setting_that_is_left_changed_is_told_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALLS", 3)
    assert many_calls(leaves_double, CELL).found == [
        "fake_quantize: one of 3 calls changed torch's default dtype and left it so"
    ]
    assert torch.get_default_dtype() == torch.float32
    assert first_cell(leaves_double, "quick")[1] == "it changed torch's default dtype and left it so"


def test_an_input_that_is_written_over_is_blamed_on_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALLS", 3)
    assert first_cell(wrong_casts.input_overwritten, "quick")[1] == "it changed its input"
    assert at_two_threads(wrong_casts.input_overwritten, CELL) == ["it changed its input"]
    assert callers_as_they_like(wrong_casts.input_overwritten, CELL) == ["it changed its input"]
    (line, _) = many_calls(wrong_casts.input_overwritten, CELL).found
    assert "call 1 of 3 " in line
    assert "wrote over its input" in line


def test_a_slow_kernel_is_called_for_a_time_and_says_how_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time that it takes itself: on a busy machine it is called as often."""
    monkeypatch.setattr(module, "MOST_SECONDS", 0.05)
    called = [0]

    def slow(x: Tensor, spec: CastSpec) -> Tensor:
        called[0] += 1
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        return fake_quantize_eager(x, spec)

    many = many_calls(slow, CELL)
    assert (many.calls, many.found) == (3, [])
    called[0] = 0
    assert callers_as_they_like(slow, CELL) == []
    assert called[0] <= 2 + 2 * 4


def test_a_refusal_of_more_is_none_of_its_faults() -> None:
    def cast(x: Tensor, spec: CastSpec) -> Tensor:
        if x.shape[0] > 1:
            raise NotImplementedError("one row")
        return fake_quantize_eager(x, spec)

    assert at_two_threads(cast, CELL) == callers_as_they_like(cast, CELL) == []


def test_the_first_cell_that_is_not_refused() -> None:
    def cast(x: Tensor, spec: CastSpec, only: str) -> tuple[Tensor, ...]:
        if spec.format != only:
            raise NotImplementedError(f"only {only}")
        return quantize_eager(x, spec)

    cell = Cell(format="fp4_e2m1", scale_rule="floor")
    asked, wrong = first_cell(partial(cast, only="fp4_e2m1"), "quick")
    assert (asked.cell, wrong) == (cell, "")
    with pytest.raises(NotSupported, match=r"^only none$"):
        first_cell(partial(cast, only="none"), "quick")


def test_a_kernel_that_raises_has_a_cell_and_an_error() -> None:
    def cast(_: Tensor, __: CastSpec) -> Tensor:
        raise RuntimeError("broken")

    asked, wrong = first_cell(cast, "quick")
    assert (asked.cell, wrong) == (CELL.cell, "RuntimeError: broken")


def test_a_result_in_memory_of_the_kernel_s_own_is_changed_by_the_next_call() -> None:
    memory: list[Tensor] = []

    def static(x: Tensor, spec: CastSpec) -> Tensor:
        values = fake_quantize_eager(x, spec)
        if not memory:
            memory.append(values)
        return memory[0].copy_(values)

    (line,) = changed_afterwards(static, CELL)
    assert line.startswith("after a call with other numbers an earlier result has ")
    assert line.endswith(": it is the same memory")
    assert changed_afterwards(quantize_eager, CELL) == []
