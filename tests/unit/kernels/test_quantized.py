"""Codes and scales: packing, sizes, and what they mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mxcheck.formats.blocks import BLOCK_FORMATS
from mxcheck.formats.codes import code_values, scale_values
from mxcheck.formats.elements import ELEMENT_FORMATS, element_format
from mxcheck.formats.oracle import dequantize_array
from mxcheck.formats.spec import CastSpec, cast_spec, scales_shape
from mxcheck.kernels.api import quantize
from mxcheck.kernels.compiled.library import switched_off
from mxcheck.kernels.quantized import QuantizedTensor, pack, unpack

each_format = pytest.mark.parametrize("name", list(ELEMENT_FORMATS))


@each_format
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("length", [1, 3, 32, 70])
def test_packing_round_trip(name: str, axis: int, length: int) -> None:
    element = element_format(name)
    shape = [4, 5, 6]
    shape[axis] = length
    codes = torch.randint(0, 2 * element.sign_bit, shape, dtype=torch.uint8)
    packed = pack(codes, element, axis)
    assert torch.equal(unpack(packed, element, axis, length), codes)
    quantized = QuantizedTensor(codes=codes, scales=codes[:1], spec=CastSpec(format=name, axis=axis))
    assert torch.equal(quantized.packed(), packed)
    assert quantized.nbytes == packed.numel() + codes[:1].numel()


def test_packed_bytes() -> None:
    four = torch.tensor([1, 2, 0xF], dtype=torch.uint8)
    assert pack(four, element_format("fp4_e2m1"), -1).tolist() == [0x21, 0x0F]
    six = torch.tensor([0b000001, 0b100010, 0b111100, 0b010101, 1], dtype=torch.uint8)
    packed = pack(six, element_format("fp6_e3m2"), 0).tolist()
    assert packed == [0b10_000001, 0b1100_1000, 0b010101_11, 1, 0, 0]


@pytest.mark.parametrize("codes", [torch.ones(2), torch.ones(2).int(), [1, 2]], ids=repr)
@each_format
def test_codes_are_bytes(name: str, codes: Any) -> None:
    with pytest.raises(TypeError, match=r"^codes must be a torch\.Tensor of torch\.uint8, got (torch|list)"):
        pack(codes, element_format(name), -1)
    with pytest.raises(TypeError, match=r"^packed must be a torch\.Tensor of torch\.uint8, got (torch|list)"):
        unpack(codes, element_format(name), -1, 2)


@pytest.mark.parametrize(("name", "most"), [("fp4_e2m1", 0x0F), ("fp6_e2m3", 0x3F), ("fp8_e4m3", 0xFF)])
def test_a_code_has_no_more_bits_than_its_element(name: str, most: int) -> None:
    element = element_format(name)
    packed = pack(torch.tensor([0, most], dtype=torch.uint8), element, -1)
    assert unpack(packed, element, -1, 2).tolist() == [0, most]
    if most < 0xFF:
        with pytest.raises(
            ValueError, match=f"a code is {most + 1:#04x}, .*{name}; allowed: 0x00 to {most:#04x}"
        ):
            pack(torch.tensor([0, most + 1], dtype=torch.uint8), element, -1)


@each_format
def test_unpack_refuses_another_number_of_codes(name: str) -> None:
    element = element_format(name)
    packed = pack(torch.ones(3, 8, dtype=torch.uint8), element, -1)
    for length in (-1, 0, 4, 9, 100):
        with pytest.raises(ValueError, match=rf"axis -1 has {packed.shape[1]} bytes, .* not {length} codes"):
            unpack(packed, element, -1, length)
    with pytest.raises(TypeError, match=r"length must be an integer, got 8\.0"):
        unpack(packed, element, -1, 8.0)  # type: ignore[arg-type]
    for refused in (lambda: pack(packed & 1, element, 2), lambda: unpack(packed, element, 2, 8)):
        with pytest.raises(ValueError, match="axis 2 is out of range"):
            refused()


@pytest.mark.parametrize(
    ("name", "nbytes"), [("fp4_e2m1", 17), ("fp6_e3m2", 25), ("fp6_e2m3", 25), ("mxint8", 33)]
)
def test_nbytes_of_one_block(name: str, nbytes: int) -> None:
    assert quantize(torch.randn(32), name).nbytes == nbytes


def made_of(code: int, scale: int, name: str = "fp8_e5m2") -> QuantizedTensor:
    codes, scales = (torch.tensor([part], dtype=torch.uint8) for part in (code, scale))
    return QuantizedTensor(codes=codes, scales=scales, spec=CastSpec(format=name))


def test_dequantize_overflows_as_ieee_has_it() -> None:
    assert made_of(0x7B, 254).dequantize().item() == torch.inf  # 57344 * 2^127
    assert made_of(0xFB, 128).dequantize(torch.float16).item() == -torch.inf  # -114688, above fp16's 65504
    assert made_of(0x7B, 127).dequantize(torch.float16).item() == 57344


def test_dequantize_takes_any_code() -> None:
    assert made_of(0x80, 127, "mxint8").dequantize().item() == -2  # the code that encoders leave unused
    assert made_of(0x01, 0).dequantize().item() == 2.0**-143
    assert made_of(0xFC, 127).dequantize().item() == -torch.inf
    assert made_of(0x7D, 127).dequantize().isnan().item()
    assert made_of(0x00, 255).dequantize().isnan().item()


def test_dequantize_refuses_other_dtypes() -> None:
    with pytest.raises(TypeError, match=r"torch.float64; allowed: torch.float32"):
        made_of(0, 0).dequantize(torch.float64)


@each_format
def test_every_code_under_every_scale_is_exact_in_fp32(name: str) -> None:
    """The product is rounded nowhere but where fp32 ends: to Inf above, and to subnormals below."""
    element = element_format(name)
    codes = torch.arange(2 * element.sign_bit, dtype=torch.uint8).repeat(256, 1)
    scales = torch.arange(256).byte().view(-1, 1)
    spec = CastSpec(format=name, block_size=256)
    got = QuantizedTensor(codes=codes, scales=scales, spec=spec).dequantize()
    exact = np.array(code_values(element)) * np.array(scale_values())[:, None]
    with np.errstate(over="ignore"):
        expected = exact.astype(np.float32)
    assert np.array_equal(
        got.numpy().view(np.uint32)[~np.isnan(expected)], expected.view(np.uint32)[~np.isnan(expected)]
    )
    assert np.array_equal(np.isnan(got.numpy()), np.isnan(expected))
    kept = np.isfinite(expected) & (np.abs(exact) < 2.0**127)
    lost = kept & (expected.astype(np.float64) != exact)
    assert not lost.any() or np.abs(exact[lost]).max() < 2.0**-126


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_any_codes_and_scales_mean_their_product(name: str, axis: int, dtype: torch.dtype) -> None:
    """Not only those that a cast makes; rounded once to fp32, and once to a smaller dtype."""
    generator = torch.Generator().manual_seed(len(name) + axis)
    spec = cast_spec(name, axis=axis)
    shape = (5, 37, 3)
    codes = torch.randint(2 * spec.element.sign_bit, shape, generator=generator).byte()
    bits = torch.randint(-(1 << 31), 1 << 31, scales_shape(shape, spec), generator=generator)
    fp32 = spec.block.scale == "fp32"
    scales = bits.int().view(torch.float32) if fp32 else bits.remainder(256).byte()
    tensor_scale = torch.tensor(3.3e-3) if name == "nvfp4" else None
    got = QuantizedTensor(codes=codes, scales=scales, spec=spec, tensor_scale=tensor_scale).dequantize(dtype)
    rest = () if tensor_scale is None else (tensor_scale.numpy(),)
    with np.errstate(all="ignore"):
        exact = dequantize_array(codes.numpy(), scales.numpy(), spec, *rest)
        expected = torch.from_numpy(exact.astype(np.float32)).to(dtype)
    assert (got.dtype, got.shape) == (dtype, codes.shape)
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.nan_to_num(0.0), expected.nan_to_num(0.0))
    assert torch.equal(got.signbit()[~got.isnan()], expected.signbit()[~expected.isnan()])


@pytest.mark.parametrize(
    ("name", "shape", "nbytes"),
    [
        ("fp8_e4m3", (4, 64), 4 * 64 + 4 * 2),
        ("fp8_e4m3", (4, 65), 4 * 65 + 4 * 3),
        ("fp4_e2m1", (4, 65), 4 * 33 + 4 * 3),
        ("fp6_e2m3", (4, 65), 4 * 17 * 3 + 4 * 3),
        ("nvfp4", (4, 65), 4 * 33 + 4 * 5 + 4),
        ("e4m3_row", (4, 65), 4 * 65 + 4 * 4),
        ("e5m2_tensor", (4, 65), 4 * 65 + 4),
    ],
)
def test_nbytes_are_those_of_packed_codes_and_scales(name: str, shape: tuple[int, ...], nbytes: int) -> None:
    x = torch.ones(shape)
    assert quantize(x, name).nbytes == nbytes
    assert quantize(x.T, name, axis=0).nbytes == nbytes
    assert quantize(x, name).packed().nbytes <= nbytes


def test_mxfp8_is_3_88_times_smaller_than_fp32() -> None:
    x = torch.ones(1, 256, 512)
    assert x.nbytes / quantize(x, "fp8_e4m3").nbytes == pytest.approx(32 * 4 / 33)


SCALES = (1.0, 1.1754943508222875e-38, 0.007843137718737125, 1.401298464324817e-45, 3.0e38, 123456.7)


def every_product(name: str, scale: float) -> QuantizedTensor:
    """Every element code, for NVFP4 under every block scale, with one scale of tensor or row."""
    spec = cast_spec(name)
    number = torch.tensor(scale)
    if spec.block.scale == "e4m3":
        scales = torch.arange(256, dtype=torch.uint8)[:, None]
        codes = torch.arange(16, dtype=torch.uint8).expand(256, 16)
        return QuantizedTensor(codes=codes, scales=scales, spec=spec, tensor_scale=number)
    codes = torch.arange(256, dtype=torch.uint8)[None]
    return QuantizedTensor(codes=codes, scales=number.view(1, 1), spec=spec)


SCALED = [name for name, block in BLOCK_FORMATS.items() if block.scale != "e8m0"]


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("scale", SCALES)
def test_unscaled_elements_are_exact_and_give_the_values_bit_for_bit(name: str, scale: float) -> None:
    quantized = every_product(name, scale)
    elements, factor = quantized.unscaled()
    assert elements.dtype == torch.bfloat16
    assert factor.dtype == torch.float32
    values, expected = elements.float().mul_(factor), quantized.dequantize()
    assert torch.equal(values.isnan(), expected.isnan())
    whole = ~expected.isnan()
    assert torch.equal(values[whole].view(torch.int32), expected[whole].view(torch.int32))


@pytest.mark.parametrize("name", SCALED)
def test_products_of_unscaled_elements_are_exact_in_fp32(name: str) -> None:
    elements = every_product(name, 1.0).unscaled()[0].double()
    distinct = elements[elements.isfinite()].unique()
    exact = distinct[:, None] * distinct  # of two times 8 bits: exact in float64
    assert torch.equal(exact, exact.float().double())
    assert torch.equal(distinct, distinct.bfloat16().double())


def test_powers_of_two_have_no_scale_besides() -> None:
    with pytest.raises(ValueError, match="besides its blocks' powers of two"):
        quantize(torch.ones(1, 32), "fp8_e4m3").unscaled()


@pytest.mark.parametrize("rule", ["floor", "rceil"])
@each_format
def test_casts_of_bf16_numbers_are_bf16_numbers(name: str, rule: str) -> None:
    """Also at both ends of the range, where a scale times an element's last bit is below bf16's smallest."""
    rule = "floor" if name in ("mxint8", "fp4_e3m0") else rule
    codes = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = codes[codes.isfinite()]
    order = x.abs().float().argsort(stable=True)
    rows = x[order][: len(x) // 32 * 32].view(-1, 32)
    for block in (rows, rows.T.contiguous().view(-1, 32)):
        values = quantize(block, name, scale_rule=rule).dequantize()
        assert torch.equal(values, values.bfloat16().float())


def test_a_block_longer_than_its_axis_takes_no_more_memory_than_that() -> None:
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(4))
    with switched_off():
        far = quantize(x, "fp8_e4m3", block_size=1 << 50).dequantize()
        assert torch.equal(far, quantize(x, "fp8_e4m3", block_size=5).dequantize())
