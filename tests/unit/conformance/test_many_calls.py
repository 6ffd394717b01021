"""What only thousands of calls, two threads of torch or two callers at once show."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch
from torch import Tensor

from mxcheck.conformance import many_calls as module
from mxcheck.conformance.cells import Cell
from mxcheck.conformance.many_calls import at_two_threads, callers_as_they_like, first_cell, many_calls
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels import eager
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager

CELL = Cell(format="fp8_e4m3", scale_rule="floor")


class Skipping:
    """A cast that is skipped after a number of calls."""

    def __init__(self, after: int) -> None:
        self.calls, self.after = 0, after

    def __call__(self, x: Tensor, spec: CastSpec) -> Tensor:
        self.calls += 1
        return x.clone() if self.calls > self.after else fake_quantize_eager(x, spec)


@pytest.mark.parametrize("after", [100, 5000])
def test_a_cast_that_is_skipped_after_many_calls(after: int) -> None:
    (line,) = many_calls(Skipping(after), CELL)
    assert line.startswith(f"fake_quantize: call {after + 1:,} of 6,000 with the same numbers has ")
    assert line.endswith(" in the first")
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
    (line,) = many_calls("eager", CELL)
    assert line.startswith(f"{name}: call 41 of 50 ")


def test_an_honest_cast_is_the_same_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALLS", 50)
    monkeypatch.setattr(module, "_ROUNDS", 10)
    for cell in (CELL, Cell(format="nvfp4", scale_rule="amax"), Cell(format="e4m3_row", scale_rule="amax")):
        for kernel in ("eager", quantize_eager, fake_quantize_eager):
            assert many_calls(kernel, cell) == []
        for kernel in (quantize_eager, fake_quantize_eager):
            assert at_two_threads(kernel, cell) == callers_as_they_like(kernel, cell) == []


def test_a_large_tensor_at_two_threads() -> None:
    def cast(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        if torch.get_num_threads() > 1 and x.numel() > 1 << 16:
            codes[-1, 3] ^= 1
        return codes, scales

    (line,) = at_two_threads(cast, CELL)
    assert line.startswith("with two threads of torch it has ")
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
    assert any(line.startswith("beside another thread's calls, call 1 of 200 has ") for line in lines)
    assert all(line.endswith(" alone") for line in lines)


def test_what_a_caller_raises_is_raised() -> None:
    def cast(x: Tensor, spec: CastSpec) -> Tensor:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("no second thread")
        return fake_quantize_eager(x, spec)

    with pytest.raises(RuntimeError, match="no second thread"):
        callers_as_they_like(cast, CELL)


def test_the_first_cell_that_is_not_refused() -> None:
    def cast(x: Tensor, spec: CastSpec, only: str) -> tuple[Tensor, ...]:
        if spec.format != only:
            raise NotImplementedError(f"only {only}")
        return quantize_eager(x, spec)

    assert first_cell(partial(cast, only="fp4_e2m1"), "quick") == Cell(format="fp4_e2m1", scale_rule="floor")
    assert first_cell(partial(cast, only="none"), "quick") == "only none"
