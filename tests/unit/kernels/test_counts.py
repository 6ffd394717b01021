"""Each counter against the exact oracle, and against inputs of which the answer is seen at a glance."""

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxcheck.formats.blocks import BLOCK_FORMATS, E8M0, FP32
from mxcheck.formats.codes import code_values, scale_values
from mxcheck.formats.oracle import quantize_array
from mxcheck.formats.spec import ROUNDINGS, CastSpec, cast_spec
from mxcheck.kernels import counts as counts_module
from mxcheck.kernels.api import quantize
from mxcheck.kernels.counts import CastCounts, count_cast, total
from mxcheck.kernels.quantized import QuantizedTensor

SPECS = {
    f"{name} {rule} {rounding} {policy}": cast_spec(
        name, scale_rule=rule, rounding=rounding, nonfinite=policy
    )
    for name, row in BLOCK_FORMATS.items()
    for rule in row.scale_rules
    for rounding in (ROUNDINGS if row.scale == E8M0 else ("even",))
    for policy in (("block", "element") if row.scale == E8M0 and "fp8" in name else ("block",))
}


def drawn(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Normal numbers over many binades, zeros, blocks of zeros, subnormals; NaN and Inf here and there."""
    source = np.random.Generator(np.random.PCG64(seed))
    x = source.normal(size=shape) * 2.0 ** source.integers(-6, 4, size=shape)
    x *= 2.0 ** source.integers(-20, 20, size=(*shape[:-1], 1))
    x[source.random(shape) < 0.05] = 0.0
    x[source.random(shape) < 0.02] = -0.0
    x[source.random(shape) < 0.05] = 1e-38
    x[0, :2] = 0.0
    x[..., :40] = 0.0
    x = x.astype(np.float32)
    x[-1, ..., -1] = np.nan
    x[-1, ..., -7] = -np.inf
    return x


def finite(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.from_numpy(np.nan_to_num(drawn(shape, seed), nan=1.0, neginf=-1.0))


def by_oracle(x: NDArray[np.float32], spec: CastSpec) -> CastCounts:
    """The definitions, read aloud, of the oracle's codes and scales, in float64, which holds all of them."""
    codes, scales, *tensor = quantize_array(x, spec)
    axis = spec.axis % x.ndim
    values = np.abs(np.array(code_values(spec.element))[codes])
    if spec.block.scale == E8M0:
        real = np.array(scale_values())[scales]
    elif spec.block.scale == FP32:
        real = scales.astype(np.float64)
    else:
        real = np.array(code_values(BLOCK_FORMATS["fp8_e4m3"].element))[scales] * np.float64(tensor[0])
    size = x.size if spec.block.whole_tensor else spec.block_size or x.shape[axis]
    exact = np.abs(x.astype(np.float64))
    saturated = flushed = top = zero_blocks = 0
    shape = real.shape
    for place in np.ndindex(*shape):
        index = tuple(
            slice(None)
            if spec.block.whole_tensor
            else slice(p * size, (p + 1) * size)
            if i == axis
            else slice(p, p + 1)
            for i, p in enumerate(place)
        )
        scale = real[place]
        if math.isnan(scale):
            continue
        block, value = exact[index], values[index]
        finite = np.isfinite(block)
        if scale > 0:
            saturated += int((finite & (block > spec.element.max_value * scale)).sum())
        flushed += int((finite & (block > 0) & (value == 0)).sum())
        top += int((value == spec.element.max_value).sum())
        zero_blocks += int((value == 0).all())
    numbers, repeats = np.unique(scales, return_counts=True)
    return CastCounts(
        elements=x.size,
        saturated=saturated,
        flushed=flushed,
        top=top,
        nan=int(np.isnan(x).sum()),
        inf=int(np.isinf(x).sum()),
        zero_blocks=zero_blocks,
        scales=None
        if spec.block.scale == FP32
        else dict(zip(numbers.tolist(), repeats.tolist(), strict=True)),
    )


def counted(x: Tensor, spec: CastSpec) -> CastCounts:
    return count_cast(x, quantized(x, spec))


def quantized(x: Tensor, spec: CastSpec) -> QuantizedTensor:
    return quantize(
        x,
        spec.format,
        axis=spec.axis,
        block_size=spec.block_size,
        scale_rule=spec.scale_rule,
        rounding=spec.rounding,
        nonfinite=spec.nonfinite,
        random=spec.random,
    )


def of_both(x: Tensor, spec: CastSpec) -> tuple[CastCounts, CastCounts]:
    """By the house kernel's codes, and by the oracle's."""
    random = None
    if spec.rounding == "stochastic":
        random = torch.randint(1 << 32, x.shape, generator=torch.Generator().manual_seed(1))
    exact = by_oracle(x.float().contiguous().numpy(), replace(spec, random=random))
    return counted(x, replace(spec, random=random)), exact


@pytest.mark.parametrize("spec", SPECS.values(), ids=list(SPECS))
def test_equal_to_the_oracle(spec: CastSpec) -> None:
    """In blocks with a ragged tail, some of which hold NaN and Inf."""
    x = torch.from_numpy(drawn((3, 3, 150), seed=7))
    x[1, 0, 64:96] /= x[1, 0, 64:96].abs().max()
    x[1, 0, 70] = spec.element.max_value  # which is the largest code unless the rule gives more room
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        found, exact = of_both(x.to(dtype), spec)
        assert found == exact
        if spec.block.whole_tensor or spec.format == "nvfp4":  # the tensor's scale is NaN
            assert (found.saturated, found.flushed, found.top, found.nan) == (0, 0, 0, 3)
        else:
            assert min(found.nan, found.inf, found.zero_blocks) > 0
            assert found.top > 0 or spec.scale_rule == "ceil"
            assert found.flushed > 0 or dtype == torch.float16  # fp16 has no numbers as small


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_along_every_axis_and_of_strided_inputs(name: str, axis: int) -> None:
    for x in (finite((35, 6, 50), seed=axis + 3), torch.from_numpy(drawn((35, 6, 50), seed=axis + 3))):
        for view in (x, x.transpose(0, 2), x[::3, 1:, ::2]):
            found, exact = of_both(view, cast_spec(name, axis=axis))
            assert found == exact


@pytest.mark.parametrize("name", ["fp8_e4m3", "mxint8", "nvfp4", "e4m3_tensor", "e5m2_row"])
def test_of_more_than_one_chunk(name: str) -> None:
    """Of which each part begins in its own state: zeros, then numbers, then NaN."""
    x = finite((9, 70_000), seed=1)
    x[:2] = 0.0
    if name != "e4m3_tensor":
        x[-1, 5] = torch.nan
    found, exact = of_both(x, cast_spec(name))
    assert found == exact
    assert x.numel() > 2 * (1 << 18)


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 3.4e38, math.nan, math.inf, -math.inf])
def test_of_one_value_throughout(name: str, value: float) -> None:
    found, exact = of_both(torch.full((2, 33), value), cast_spec(name))
    assert found == exact


@pytest.mark.parametrize("block_size", [1, 16, 33, 64, 500])
def test_of_every_block_size(block_size: int) -> None:
    found, exact = of_both(
        torch.from_numpy(drawn((4, 130), seed=2)), cast_spec("fp6_e2m3", block_size=block_size)
    )
    assert found == exact


# ---- by hand: fp8_e4m3 at the scale 1 (amax in [256, 512)), two blocks of 32


def by_hand(**places: float) -> Tensor:
    """256 (scale 1, code 78) in both blocks and 1 elsewhere, but for the values at `_0` to `_63`."""
    x = torch.ones(64)
    x[[31, 63]] = 256.0
    for place, value in places.items():
        x[int(place[1:])] = value
    return x


PLAIN = CastCounts(elements=64, saturated=0, flushed=0, top=0, nan=0, inf=0, zero_blocks=0, scales={127: 2})
E4M3 = cast_spec("fp8_e4m3")
STEP = 2.0**-23


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        pytest.param({}, {}, id="plain"),
        pytest.param({"_0": 448.0}, {"top": 1}, id="the largest does not saturate"),
        pytest.param({"_0": 448 * (1 + STEP)}, {"top": 1, "saturated": 1}, id="one ulp above it does"),
        pytest.param({"_0": -500.0, "_1": 500.0}, {"top": 2, "saturated": 2}, id="of both signs"),
        pytest.param({"_0": 440.0}, {"top": 1}, id="rounds up to the largest"),
        pytest.param({"_0": 2.0**-10}, {"flushed": 1}, id="half the smallest, a tie to even"),
        pytest.param({"_0": -(2.0**-10)}, {"flushed": 1}, id="negative, to -0"),
        pytest.param({"_0": 2.0**-10 * (1 + STEP)}, {}, id="above the tie it stays"),
        pytest.param({"_0": 0.0, "_1": -0.0}, {}, id="zeros are not flushed"),
        pytest.param(
            {"_0": math.nan}, {"nan": 1, "scales": {127: 1, 255: 1}}, id="a NaN takes its block along"
        ),
        pytest.param(
            {"_0": -math.inf, "_1": 2.0**-10, "_2": 500.0, "_33": 500.0},
            {"inf": 1, "top": 1, "saturated": 1, "scales": {127: 1, 255: 1}},
            id="of a poisoned block nothing else counts",
        ),
    ],
)
def test_by_hand(places: dict[str, float], expected: dict[str, Any]) -> None:
    assert asdict(counted(by_hand(**places), E4M3)) == asdict(PLAIN) | expected


def test_nan_and_inf_that_stay_in_their_elements() -> None:
    spec = cast_spec("fp8_e4m3", nonfinite="element", scale_rule="rceil")
    found = counted(by_hand(_0=math.nan, _32=math.inf), spec)
    # the Inf gives its block the scale 2^127, which flushes the 31 others, and has the largest code itself
    assert found == replace(PLAIN, nan=1, inf=1, top=1, flushed=31, scales={127: 1, 254: 1})


def test_what_saturates_beside_a_nan_counts() -> None:
    found = counted(by_hand(_0=math.nan, _1=500.0), cast_spec("fp8_e4m3", nonfinite="element"))
    assert (found.nan, found.saturated) == (1, 1)


def test_the_largest_code_under_a_rule_that_rounds_up() -> None:
    x = by_hand(_0=448.0, _1=440.0, _33=449.0)  # the second block has twice the scale
    found = counted(x, cast_spec("fp8_e4m3", scale_rule="rceil"))
    assert found == replace(PLAIN, top=2, scales={127: 1, 128: 1})


def test_zero_blocks_are_those_of_zero_codes() -> None:
    x = by_hand()
    x[:32] = 0.0
    assert counted(x, E4M3) == replace(PLAIN, zero_blocks=1, scales={0: 1, 127: 1})
    x[0] = 1e-45
    found = counted(x, E4M3)
    assert (found.zero_blocks, found.flushed) == (1, 1)


def test_nvfp4_whose_scale_vanishes_flushes_and_does_not_saturate() -> None:
    x = torch.cat([torch.full((16,), 6.0), torch.full((16,), 1e-6)])
    found = counted(x, cast_spec("nvfp4"))
    assert found.scales == {0: 1, 126: 1}
    assert (found.saturated, found.flushed, found.top, found.zero_blocks) == (0, 16, 16, 1)


def test_mxint8_counts_the_code_that_no_encoder_gives_as_top() -> None:
    q = quantize(torch.full((32,), 1.0), "mxint8")
    q.codes[0] = 0x80
    q.codes[1] = 0x81
    q.codes[2] = 0x7F
    assert count_cast(torch.full((32,), 1.0), q).top == 3


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_codes_are_read_and_not_made_again(name: str) -> None:
    """A kernel's wrong codes show: one that flushes, one that gives the largest."""
    x = finite((4, 64), seed=5)
    spec = cast_spec(name)
    right, q = counted(x, spec), quantized(x, spec)
    values = torch.tensor(code_values(spec.element))[q.codes.int()].abs()
    plain = ((values > 0) & (values < spec.element.max_value)).flatten().nonzero()[:2, 0].tolist()
    q.codes.view(-1)[plain[0]] = 0
    q.codes.view(-1)[plain[1]] = spec.element.max_magnitude
    assert count_cast(x, q) == replace(right, flushed=right.flushed + 1, top=right.top + 1)


def test_scales_are_read_and_not_made_again() -> None:
    q = quantize(by_hand(), "fp8_e4m3")
    q.scales[0] -= 1  # 256 lies beyond 448 / 2
    assert count_cast(by_hand(), q) == replace(PLAIN, saturated=1, scales={126: 1, 127: 1})


@pytest.mark.parametrize(
    ("attribute", "wrong"),
    [
        pytest.param("_magnitudes", lambda codes, _element: codes, id="the sign is left on"),
        pytest.param("_histogram", lambda scales: {127: scales.numel()}, id="scales are not looked at"),
        pytest.param("_number", lambda true: int(true.count_nonzero()) + 1, id="one too many"),
        pytest.param(
            "_limits_of",
            lambda scales, element: (scales * element.max_value).float(),
            id="limits are rounded to nearest",
        ),
        pytest.param("_STRETCH", 1 << 20, id="a tensor in stretches of another size"),
    ],
)
def test_what_these_tests_would_see(attribute: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part, spoiled, changes counts of these inputs; but how a tensor is cut up changes none."""

    def sample() -> list[CastCounts]:
        x = finite((40, 96), seed=9)
        return [counted(x, cast_spec(name)) for name in BLOCK_FORMATS]

    right = sample()
    monkeypatch.setattr(counts_module, attribute, wrong)
    assert (sample() == right) is (attribute == "_STRETCH")


def test_a_total_adds_up() -> None:
    x = torch.from_numpy(drawn((6, 96), seed=4))
    parts = [counted(part, E4M3) for part in x.split(2)]
    assert total(parts) == counted(x, E4M3)
    assert total(parts[:1]) == parts[0]
    rows = [counted(part, cast_spec("e4m3_row")) for part in x.split(2)]
    assert total(rows) == counted(x, cast_spec("e4m3_row"))
    assert total(rows).scales is None


def test_a_total_of_nothing_or_of_two_kinds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a total needs counts of one kind of scale, got none; add up"):
        total([])
    with pytest.raises(ValueError, match="got some with scale codes and some without"):
        total([PLAIN, counted(by_hand(), cast_spec("e4m3_row"))])


def test_codes_of_another_tensor_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"x has shape \(32,\), the codes have \(64,\); give the tensor that was quantized$"
    ):
        count_cast(torch.ones(32), quantize(torch.ones(64), "fp8_e4m3"))
