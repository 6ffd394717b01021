"""Right casts with causes planted into their results, each a function of its own that can be left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from wrong_casts import Cast, Parts, blocks_of, spread

from mxcheck.formats.codes import code_values
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.eager import quantize_eager

#: What is made of the right result of a call.
Planted = Callable[[Tensor, CastSpec, Parts], Parts]


def cast_with(causes: Sequence[Planted]) -> Cast:
    """The house kernel with causes planted into it."""

    def cast(x: Tensor, spec: CastSpec) -> Parts:
        parts = quantize_eager(x, spec)
        for one in causes:
            parts = one(x, spec, parts)
        return parts

    return cast


def _codes_where(where: Callable[[Tensor, CastSpec, Parts], Tensor], code: Callable[..., Tensor]) -> Planted:
    def planted(x: Tensor, spec: CastSpec, parts: Parts) -> Parts:
        codes, *scales = parts
        right = quantize_eager(x, spec)
        chosen = where(x, spec, right)
        return torch.where(chosen, code(right[0], x, spec), codes).to(torch.uint8), *scales

    return planted


def _scales_where(
    where: Callable[[Tensor, CastSpec, Tensor], Tensor], scale: Callable[[Tensor], Tensor]
) -> Planted:
    """`where` of amax [..., blocks, 1], cast and right scales."""

    def planted(x: Tensor, spec: CastSpec, parts: Parts) -> Parts:
        codes, scales, *rest = parts
        right = quantize_eager(x, spec)[1]
        amax = blocks_of(x.float(), spec).abs().amax(-1).movedim(-1, spec.axis)
        return codes, torch.where(where(amax, spec, right), scale(right), scales).to(torch.uint8), *rest

    return planted


def _is_tie(x: Tensor, spec: CastSpec, right: Parts) -> Tensor:
    return quantize_eager(x, replace(spec, rounding="away"))[0] != right[0]


def _size(codes: Tensor, spec: CastSpec) -> Tensor:
    return codes & (spec.element.sign_bit - 1)


def _quotient(x: Tensor, spec: CastSpec, right: Parts) -> Tensor:
    return torch.ldexp(x.double(), 127 - spread(right[1], x, spec).int()).abs()


def _is_number(x: Tensor, spec: CastSpec, right: Parts) -> Tensor:
    return spread(right[1], x, spec) != 0xFF


ties_away = _codes_where(_is_tie, lambda _, x, spec: quantize_eager(x, replace(spec, rounding="away"))[0])
ties_toward_zero = _codes_where(
    lambda x, spec, right: (
        (
            quantize_eager(x, replace(spec, rounding="away"))[0]
            != quantize_eager(x, replace(spec, rounding="zero"))[0]
        )
        & (_quotient(x, spec, right) * 2 == _twice_middle(x, spec))
    ),
    lambda _, x, spec: quantize_eager(x, replace(spec, rounding="zero"))[0],
)


def _twice_middle(x: Tensor, spec: CastSpec) -> Tensor:
    """The sum of the codes' values on either side of a number, at the scale 1."""
    values = torch.tensor(code_values(spec.element), dtype=torch.float64)
    down = _size(quantize_eager(x, replace(spec, rounding="zero"))[0], spec).long()
    return values[down] + values[(down + 1).clamp(max=spec.element.max_magnitude)]


truncates = _codes_where(
    lambda x, _spec, _right: torch.ones(x.shape, dtype=torch.bool),
    lambda _, x, spec: quantize_eager(x, replace(spec, rounding="zero"))[0],
)
zero_signs_lost = _codes_where(
    lambda _x, spec, right: right[0] == spec.element.sign_bit, lambda codes, _x, _spec: codes * 0
)
signs_lost = _codes_where(
    lambda _x, spec, right: (right[0] >= spec.element.sign_bit) & (_size(right[0], spec) > 0),
    lambda codes, _x, spec: _size(codes, spec),
)
saturates_to_nan = _codes_where(
    lambda x, spec, right: _is_number(x, spec, right) & (_quotient(x, spec, right) > spec.element.max_value),
    lambda codes, _x, spec: codes & spec.element.sign_bit | 0x7F,
)
subnormal_elements_flushed = _codes_where(
    lambda _x, spec, right: (_size(right[0], spec) >> spec.element.mantissa_bits) == 0,
    lambda codes, _x, spec: codes & spec.element.sign_bit,
)
subnormal_inputs_flushed = _codes_where(
    lambda x, _spec, _right: (x != 0) & (x.float().abs() < 2.0**-126),
    lambda codes, _x, spec: codes & spec.element.sign_bit,
)
carry_lost = _codes_where(
    lambda x, spec, right: (
        _is_number(x, spec, right)
        & (_size(right[0], spec) > 0)
        & (_size(right[0], spec) & ((1 << spec.element.mantissa_bits) - 1) == 0)
        & (_size(right[0], spec) != _size(quantize_eager(x, replace(spec, rounding="zero"))[0], spec))
    ),
    lambda codes, _x, _spec: codes - 1,
)
one_code_flipped = _codes_where(
    lambda x, spec, right: _is_number(x, spec, right) & (_size(right[0], spec) == 0x3),
    lambda codes, _x, _spec: codes ^ 1,
)
bfloat16_flipped = _codes_where(
    lambda x, spec, right: _is_number(x, spec, right) & (x.dtype == torch.bfloat16),
    lambda codes, _x, _spec: codes ^ 1,
)
nan_scale_is_fe = _scales_where(lambda _amax, _spec, right: right == 0xFF, lambda right: right - 1)
zero_block_has_scale_1 = _scales_where(
    lambda amax, _spec, _right: amax == 0, lambda right: torch.full_like(right, 127)
)
clamp_wraps = _scales_where(
    lambda amax, spec, _right: (amax > 0) & (amax < 2.0 ** (spec.element.emax - 127)),
    lambda right: right + 200,
)
powers_of_two_one_up = _scales_where(
    lambda amax, _spec, right: (torch.frexp(amax)[0] == 0.5) & (right > 0) & (right < 0xFE),
    lambda right: right + 1,
)
one_row_zeroed = _scales_where(
    lambda amax, spec, right: (
        (amax > 0) & (right != 0xFF) & torch.tensor(right.numel() == right.shape[spec.axis])
    ),
    lambda right: right * 0,
)


def second_block_has_the_first_scale(x: Tensor, spec: CastSpec, parts: Parts) -> Parts:
    codes, scales, *rest = parts
    right = quantize_eager(x, spec)[1]
    scales = scales.clone()
    if scales.shape[spec.axis] > 1:
        scales.narrow(spec.axis, 1, 1).copy_(right.narrow(spec.axis, 0, 1))
    return codes, scales, *rest


def tail_zeroed(x: Tensor, spec: CastSpec, parts: Parts) -> Parts:
    codes, *rest = parts
    assert spec.block_size is not None
    codes = codes.clone()
    if tail := x.shape[spec.axis] % spec.block_size:
        codes.narrow(spec.axis, -tail, tail).zero_()
    return codes, *rest


def raises_below_16_rows(x: Tensor, spec: CastSpec, parts: Parts) -> Parts:
    rows = x.numel() // x.shape[spec.axis]
    if rows < 16:
        raise ValueError(f"at least 16 rows, got {rows}")
    return parts


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A cell, and the two causes in its cast."""

    cell: str
    causes: tuple[Planted, Planted]


#: Twelve casts with two causes each.
PAIRS = {
    "ties toward zero, and the signs of zeros": Pair(
        cell="mxfp8_e4m3-floor", causes=(ties_toward_zero, zero_signs_lost)
    ),
    "truncation, and a zero block's scale": Pair(
        cell="mxfp4_e2m1-floor", causes=(truncates, zero_block_has_scale_1)
    ),
    "ties away, and saturation": Pair(cell="mxfp8_e4m3-floor", causes=(ties_away, saturates_to_nan)),
    "ties away, and subnormal elements": Pair(
        cell="mxfp8_e5m2-floor", causes=(ties_away, subnormal_elements_flushed)
    ),
    "a threshold, and the clamp": Pair(cell="mxfp8_e5m2-floor", causes=(powers_of_two_one_up, clamp_wraps)),
    "NaN, and a threshold": Pair(cell="mxfp6_e2m3-floor", causes=(nan_scale_is_fe, powers_of_two_one_up)),
    "carry, and subnormal inputs": Pair(
        cell="mxfp8_e5m2-floor", causes=(carry_lost, subnormal_inputs_flushed)
    ),
    "one code, and ties": Pair(cell="mxfp6_e3m2-floor", causes=(one_code_flipped, ties_away)),
    "bf16, and ties": Pair(cell="mxfp8_e4m3-floor", causes=(bfloat16_flipped, ties_away)),
    "a ragged tail, and signs": Pair(cell="mxfp6_e2m3-rceil", causes=(tail_zeroed, signs_lost)),
    "the second block, and a single row": Pair(
        cell="mxfp4_e2m1-ceil", causes=(second_block_has_the_first_scale, one_row_zeroed)
    ),
    "16 rows, and ties": Pair(cell="mxfp8_e4m3-floor", causes=(raises_below_16_rows, ties_away)),
}
