"""The shrinker: one block, few numbers, plain ones, and the mismatch still there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mxcheck.conformance.failure_text import describe
from mxcheck.conformance.shrink import shrinker
from mxcheck.conformance.shrink.shrinker import NOT_AGAIN, one_block, shrink
from mxcheck.conformance.verify.verifier import compare
from mxcheck.formats.spec import CastSpec, cast_spec
from mxcheck.kernels.api import Kernel
from mxcheck.kernels.eager import quantize_eager

X = torch.randn(5, 70, 4, generator=torch.Generator().manual_seed(0))


def wrong_where(condition: Callable[[Tensor], Tensor], bit: int = 1) -> Kernel:
    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, *scales = quantize_eager(x, spec)
        return codes ^ (condition(x) * bit).to(torch.uint8), *scales

    return kernel


def shrunk(kernel: Kernel, x: Tensor, spec: CastSpec) -> shrinker.Counterexample:
    found = compare(kernel, x, spec)
    kind = next(iter(found.counts))
    one = shrink(kernel, x, spec, kind, found)
    assert one.kind in one.comparison.counts
    assert dict(compare(kernel, one.x, one.spec).counts) == dict(one.comparison.counts)
    return one


@pytest.mark.parametrize(
    ("place", "axis", "block_size", "expected"),
    [
        ((4, 69, 3), 1, 32, (slice(4, 5), slice(64, 70), slice(3, 4))),
        ((4, 69, 3), -2, 16, (slice(4, 5), slice(64, 70), slice(3, 4))),
        ((2, 31, 0), 1, 32, (slice(2, 3), slice(0, 32), slice(0, 1))),
        ((2, 31, 1), -1, 2, (slice(2, 3), slice(31, 32), slice(0, 2))),
    ],
)
def test_the_block_of_a_place(
    place: tuple[int, ...], axis: int, block_size: int, expected: tuple[slice, ...]
) -> None:
    random = torch.arange(X.numel()).view(X.shape)
    spec = CastSpec(format="mxint8", axis=axis, block_size=block_size, rounding="stochastic", random=random)
    x, own = one_block(X, spec, place)
    assert torch.equal(x, X[expected])
    assert x.is_contiguous()
    assert torch.equal(own.random, random[expected])
    assert replace(own, random=None) == replace(spec, random=None)


def test_the_block_of_a_row_and_of_a_tensor() -> None:
    assert one_block(X, cast_spec("e4m3_row", axis=1), (1, 2, 3))[0].shape == (1, 70, 1)
    assert one_block(X, cast_spec("e4m3_tensor"), (1, 2, 3))[0].shape == X.shape
    assert one_block(X, cast_spec("nvfp4", axis=1), (1, 69, 3))[0].shape == (1, 6, 1)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_one_number_is_left_and_it_is_plain(axis: int) -> None:
    x = X.clamp(-1, 1)
    x[3, 40, 2] = 1.2345
    spec = CastSpec(format="fp8_e4m3", axis=axis)
    one = shrunk(wrong_where(lambda x: x.abs() > 1.1), x, spec)
    assert one.single_block
    assert one.x.numel() <= 32
    assert one.x[one.x != 0].tolist() == [1.125]  # the fewest significand bits above 1.1


def test_the_input_is_left_as_it_was() -> None:
    x = X.clone()
    shrunk(wrong_where(lambda x: x > 0.5), x, CastSpec(format="fp8_e4m3", axis=1))
    assert torch.equal(x, X)


def test_two_numbers_that_need_each_other_stay() -> None:
    both = wrong_where(lambda x: (x > 0.5) & (x < -0.5).any(1, keepdim=True))
    one = shrunk(both, X, CastSpec(format="fp8_e4m3", axis=1))
    assert one.single_block
    assert sorted(one.x[one.x != 0].tolist()) == [-1.0, 1.0] or one.x.count_nonzero() == 2


def test_a_sign_that_matters_stays_and_one_that_does_not_goes() -> None:
    spec = CastSpec(format="fp8_e4m3", axis=1)
    negative = shrunk(wrong_where(lambda x: x < -0.9), X.clamp(-1.5, 1.5), spec)
    assert negative.x[negative.x != 0].tolist() == [-1.0]
    either = shrunk(wrong_where(lambda x: x.abs() > 0.9), -X.abs().clamp(max=1.5), spec)
    assert either.x[either.x != 0].tolist() == [1.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_inputs_stay_so(dtype: torch.dtype) -> None:
    one = shrunk(wrong_where(lambda x: x > 1.2), X.to(dtype), CastSpec(format="fp8_e4m3", axis=1))
    assert one.x.dtype == dtype
    assert one.x[one.x != 0].tolist() in ([1.25], [1.5], [2.0])


def test_a_mismatch_of_zeros_shrinks_to_zeros() -> None:
    x = torch.where(X > 0.8, torch.tensor(-0.0), X)
    one = shrunk(
        wrong_where(lambda x: (x == 0) & x.signbit(), bit=0x80), x, CastSpec(format="fp8_e4m3", axis=1)
    )
    assert one.kind == "zero sign"
    assert not one.x.any()
    assert one.x.signbit().sum() == 1


def test_what_one_block_does_not_show_is_shown_by_few() -> None:
    """The fault is in the second of two blocks, and only there."""

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        if scales.shape[-1] > 1:
            scales[..., 1] += 1
        return codes, scales

    one = shrunk(kernel, X.reshape(7, 200), CastSpec(format="fp8_e4m3"))
    assert not one.single_block
    assert one.x.shape == (1, 64)
    assert one.x.count_nonzero() == 1


def test_what_a_block_alone_shows_takes_the_place_of_nothing() -> None:
    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        if x.shape[0] > 1:
            return codes ^ 1, scales
        return codes, scales + 1

    x, spec = torch.ones(3, 64), CastSpec(format="fp8_e4m3")
    one = shrink(kernel, x, spec, "code", compare(kernel, x, spec))
    assert (one.kind, one.single_block, one.x.shape) == ("code", False, (2, 32))


def test_random_integers_come_along() -> None:
    random = torch.randint(1 << 32, X.shape, generator=torch.Generator().manual_seed(1))
    spec = CastSpec(format="mxint8", axis=1, rounding="stochastic", random=random)

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        assert spec.random is not None
        assert spec.random.shape == x.shape
        return quantize_eager(x, replace(spec, random=(1 << 32) - 1 - spec.random))

    one = shrunk(kernel, X, spec)
    assert one.single_block
    assert one.spec.random.shape == one.x.shape
    assert set(one.spec.random.flatten().tolist()) <= {0, *random.flatten().tolist()}
    assert not one.spec.random[one.x == 0].any()


def test_random_integers_come_along_with_a_smaller_tensor() -> None:
    random = torch.randint(1 << 32, (6, 128), generator=torch.Generator().manual_seed(1))
    spec = CastSpec(format="fp8_e4m3", rounding="stochastic", random=random)

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        return codes ^ (x.shape[0] > 1), scales

    one = shrunk(kernel, X.flatten()[:768].view(6, 128), spec)
    assert (one.x.shape, one.spec.random.shape) == ((2, 32), (2, 32))
    assert not one.single_block


def test_not_more_calls_than_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        nonlocal calls
        calls += 1
        codes, scales = quantize_eager(x, spec)
        return codes ^ (x.numel() == 6000), scales

    x = X.flatten()[:100].expand(60, 100).contiguous()
    monkeypatch.setattr(shrinker, "_MOST_CALLS", 50)
    spec = CastSpec(format="fp8_e4m3")
    seen = compare(kernel, x, spec)
    calls = 0
    one = shrink(kernel, x, spec, "code", seen)
    assert calls <= 51  # and one for the result
    assert "code" in one.comparison.counts
    assert one.x.shape == x.shape


def test_random_integers_of_zeros_stay_where_they_matter() -> None:
    random = torch.randint(1, 1 << 32, (2, 32), generator=torch.Generator().manual_seed(1))
    spec = CastSpec(format="mxint8", rounding="stochastic", random=random)

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scales = quantize_eager(x, spec)
        return codes ^ bool(spec.random.all()), scales

    one = shrunk(kernel, X.flatten()[:64].view(2, 32), spec)
    assert one.x.count_nonzero() == 1
    assert one.spec.random.all()


@pytest.mark.parametrize("most", [0, 1, 5, 20])
@pytest.mark.parametrize("step", ["smaller", "fewer", "plainer"])
def test_nothing_is_tried_after_too_much_work(most: int, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only is nothing called: nothing is looked at either, which took longer."""
    monkeypatch.setattr(shrinker, "_MOST_CALLS", most)
    tried = 0
    own = shrinker._Search.shows

    def shows(self: shrinker._Search, x: Tensor, spec: CastSpec) -> bool:
        nonlocal tried
        tried += 1
        return own(self, x, spec)

    monkeypatch.setattr(shrinker._Search, "shows", shows)
    search = shrinker._Search(kernel=quantize_eager, kind="code")
    x = X.reshape(20, 70)
    getattr(search, step)(x, CastSpec(format="fp8_e4m3"))
    assert tried == most + 1 or (step == "smaller" and tried < most)


def test_a_large_tensor_is_not_taken_apart_number_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrinker, "_MOST_CALLS", 10**9)
    monkeypatch.setattr(shrinker, "_MOST_PARTS", 16)
    sizes = []

    def shows(_: shrinker._Search, x: Tensor, __: CastSpec) -> bool:
        sizes.append(int(x.numel() - x.count_nonzero()))
        return False

    monkeypatch.setattr(shrinker._Search, "shows", shows)
    search = shrinker._Search(kernel=quantize_eager, kind="code")
    search.fewer(torch.ones(64, 32), CastSpec(format="fp8_e4m3"))
    assert len(sizes) == 2 + 4 + 8 + 16
    assert min(sizes) == 128


def test_a_large_tensor_takes_no_longer_than_its_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale of a whole tensor, and a mismatch that takes all of it: tens of seconds once, in looking at
    parts of it."""

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        codes, scale = quantize_eager(x, spec)
        return codes ^ bool(x.numel() == 1 << 18 and x.all()), scale

    x, spec = 1 + torch.arange(float(1 << 18)).view(512, 512), cast_spec("e4m3_tensor")
    seen = compare(kernel, x, spec)
    monkeypatch.setattr(shrinker, "_MOST_ELEMENTS", 1 << 20)  # a handful of calls
    start = time.process_time()
    one = shrink(kernel, x, spec, "code", seen)
    assert one.x.shape == x.shape
    assert time.process_time() - start < 5


def unsteady(wrong: Callable[[int], bool]) -> Kernel:
    """A kernel that is wrong in the calls with these numbers."""
    calls = 0

    def kernel(x: Tensor, spec: CastSpec) -> tuple[Tensor, ...]:
        nonlocal calls
        calls += 1
        codes, scales = quantize_eager(x, spec)
        return codes ^ wrong(calls), scales

    return kernel


@pytest.mark.parametrize("x", [X[:, :64, 0].contiguous(), X[0].T], ids=["contiguous", "strided"])
@pytest.mark.parametrize(
    ("wrong", "count"),
    [
        pytest.param(lambda call: call == 1, 0, id="never again"),
        pytest.param(lambda call: call in (1, 12), 1, id="once more"),
        pytest.param(lambda call: call in (1, 2), 0, id="in the block, once"),
    ],
)
def test_what_does_not_always_show_is_told_so(x: Tensor, wrong: Callable[[int], bool], count: int) -> None:
    kernel, spec = unsteady(wrong), CastSpec(format="fp8_e4m3")
    seen = compare(kernel, x, spec)
    one = shrink(kernel, x, spec, "code", seen)
    notes = {f"asked again {told} of 5 calls differ" for told in range(1, count + 1)} | {NOT_AGAIN}
    assert one.surroundings in notes
    assert "code" in one.comparison.counts
    assert one.x.numel() == 32
    assert not one.strided
    lines = describe("here", one, "k:f")
    assert f"  {one.note}" in lines
    assert "strides" not in "".join(lines)
    assert "  codes: as expected" not in lines


def test_what_shows_every_other_time_is_told_with_how_often() -> None:
    x, spec, kernel = X[:, :64, 0].contiguous(), CastSpec(format="fp8_e4m3"), unsteady(lambda call: call % 2)
    seen = compare(kernel, x, spec)
    one = shrink(kernel, x, spec, "code", seen)
    assert one.surroundings in {f"asked again {n} of 5 calls differ" for n in (2, 3)}
    assert one.note == f"at [0, 0] of a tensor of shape (5, 64), {one.surroundings}"
