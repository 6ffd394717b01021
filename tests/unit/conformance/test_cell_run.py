"""A cell from end to end: what is counted, what is not asked any more, what is told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mxcheck.conformance import cell_run
from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.generator import Example
from mxcheck.conformance.cell_run import counterexamples, reproduce, run_cell
from mxcheck.conformance.findings import Finding
from mxcheck.conformance.implementation.learned_domain import Learned
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.domain import Domain
from mxcheck.kernels.eager import quantize_eager

CELL = Cell(format="fp8_e4m3", scale_rule="floor")


class Counting:
    """A kernel that counts its calls, refuses some, and gets the first code of a row wrong in others."""

    def __init__(self, refuse: tuple[int, ...] = (), wrong: tuple[int, ...] = ()) -> None:
        self.calls, self.refuse, self.wrong = 0, refuse, wrong

    def __call__(self, x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        self.calls += 1
        if self.calls in self.refuse:
            raise NotImplementedError(f"call {self.calls}")
        codes, scales = quantize_eager(x, spec)
        if self.calls in self.wrong:
            codes[:, 0] ^= 1
        return codes, scales


@pytest.fixture
def three_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    def examples(cell: Cell, level: str, domain: Domain) -> list[Example]:
        assert (level, domain) == ("quick", Domain())
        x = torch.ones(2, 64)
        return [Example(group=group, x=x, spec=cell.spec()) for group in ("a", "b", "b", "c")]

    monkeypatch.setattr(cell_run, "examples", examples)
    for others in ("asked_again", "in_batches", "matrices"):
        monkeypatch.setattr(cell_run, others, lambda *_: ())
    monkeypatch.setattr(cell_run, "kept_results", lambda *_: [])
    monkeypatch.setattr(cell_run, "learned_domain", lambda *_: Learned(domain=Domain()))


def test_a_cell_that_is_refused_in_each_dtype_is_asked_nothing_more() -> None:
    kernel = Counting(refuse=tuple(range(1, 100)))
    result = run_cell(kernel, CELL, "quick")
    # What it looks at, of three shapes; then four shapes in three ranks, and one again; each dtype.
    assert kernel.calls == 3 * 3 + 13 * 3
    assert (result.elements, result.unsupported) == (0, {"every group": "call 46"})
    assert result.reason == "call 46"
    assert (result.counts, result.mismatches) == ({}, [])
    assert counterexamples(kernel, result) == []


def test_one_error_for_all_is_told_after_a_few() -> None:
    calls = [0]

    def kernel(_: Tensor, __: CastSpec) -> tuple[Tensor, ...]:
        calls[0] += 1
        raise RuntimeError("broken")

    result = run_cell(kernel, CELL, "quick")
    assert calls[0] < 60
    assert {kind for group in result.counts.values() for kind in group} == {"error"}
    assert {one.seen.error for one in result.mismatches} == {"RuntimeError: broken"}


@pytest.mark.usefixtures("three_groups")
def test_a_later_refusal_does_not() -> None:
    kernel = Counting(refuse=(2, 3))
    result = run_cell(kernel, CELL, "quick")
    assert kernel.calls == 5  # the first once more
    assert (result.elements, result.unsupported, result.reason) == (3 * 128, {"b": "call 2"}, None)


@pytest.mark.usefixtures("three_groups")
def test_counts_add_up_by_group_and_kind() -> None:
    result = run_cell(Counting(wrong=(2, 3, 4)), CELL, "quick")
    assert result.counts == {"b": {"code": 4}, "c": {"code": 2}}
    (one,) = result.mismatches
    assert (one.kind, one.example.group, one.seen.places["code"]) == ("code", "b", (0, 0))
    assert one.sighting.count == 6
    assert result.elements == 5 * 128


@pytest.mark.usefixtures("three_groups")
def test_inputs_that_shrink_to_the_same_are_told_once() -> None:
    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        return codes ^ 1, scales

    result = run_cell(kernel, CELL, "quick")
    ((group, one),) = counterexamples(kernel, result)
    assert (group, one.count) == ("a", 4 * 128)


def test_each_cause_is_told_once() -> None:
    """In each of 20 groups of inputs, among ties, in bf16, under every scale."""

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        codes = torch.where(codes == 0x80, 0, codes ^ (codes == 0x23))
        return codes.to(torch.uint8), torch.where(scales == 67, 68, scales).to(torch.uint8)

    result = run_cell(kernel, CELL, "quick")
    found = counterexamples(kernel, result)
    assert [one.kind for _, one in found] == ["scale", "code", "zero sign"]
    assert len(result.mismatches) > 100
    assert sum(one.count for _, one in found) == sum(
        number for kinds in result.counts.values() for number in kinds.values()
    )


def test_not_too_many_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_run, "MOST_COUNTEREXAMPLES", 1)

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        return codes ^ 1, scales + 1

    assert len(counterexamples(kernel, run_cell(kernel, CELL, "quick"))) == 1


def finding(**told: object) -> Finding:
    return Finding(
        name="one",
        implementation="mine",
        versions=(),
        formats=("mxint8",),
        rules=("floor",),
        kinds=("code",),
        cause="",
        counterexample={"format": "mxint8", "rule": "floor", **told},
    )


def off_by_one(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
    codes, scales = quantize_eager(x, spec)
    return codes + 1, scales


def test_a_finding_is_reproduced_by_the_keys_that_it_has() -> None:
    one = finding(input="3f800000 0", codes_got="41 01", codes_expected="40 00")
    assert reproduce(off_by_one, one) == {"codes_got": "41 01", "codes_expected": "40 00"}
    assert reproduce(quantize_eager, one) == {"codes_got": "40 00", "codes_expected": "40 00"}


def test_with_its_shape_axis_block_size_and_dtype() -> None:
    seen: list[tuple[Tensor, CastSpec]] = []

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        seen.append((x.clone(), spec))
        return quantize_eager(x, spec)

    one = finding(
        input="3f800000 0*3", shape=[2, 2], axis=0, block_size=16, dtype="bfloat16", scales_got="", error=""
    )
    assert reproduce(kernel, one) == {"scales_got": "7f 00"}
    [(x, spec)] = seen
    assert x.dtype == torch.bfloat16
    assert x.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert spec == CastSpec(format="mxint8", axis=0, block_size=16)


def test_a_finding_of_what_is_refused_by_now_is_an_error() -> None:
    with pytest.raises(ValueError, match="one: mine does not do this: call 1"):
        reproduce(Counting(refuse=(1,)), finding(input="0", codes_got=""))
