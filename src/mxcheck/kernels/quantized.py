"""A quantized tensor: element codes, scales and the cast that made them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mxcheck.formats.blocks import E8M0
from mxcheck.formats.codes import code_values, scale_values
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.spec import CastSpec, resolve_axis
from mxcheck.kernels.block_views import DTYPES
from mxcheck.kernels.compiled.calls import dequantize_cpp
from mxcheck.kernels.house import takes_compiled
from mxcheck.kernels.real_scaled import decode_scales

# bits of a code -> (codes in a group, bytes in a group)
_GROUPS = {4: (2, 1), 6: (4, 3), 8: (1, 1)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedTensor:
    """Result of `mxcheck.quantize`.

    Attributes:
        codes: uint8, the input's shape, one code an element in the low bits.
        scales: the input's shape with the block axis of length ceil(n / block_size), uint8: E8M0 codes, or
            for NVFP4 E4M3 codes. With a scale per row or tensor: fp32, the block axis or every axis of length
            1.
        spec: the cast.
        tensor_scale: NVFP4's scale of the tensor, fp32, of shape (); None for other formats.
    """

    codes: Tensor
    scales: Tensor
    spec: CastSpec
    tensor_scale: Tensor | None = None

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Multiply element and scale in fp32, then round once to `dtype`; overflow becomes Inf.

        In fp32 the product is exact where the scale is a power of two, and rounded once elsewhere. A block
        with scale FF is NaN throughout (OCP MX v1.0, section 5.1).

        Raises:
            TypeError: `dtype` is not fp32, bf16 or fp16.
        """
        if dtype not in DTYPES:
            raise TypeError(f"cannot dequantize to {dtype}; allowed: {', '.join(map(str, DTYPES))}")
        if takes_compiled(self.codes) and takes_compiled(self.scales):
            values = dequantize_cpp(self.codes, self.scales, self.tensor_scale, self.spec, dtype)
            if values is not None:
                return values
        elements = _look_up(code_values(self.spec.element), self.codes)
        if self.spec.block.scale == E8M0:
            return elements.mul_(self._spread(_look_up(scale_values(), self.scales))).to(dtype)
        exact = elements.double() * self._spread(decode_scales(self.scales, self.tensor_scale))
        return exact.float().to(dtype)

    def unscaled(self) -> tuple[Tensor, Tensor]:
        """Return elements in bf16, exact, and the fp32 scale of their row or tensor: their product in fp32 is
        `dequantize()`, bit for bit. The elements include NVFP4's block scales.

        Bound: an element has at most 4 significant bits (E4M3), an E4M3 scale has 4 and E2M1 has 2, so that
        their product has at most 6, and bf16 holds 8. Magnitudes are 0 or within 2^-16 (E5M2's smallest) and
        57,344 (its largest), far inside bf16's range. The product of two such elements has at most 12 bits,
        exact in fp32's 24. `dequantize` rounds the exact product with the scale once, and so does fp32.

        Raises:
            ValueError: the scales are powers of two (E8M0): then values themselves have the element's bits.
        """
        if self.spec.block.scale == E8M0:
            raise ValueError(
                f"{self.spec.format} has no scale besides its blocks' powers of two; use dequantize()"
            )
        elements = _look_up(code_values(self.spec.element), self.codes)
        if self.tensor_scale is None:
            return elements.to(torch.bfloat16), self.scales
        of_blocks = decode_scales(self.scales, torch.ones_like(self.tensor_scale)).float()
        return elements.mul_(self._spread(of_blocks)).to(torch.bfloat16), self.tensor_scale

    @property
    def parts(self) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """The tensors: codes, scales and, for NVFP4, the tensor scale."""
        if self.tensor_scale is None:
            return self.codes, self.scales
        return self.codes, self.scales, self.tensor_scale

    def _spread(self, scales: Tensor) -> Tensor:
        """Return the value of each element's scale (or a tensor that broadcasts)."""
        if self.spec.block_size is None:
            return scales
        axis = resolve_axis(self.codes.dim(), self.spec.axis)
        length = self.codes.shape[axis]
        return scales.repeat_interleave(min(self.spec.block_size, length), axis).narrow(axis, 0, length)

    def packed(self) -> Tensor:
        """Return the codes without their unused bits: see `pack`."""
        return pack(self.codes, self.spec.element, self.spec.axis)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes and all scales, computed without packing."""
        length = self.codes.shape[self.spec.axis]
        per_group, group_bytes = _GROUPS[self.spec.element.bits]
        packed_length = -(-length // per_group) * group_bytes
        scales = [self.scales] if self.tensor_scale is None else [self.scales, self.tensor_scale]
        return self.codes.numel() // length * packed_length + sum(scale.nbytes for scale in scales)


def pack(codes: Tensor, element: ElementFormat, axis: int) -> Tensor:
    """Pack codes along `axis`, first code in the lowest bits: 4-bit codes two to a byte, 6-bit codes four
    to three bytes (lowest byte first), 8-bit codes as they are.

    Args:
        codes: uint8, one code an element in the low bits.

    Returns:
        uint8, codes' shape with `axis` of length ceil(n / codes in a group) * bytes in a group. A last
        group that is not full is filled up with zero codes.

    Raises:
        TypeError: the codes are no uint8 tensor.
        ValueError: a code with more bits than the element; no such axis.
    """
    _check_bytes("codes", codes)
    resolve_axis(codes.dim(), axis)
    if codes.numel() and (largest := int(codes.max())) >> element.bits:
        raise ValueError(
            f"a code is {largest:#04x}, which has more than the {element.bits} bits of {element.name}; "
            f"allowed: 0x00 to {(1 << element.bits) - 1:#04x}, one code a byte, in the low bits"
        )
    per_group, group_bytes = _GROUPS[element.bits]
    if per_group == 1:
        return codes
    rows = codes.movedim(axis, -1)
    missing = -rows.shape[-1] % per_group
    padded = torch.nn.functional.pad(rows, (0, missing))
    groups = padded.reshape(*rows.shape[:-1], -1, per_group).int()
    word = _shifted(groups, element.bits, range(per_group), left=True).sum(-1, keepdim=True)
    packed = _shifted(word, 8, range(group_bytes), left=False) & 0xFF
    return packed.flatten(-2).to(torch.uint8).movedim(-1, axis).contiguous()


def unpack(packed: Tensor, element: ElementFormat, axis: int, length: int) -> Tensor:
    """Undo `pack`: return the `length` codes along `axis`, uint8, one a byte.

    Raises:
        TypeError: `packed` is not a uint8 tensor; `length` is not an integer.
        ValueError: `length` codes do not take that many bytes; no such axis.
    """
    _check_bytes("packed", packed)
    if not isinstance(length, int) or isinstance(length, bool):
        raise TypeError(f"length must be an integer, got {length!r}; allowed: that of the codes")
    per_group, group_bytes = _GROUPS[element.bits]
    got, expected = packed.shape[resolve_axis(packed.dim(), axis)], -(-length // per_group) * group_bytes
    if length < 0 or got != expected:
        raise ValueError(
            f"axis {axis} has {got} bytes, which are not {length} codes of {element.name}: those take "
            f"{max(expected, 0)}; give the length that the codes had before pack"
        )
    if per_group == 1:
        return packed
    rows = packed.movedim(axis, -1)
    groups = rows.reshape(*rows.shape[:-1], -1, group_bytes).int()
    word = _shifted(groups, 8, range(group_bytes), left=True).sum(-1, keepdim=True)
    codes = _shifted(word, element.bits, range(per_group), left=False) & (2 * element.sign_bit - 1)
    return codes.flatten(-2)[..., :length].to(torch.uint8).movedim(-1, axis).contiguous()


def _check_bytes(name: str, value: object) -> None:
    if not isinstance(value, Tensor) or value.dtype != torch.uint8:
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a torch.Tensor of torch.uint8, got {got}")


def _shifted(words: Tensor, bits: int, places: range, *, left: bool) -> Tensor:
    """Shift words by `bits` times their place along the last axis."""
    amounts = torch.tensor([bits * place for place in places], dtype=torch.int32, device=words.device)
    return words << amounts if left else words >> amounts


def _look_up(table: tuple[float, ...], codes: Tensor) -> Tensor:
    values = torch.tensor(table, dtype=torch.float32, device=codes.device)
    return values[codes.int()]
