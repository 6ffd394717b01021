"""Casts as people write them, each of one rule and one rounding whatever it is asked for: from formulas, in
torch, to be told apart by `mxcheck identify`. All give FP8 E4M3 in blocks along the last axis."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mxcheck.formats.spec import CastSpec

Pair = tuple[Tensor, Tensor]
Scale = Callable[[Tensor], Tensor]

_MAX, _EMAX, _EMIN, _BITS = 448.0, 8, -6, 3


# amax (fp32, finite) -> the scale's code, float64


def _exponent(values: Tensor) -> Tensor:
    """floor(log2), exactly."""
    return torch.frexp(values.double())[1].double() - 1


def floor(amax: Tensor) -> Tensor:
    return _exponent(amax) - _EMAX + 127


def ceil(amax: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(amax.double())
    return exponent.double() - 1 + (mantissa > 0.5) - _EMAX + 127


def even(amax: Tensor) -> Tensor:
    """floor of amax after half a step of three bits was added to it."""
    bits = amax.view(torch.int32).long()
    normal = ((bits + (1 << 19)) >> 23) - _EMAX
    return torch.where(bits >> 23 > 0, normal, torch.zeros_like(normal)).double()


def rceil(amax: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(amax.double() / _MAX)  # 53 bits: nothing is rounded up to a power of two
    return exponent.double() - 1 + (mantissa > 0.5) + 127


def floor_max(amax: Tensor) -> Tensor:
    return _exponent(amax.double() / _MAX) + 127


def nearest(amax: Tensor) -> Tensor:
    return (amax / _MAX).to(torch.float8_e8m0fnu).view(torch.uint8).double()


def floor_log2(amax: Tensor) -> Tensor:
    return amax.log2().floor().double() - _EMAX + 127


def reciprocal(amax: Tensor) -> Tensor:
    bits = (amax * torch.tensor(1 / _MAX, dtype=torch.float32)).view(torch.int32).long()
    field, fraction = bits >> 23, bits & 0x7F_FFFF
    return (field + ((fraction > 0) & ~((field == 0) & (fraction <= 0x40_0000)))).double()


# |x| in steps -> whole steps

ROUND: dict[str, Callable[[Tensor], Tensor]] = {
    "even": torch.round,
    "away": lambda steps: torch.floor(steps + 0.5),
    "half_zero": lambda steps: torch.ceil(steps - 0.5),
    "zero": torch.floor,
}


def _encoded(scaled: Tensor, rounding: str) -> Tensor:
    """Codes of float64 numbers; NaN is 7F."""
    size = scaled.abs()
    step = torch.exp2(_exponent(size).clamp(min=_EMIN) - _BITS)
    value = (ROUND[rounding](size / step) * step).clamp(max=_MAX)
    return value.copysign(scaled).float().to(torch.float8_e4m3fn).view(torch.uint8)


def _blocks(x: Tensor, size: int) -> Tensor:
    return x.reshape(*x.shape[:-1], x.shape[-1] // size, size)


def _cast(x: Tensor, size: int, scale: Scale, rounding: str) -> Pair:
    """NaN and Inf make their block NaN."""
    blocks = _blocks(x.float(), size)
    amax = blocks.abs().amax(-1, keepdim=True)
    bad = ~amax.isfinite()
    amax = torch.where(bad, 1.0, amax)
    codes = scale(amax).nan_to_num(neginf=0).clamp(0, 254)
    codes = torch.where(amax == 0, 0.0, codes)
    elements = _encoded(torch.where(bad, 0.0, blocks.double()) * torch.exp2(127 - codes), rounding)
    scales = torch.where(bad, 255.0, codes).to(torch.uint8)
    return elements.reshape(x.shape), scales[..., 0]


def _values(x: Tensor, size: int, scale: Scale, rounding: str) -> Tensor:
    codes, scales = _cast(x, size, scale, rounding)
    powers = torch.exp2(scales.double() - 127).unsqueeze(-1)
    powers = torch.where(scales.unsqueeze(-1) == 255, torch.nan, powers)
    decoded = _blocks(codes.view(torch.float8_e4m3fn).double(), size) * powers
    return decoded.reshape(x.shape).float().to(x.dtype)


def _transformer_engine(x: Tensor, size: int, reciprocal_of_fe: float) -> Pair:
    """amax without NaN; the reciprocal of the code 00 is 1, of FE as given."""
    blocks = _blocks(x.float(), size)
    amax = torch.where(blocks.isnan(), 0.0, blocks.abs()).amax(-1, keepdim=True)
    infinite = amax.isinf()
    codes = torch.where(infinite, 254.0, reciprocal(torch.where(infinite, 1.0, amax)))
    by = torch.exp2(127 - codes)
    by = torch.where(codes == 0, 1.0, torch.where(codes == 254, reciprocal_of_fe, by))
    product = blocks.double() * by
    elements = _encoded(product.clamp(-_MAX, _MAX), "even")
    return elements.reshape(x.shape), codes.to(torch.uint8)[..., 0]


def _size(spec: CastSpec) -> int:
    assert spec.block_size is not None
    return spec.block_size


def _of(scale: Scale, rounding: str) -> Callable[[Tensor, CastSpec], Pair]:
    return lambda x, spec: _cast(x, _size(spec), scale, rounding)


def _bf16_only(x: Tensor, spec: CastSpec) -> Pair:
    if x.dtype != torch.bfloat16:
        raise NotImplementedError("bf16 only")
    return _cast(x, _size(spec), rceil, "away")


def _fp16_values(x: Tensor, spec: CastSpec) -> Tensor:
    if x.dtype != torch.float16:
        raise TypeError("expected Half")
    return _values(x, _size(spec), floor, "half_zero")


def _sixteen(x: Tensor, spec: CastSpec) -> Pair:
    if spec.block_size != 16 or x.shape[0] % 128 or x.shape[-1] % 128:
        raise ValueError("blocks of 16 in whole tiles")
    return _cast(x, 16, even, "zero")


#: name -> (kernel, its rule, its rounding, its policy)
UNNAMED = {
    "a": (_of(floor, "half_zero"), "floor", "half_zero", "block"),
    "b": (_of(rceil, "even"), "rceil", "even", "block"),
    "c": (_of(nearest, "even"), "nearest", "even", "block"),
    "d": (_of(floor_max, "even"), "floor_max", "even", "block"),
    "e": (
        lambda x, spec: _transformer_engine(x, _size(spec), 2.0**-127),
        "reciprocal_one",
        "even",
        "element",
    ),
    "f": (
        lambda x, spec: _transformer_engine(x, _size(spec), 0.0),
        "reciprocal_one",
        "even",
        "element_fe_zero",
    ),
    "g": (_of(ceil, "zero"), "ceil", "zero", "block"),
    "h": (_of(even, "away"), "even", "away", "block"),
    "i": (_bf16_only, "rceil", "away", "block"),
    "j": (_fp16_values, "floor", "half_zero", "block"),
    "k": (_sixteen, "even", "zero", "block"),
    "l": (_of(floor_log2, "away"), "floor_log2", "away", "block"),
    "m": (_of(reciprocal, "half_zero"), "reciprocal", "half_zero", "block"),
    "n": (lambda x, spec: _values(x, _size(spec), nearest, "away"), "nearest", "away", "block"),
}


def ties_toward_zero(x: Tensor, spec: CastSpec) -> Pair:
    """`a`, by a name that a command line can give."""
    return _cast(x, _size(spec), floor, "half_zero")


def another_rule_in_bf16(x: Tensor, spec: CastSpec) -> Pair:
    return _cast(x, _size(spec), ceil if x.dtype == torch.bfloat16 else floor, "even")


def without_negative_zero(x: Tensor, spec: CastSpec) -> Pair:
    codes, scales = _cast(x, _size(spec), rceil, "even")
    return torch.where(codes == 0x80, 0, codes).to(torch.uint8), scales


def of_no_rule(x: Tensor, spec: CastSpec) -> Pair:
    """The mean in place of amax."""
    return _cast(
        _blocks(x, _size(spec)).reshape(x.shape), _size(spec), lambda amax: floor(amax) % 7 + 120, "even"
    )
