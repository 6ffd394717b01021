"""Causes of shape: each is told once, by one number in the smallest shape that shows it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import pytest
import torch
from faults_of_shape import FAULTS, Cast
from planted_causes import PAIRS, cast_with
from torch import Tensor
from wrong_casts import Parts

from mxcheck.cli.entry import parse
from mxcheck.cli.explain_command import read_cast
from mxcheck.conformance import cell_run
from mxcheck.conformance.cases.cells import cells
from mxcheck.conformance.cases.generator import Example, examples, spread_with_ties
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.conformance.cell_run import counterexamples, run_cell
from mxcheck.conformance.failure_text import as_data, describe
from mxcheck.conformance.shrink import shrinker
from mxcheck.conformance.shrink.counterexample import Counterexample
from mxcheck.conformance.shrink.examples_of_causes import examples_of
from mxcheck.conformance.verify.causes_of_mismatches import Sightings, causes
from mxcheck.conformance.verify.verifier import compare
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.domain import domain
from mxcheck.kernels.eager import quantize_eager

CELLS = {cell.id: cell for cell in cells("full")}


def test_two_causes_of_shape_are_both_shown_beside_matrices() -> None:
    pair = PAIRS["the second block, and a single row"]
    kernel = domain()(cast_with(pair.causes))
    found = counterexamples(kernel, run_cell(kernel, CELLS[pair.cell], "quick"))
    fails = [
        [one.kind in compare(cast_with([cause]), one.x, one.spec).counts for cause in pair.causes]
        for _, one in found
    ]
    assert fails == [[False, True], [True, False]], [describe(group, one, "k:f") for group, one in found]
    assert [tuple(one.x.shape) for _, one in found] == [(1, 32), (2, 64)]


def told(kernel: Cast, *inputs: Tensor) -> list[tuple[str, Counterexample]]:
    """What is told of a kernel that is asked these inputs."""
    seen, spec = Sightings(), CELLS["mxfp8_e4m3-floor"].spec()
    for x in inputs:
        seen.add(Example(group="matrices", x=x, spec=spec), compare(kernel, x, spec))
    return examples_of(kernel, causes(seen.mismatches()), most=8, calls=seen.calls)


def numbers(*shape: int) -> Tensor:
    return spread_with_ties(shape, Draws("examples of causes"))


@pytest.mark.parametrize(
    ("fault", "x", "shape"),
    [
        pytest.param("second_scale_in_whole_tiles", numbers(256, 384), (128, 128), id="whole tiles"),
        pytest.param("many_rows", numbers(4100, 64), (4096, 32), id="many rows"),
        pytest.param("long_rows", numbers(9, 4160), (5, 4128), id="long rows"),
        pytest.param("rows_by_columns", numbers(256, 256), (256, 256), id="one shape"),
        pytest.param("odd_number_of_blocks", numbers(300, 96), (32, 96), id="32 rows"),
        pytest.param("single_row_of_bf16", numbers(1, 320).bfloat16(), (1, 32), id="a row"),
        pytest.param("bf16_rows_of_512", numbers(130, 1024).bfloat16(), (1, 512), id="bf16"),
        pytest.param("transposed_matrix", numbers(64, 64).T, (64, 32), id="layout"),
    ],
)
def test_a_fault_of_shape_is_one_number_in_the_smallest_shape(
    fault: str, x: Tensor, shape: tuple[int, ...]
) -> None:
    ((group, one),) = told(FAULTS[fault], x)
    assert tuple(one.x.shape) == shape
    assert int(one.x.count_nonzero()) <= 1 + (one.kind == "scale")
    assert one.comparison.counts
    lines = describe(group, one, "k:f")
    assert len(lines) <= 6
    assert ("only in this shape" in lines[0]) == (fault == "rows_by_columns")
    assert "whole tiles" not in lines[0] or fault == "second_scale_in_whole_tiles"
    if not one.strided:
        command = as_data(one, "k:f")["reproduce"]
        assert len(command) < 200
        again, spec = read_cast(parse(shlex.split(command)[1:]))
        assert torch.equal(torch.from_numpy(again), one.x.float())
        assert compare(FAULTS[fault], one.x, spec).counts == one.comparison.counts


def flipped_where(where: Callable[[Tensor], bool]) -> Cast:
    def kernel(x: Tensor, spec: CastSpec) -> Parts:
        codes, *scales = quantize_eager(x, spec)
        return codes ^ where(x), *scales

    return kernel


def test_codes_one_up_and_down_nan_and_zeros_are_one_cause_where_numbers_do_not_matter() -> None:
    ties = numbers(64, 96)
    ties[1] = 0
    ties[2, :32] = 511.0  # saturates: the next code is NaN
    found = told(flipped_where(lambda x: x.dtype == torch.bfloat16), ties.bfloat16(), ties)
    assert [(one.kind, one.open) for _, one in found] == [("code", False)]
    assert found[0][1].count == ties.numel()


def test_a_fault_of_numbers_stays_beside_one_of_shape() -> None:
    """Ties away from zero, and a flipped bit in matrices of 128 rows."""

    def kernel(x: Tensor, spec: CastSpec) -> Parts:
        codes, *scales = quantize_eager(x, replace(spec, rounding="away"))
        return codes ^ (x.shape[0] == 128), *scales

    found = told(kernel, numbers(5, 96), numbers(128, 96))
    titles = [describe(group, one, "k:f")[0].partition(",")[0] for group, one in found]
    assert titles == ["code (more than 16 rows)", "code (tie)"]


def test_the_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that takes all numbers of a matrix as they are."""
    x = numbers(200, 96)
    calls = 0

    def kernel(given: Tensor, spec: CastSpec) -> Parts:
        nonlocal calls
        calls += 1
        codes, *scales = quantize_eager(given, spec)
        return codes ^ torch.equal(given, x), *scales

    monkeypatch.setattr(shrinker, "_MOST_CALLS", 60)
    found = told(kernel, x)
    assert len(found) <= 8
    assert calls < 24 * (60 + 10)


def without_the_last_of_a_tail(x: Tensor, spec: CastSpec) -> Parts:
    """It is no part of the amax."""
    codes, *_ = quantize_eager(x, spec)
    seen = x.clone()
    if x.shape[-1] % 32:
        seen[..., -1] = 0
    return codes, quantize_eager(seen, spec)[1]


def test_what_has_one_title_is_one_cause_with_its_effects_in_a_line() -> None:
    x = torch.zeros(5, 35)
    x[:, -3:] = 1.375 * torch.tensor([[1.0, 1, 1], [1, 1, 2], [1, 1, 2], [1, 1, 64], [0, 0, 1]])
    ((group, one),) = told(domain()(without_the_last_of_a_tail), x)
    title, *lines = describe(group, one, "k:f")
    assert title.startswith("scale (ragged tail), 4 times: ")
    assert "  of these 2 one code down, 1 to zero, 1 in another way" in lines


@pytest.fixture
def few_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones of a cell, and the first again."""
    monkeypatch.setattr(cell_run, "examples", lambda *asked: islice(examples(*asked), 4))

    def nothing(*_: object) -> Iterator[cell_run.Asked]:
        return iter(())

    for others in ("matrices", "in_batches", "asked_again"):
        monkeypatch.setattr(cell_run, others, nothing)
    monkeypatch.setattr(cell_run, "kept_results", lambda *_: [])


def in_calls(wrong: Callable[[int], bool]) -> list[str]:
    """What is told of a kernel that is wrong in the calls with these numbers."""
    calls = 0

    def kernel(x: Tensor, spec: CastSpec) -> Parts:
        nonlocal calls
        calls += 1
        codes, *scales = quantize_eager(x, spec)
        return codes ^ wrong(calls), *scales

    made = domain()(kernel)
    result = run_cell(made, CELLS["mxfp8_e4m3-floor"], "quick")
    return [line for group, one in counterexamples(made, result) for line in describe(group, one, "k:f")]


@pytest.mark.usefixtures("few_inputs")
@pytest.mark.parametrize("call", [1, 3])
def test_what_one_call_shows_is_not_told_by_an_input_that_is_right(call: int) -> None:
    lines = in_calls(lambda number: number == call)
    assert sum(" times: cut out of the input" in line for line in lines) == 1
    told = f", seen in call {call} of 5, not seen again when asked alone"
    assert sum(line.endswith(told) for line in lines) == 1
    assert not any("reproduce: " in line for line in lines)


@pytest.mark.usefixtures("few_inputs")
def test_what_begins_after_some_calls_is_told_so() -> None:
    lines = in_calls(lambda number: number > 2)
    why = "the kernel gives other bits when asked again, so a new process may not show it"
    assert any(re.fullmatch(rf"  seen in call [345] of 5; {why}", line) for line in lines), lines


def a_single_row_is_wrong(x: Tensor, spec: CastSpec) -> Parts:
    codes, scales = quantize_eager(x, spec)[:2]
    return codes, scales - int(x.shape[0] == 1)


def test_a_batch_that_is_right_is_not_told_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a row alone is wrong and nothing else shows it, the oracle's answer stands beside both."""
    for others in ("examples", "matrices", "asked_again"):
        monkeypatch.setattr(cell_run, others, lambda *_, **__: iter(()))
    kernel = domain()(a_single_row_is_wrong)
    ((group, one),) = counterexamples(kernel, run_cell(kernel, CELLS["mxfp8_e4m3-floor"], "quick"))
    assert group == "batch"
    (line,) = (line for line in describe(group, one, "k:f") if line.startswith("  scale: "))
    answers = re.match(r"  scale: \[0, 0\] alone (..) \(.*?\), in a batch (..) \(.*?\), oracle (..) ", line)
    assert answers, line
    alone, batch, oracle = (int(code, 16) for code in answers.groups())
    assert (alone + 1, batch) == (oracle, oracle)


def test_a_batch_that_differs_from_a_wrong_row_is_no_cause_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cell_run, "asked_again", lambda *_: iter(()))
    kernel = domain()(a_single_row_is_wrong)
    ((group, one),) = counterexamples(kernel, run_cell(kernel, CELLS["mxfp8_e4m3-floor"], "quick"))
    assert group != "batch"
    assert (one.kind, tuple(one.x.shape), one.surroundings) == ("scale", (1, 32), "")
