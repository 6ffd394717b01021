"""The inputs by which a compiled kernel is tried."""

from __future__ import annotations

import pytest
import torch

from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.spec import cast_spec
from mxcheck.kernels.eager import fake_quantize_eager, quantize_eager
from mxcheck.kernels.trial_casts import (
    alike,
    all_casts,
    any_bits,
    difference,
    drawn,
    inputs,
    near_ties,
    probing,
)


def test_every_format_and_rounding_is_tried() -> None:
    casts = list(all_casts())
    assert len({*casts}) == len(casts)
    assert {spec.format for spec in casts} == {*BLOCK_FORMATS}
    assert {spec.rounding for spec in casts} == {"even", "away", "zero", "stochastic"}


def test_every_dtype_and_axis_is_tried_with_a_tail() -> None:
    tried = list(inputs())
    assert {x.dtype for x, _ in tried} == {torch.float32, torch.bfloat16, torch.float16}
    assert {axis for _, axis in tried} == {0, 1}
    assert all(x.shape[axis] % 16 for x, axis in tried)
    assert near_ties(18, 40).half().isfinite().all()
    assert any_bits(18, 70).isnan().any()


def test_the_random_integers_are_of_the_whole_range() -> None:
    x = near_ties(18, 40)
    random = drawn(x, cast_spec("fp8_e4m3", rounding="stochastic"), 1).random
    assert random is not None
    assert 0 <= random.min() < 1 << 28
    assert (1 << 32) - (1 << 28) < random.max() < 1 << 32


@pytest.mark.parametrize("part", range(4))
def test_any_other_bit_is_a_difference(part: int) -> None:
    x, spec = near_ties(18, 40), cast_spec("nvfp4")
    found = (*quantize_eager(x, spec), fake_quantize_eager(x, spec))
    assert not difference(x, spec, found)
    found[part].view(-1).view(torch.uint8)[-1] ^= 1
    assert difference(x, spec, found) == "nvfp4, amax, even, float32"


def test_bits_but_for_those_of_a_nan() -> None:
    nan = torch.tensor([0x7FC00000, 0x7F800001], dtype=torch.int32).view(torch.float32)
    assert alike(nan[:1], nan[1:])
    assert not alike(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not alike(torch.zeros(2), torch.zeros(1))
    assert not alike(nan[:1], torch.zeros(1))


def test_the_process_gets_its_settings_back() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_flush_denormal(True)
    try:
        with probing():
            assert torch.get_default_dtype() == torch.float32
            assert torch.tensor(2.0**-126) * 0.5 != 0
        assert torch.get_default_dtype() == torch.float64
        assert torch.tensor(2.0**-1022) * 0.5 == 0
    finally:
        torch.set_flush_denormal(False)
        torch.set_default_dtype(torch.float32)
