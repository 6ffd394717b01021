"""Groups of tensors for scales with a significand: each holds what it says, and the same bits as ever."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from mxcheck.conformance.cases.cells import Cell
from mxcheck.conformance.cases.seeded_random import Draws
from mxcheck.conformance.cases.tensors import TENSOR_GROUPS
from mxcheck.formats.codes import code_values, finite_codes
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.oracle import Parts, quantize_array
from mxcheck.formats.real_scales import NVFP4_BLOCK_SCALE

CELLS = {
    name: Cell(format=name, scale_rule="amax")
    for name in ("nvfp4", "e4m3_tensor", "e4m3_row", "e5m2_tensor", "e5m2_row")
}
each_format = pytest.mark.parametrize("name", CELLS)
DIGESTS = {
    "plain": "8b4eb56bec6d",
    "element_boundaries": "d52a842fa613",
    "element_boundaries_of_any_scale": "a9d2c9dab41a",
    "scale_boundaries": "3ea51ef9186f",
    "scale_boundaries_of_any_tensor": "24c3eca23555",
    "any_scale": "f6783fa382b0",
    "zero_and_tiny": "d07824443d9f",
    "not_finite": "e6fb3f0e8ee9",
    "large": "445109bb0682",
    "constant": "6664b3e660db",
}
POWERS = [2.0**-20, 1.0, 2.0**30]


def made(group: str, name: str) -> list[NDArray[np.float32]]:
    with np.errstate(all="ignore"):
        return list(TENSOR_GROUPS["full"][group](CELLS[name], Draws("test")))


def quantized(x: NDArray[np.float32], name: str) -> Parts:
    with np.errstate(all="ignore"):
        return quantize_array(x, CELLS[name].spec())


def scale_of(parts: Parts) -> NDArray[np.float32]:
    """The fp32 scale or scales."""
    return np.unique(parts[2] if len(parts) == 3 else parts[1])


def midpoints(element: ElementFormat) -> NDArray[np.float64]:
    ladder = np.array(sorted({abs(code_values(element)[code]) for code in finite_codes(element)}))
    return (ladder[:-1] + ladder[1:]) / 2


@each_format
@pytest.mark.parametrize("group", TENSOR_GROUPS["quick"])
def test_tensors_twice_the_same(group: str, name: str) -> None:
    first, again = made(group, name), made(group, name)
    assert bool(first) == (name == "nvfp4" or group != "scale_boundaries_of_any_tensor")
    assert all(x.dtype == np.float32 and x.ndim == 2 and x.size for x in first)
    assert [x.tobytes() for x in first] == [x.tobytes() for x in again]


def test_every_groups_bits_are_those_of_the_findings() -> None:
    """As in `test_edge_blocks.py`."""
    digests = {
        group: hashlib.sha256(b"".join(x.tobytes() for x in made(group, "nvfp4"))).hexdigest()[:12]
        for group in TENSOR_GROUPS["quick"]
    }
    assert digests == DIGESTS


def test_full_adds_length_to_quick() -> None:
    assert list(TENSOR_GROUPS["full"]) == [*TENSOR_GROUPS["quick"], "plain_at_length"]
    assert len(made("plain_at_length", "nvfp4")) == 64


@each_format
def test_element_boundaries_have_scales_of_powers_of_two_and_both_neighbours(name: str) -> None:
    tensors = made("element_boundaries", name)
    element = CELLS[name].spec().element
    scales = [scale_of(quantized(x, name)).tolist() for x in tensors]
    assert sorted(scales) == [[power] for power in POWERS]
    for x, [scale] in zip(tensors, scales, strict=True):
        units = (x.astype(np.float64) / scale).astype(np.float32)
        if name == "nvfp4":
            block_scales = quantized(x, name)[1]
            assert set(block_scales.ravel().tolist()) == set(range(1, NVFP4_BLOCK_SCALE.max_magnitude + 1))
            units = units[(block_scales == 0x38).ravel()]  # E4M3's code of 1
        found = set(units.view(np.uint32).ravel().tolist())
        points = midpoints(element).astype(np.float32)
        near = np.concatenate([np.nextafter(points, np.float32(0)), points, np.nextafter(points, points * 2)])
        assert set(near.view(np.uint32).tolist()) <= found
        assert set((-near).view(np.uint32).tolist()) <= found


def test_every_code_is_reached_under_every_block_scale() -> None:
    x = made("element_boundaries", "nvfp4")[0]
    codes, scales, _ = quantized(x, "nvfp4")
    for scale in range(1, NVFP4_BLOCK_SCALE.max_magnitude + 1):
        assert set(codes[(scales == scale).ravel()].ravel().tolist()) == set(range(16))


def test_scale_boundaries_of_nvfp4_have_every_midpoint_from_both_sides() -> None:
    for x in made("scale_boundaries", "nvfp4"):
        _, scales, tensor_scale = quantized(x, "nvfp4")
        assert tensor_scale in POWERS
        assert set(scales.ravel().tolist()) == set(range(NVFP4_BLOCK_SCALE.max_magnitude + 1))
        units = np.abs(x).max(1).astype(np.float64) / tensor_scale / 6
        for point in midpoints(NVFP4_BLOCK_SCALE):
            assert point in units
            assert ((units < point) & (units > point * (1 - 2.0**-21))).any()
            assert ((units > point) & (units < point * (1 + 2.0**-21))).any()


@pytest.mark.parametrize("name", [name for name in CELLS if name != "nvfp4"])
def test_scale_boundaries_of_fp32_scales_round_either_way(name: str) -> None:
    most = CELLS[name].spec().element.max_value
    up = down = 0
    for x in made("scale_boundaries", name):
        scales = quantized(x, name)[1].astype(np.float64)
        axis = None if name.endswith("tensor") else 1
        amax = np.abs(x).max(axis, keepdims=True).astype(np.float64)
        up += int((scales * most > amax).sum())
        down += int((scales * most < amax).sum())
    assert min(up, down) > 10


@each_format
def test_any_scale_reaches_the_fp32_scales_subnormals(name: str) -> None:
    found = np.concatenate([scale_of(quantized(x, name)) for x in made("any_scale", name)])
    assert np.isfinite(found).all()
    assert 0 < found.min() < 2.0**-140
    assert found.max() > 2.0**100


@each_format
def test_zero_and_tiny_reaches_the_scale_that_counts_as_one(name: str) -> None:
    tensors = made("zero_and_tiny", name)
    assert any((x == 0).all() and not np.signbit(x).any() for x in tensors)
    assert any((x == 0).all() and np.signbit(x).all() for x in tensors)
    assert any(
        x.any() and 1.0 in scale_of(quantized(x, name)) and np.abs(x).max() < 2.0**-130 for x in tensors
    )
    assert any(((x == 0).all(1)).any() and x.any() for x in tensors)


@each_format
def test_not_finite_has_each_alone_and_among_numbers(name: str) -> None:
    tensors = made("not_finite", name)
    assert all((~np.isfinite(x)).sum() == 1 for x in tensors)
    for wanted in (np.isnan, np.isposinf, np.isneginf):
        here = [x for x in tensors if wanted(x).any()]
        assert {int(np.argwhere(wanted(x))[0, 1]) for x in here} == {0, 17, 63}
        assert any((np.where(np.isfinite(x), x, 0) == 0).all() for x in here)
        assert any(np.where(np.isfinite(x), x, 0).any() for x in here)
    assert {bool(np.signbit(x[np.isnan(x)])[0]) for x in tensors if np.isnan(x).any()} == {True, False}
