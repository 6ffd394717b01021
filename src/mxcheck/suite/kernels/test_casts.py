"""The kernel suite: every bit of a cast against the exact oracle, on inputs that sit on the edges.

Where OCP MX v1.0 is silent (zero blocks, the scale's clamps, NaN and Inf), the dialect `ocp` is the
reference: see `mxcheck.formats.oracle`. torch and numpy are imported inside the tests, so that collecting
this file costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mxcheck.formats.codes import finite_codes
from mxcheck.formats.elements import ELEMENT_FORMATS, element_format
from mxcheck.formats.spec import CastSpec

each_format = pytest.mark.parametrize("name", list(ELEMENT_FORMATS))

# The shape has no axis that 32 divides, and one that it exceeds.
RAGGED_SHAPE = (33, 7, 70)
TAIL_LENGTHS = (1, 2, 31, 33, 63, 65, 344)
BLOCK_SIZES = (1, 2, 16, 64, 128)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors, many calls: waiting for a second thread on a busy machine took four times as long."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _differences_on(inputs: str, name: str) -> list[str]:
    import torch

    from mxcheck.suite.kernels.inputs import INPUTS
    from mxcheck.suite.kernels.verify import differences

    return differences(torch.from_numpy(INPUTS[inputs](element_format(name))), CastSpec(format=name))


@each_format
def test_every_code(name: str) -> None:
    assert not _differences_on("every_code", name)


@each_format
def test_every_code_encodes_to_itself(name: str) -> None:
    """What every_code promises, checked without the oracle: codes survive the round trip."""
    import torch

    from mxcheck.kernels.api import quantize
    from mxcheck.suite.kernels.inputs import every_code

    element = element_format(name)
    quantized = quantize(torch.from_numpy(every_code(element)), name)
    codes = quantized.codes[:, 1:].flatten()[: len(finite_codes(element))]
    assert codes.tolist() == list(finite_codes(element))
    assert set(quantized.scales.flatten().tolist()) == {127}


@each_format
def test_midpoints_and_their_neighbours(name: str) -> None:
    assert not _differences_on("midpoints", name)


@each_format
def test_all_bfloat16_values_together(name: str) -> None:
    assert not _differences_on("bfloat16_together", name)


@each_format
def test_all_bfloat16_values_alone(name: str) -> None:
    assert not _differences_on("bfloat16_alone", name)


@each_format
def test_zero_and_subnormal_blocks(name: str) -> None:
    assert not _differences_on("zero_and_subnormal", name)


@each_format
def test_nan_and_inf_in_each_position(name: str) -> None:
    assert not _differences_on("not_finite", name)


@each_format
def test_amax_at_powers_of_two_and_both_scale_clamps(name: str) -> None:
    assert not _differences_on("amax_at_powers_of_two", name)


@each_format
def test_16_bit_inputs(name: str) -> None:
    """Every bf16 and every fp16 value: upcast exactly, and the result rounded once to the input's dtype."""
    import torch

    from mxcheck.suite.kernels.verify import differences

    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(-1, 32)
    for dtype in (torch.bfloat16, torch.float16):
        found = differences(bits.view(dtype), CastSpec(format=name))
        assert not found, f"{dtype}: {found}"


@each_format
def test_ragged_tails(name: str) -> None:
    import torch

    from mxcheck.suite.kernels.verify import differences

    generator = torch.Generator().manual_seed(0)
    for length in TAIL_LENGTHS:
        found = differences(torch.randn(5, length, generator=generator), CastSpec(format=name))
        assert not found, f"length {length}: {found}"


@each_format
def test_each_axis(name: str) -> None:
    """Along every axis, counted from either end, contiguous or not."""
    import torch

    from mxcheck.suite.kernels.verify import differences

    x = torch.randn(RAGGED_SHAPE, generator=torch.Generator().manual_seed(1))
    for axis in range(-x.dim(), x.dim()):
        for layout, values in (
            ("contiguous", x),
            ("transposed", x.transpose(0, 2)),
            ("strided", x[::2, :, 3:]),
        ):
            found = differences(values, CastSpec(format=name, axis=axis))
            assert not found, f"axis {axis}, {layout}: {found}"


@each_format
def test_block_sizes(name: str) -> None:
    import torch

    from mxcheck.suite.kernels.verify import differences

    x = torch.randn(16, 200, generator=torch.Generator().manual_seed(2))
    for block_size in BLOCK_SIZES:
        found = differences(x, CastSpec(format=name, block_size=block_size))
        assert not found, f"blocks of {block_size}: {found}"
