from __future__ import annotations

import pytest
import torch

from mxcheck.formats.elements import ELEMENT_FORMATS, element_format
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.api import quantize
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
