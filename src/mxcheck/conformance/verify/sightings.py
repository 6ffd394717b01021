"""Group the mismatches of a comparison that look alike, exactly, from the input and the oracle's result.

A *sighting* is all mismatches of one comparison that are of one kind, have one effect (one code up, one down,
…) and show under the same conditions (a tie, a block of zeros, bf16 input, …). `causes_of_mismatches` makes
causes of the sightings of a cell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxcheck.conformance.verify.conditions import KINDS, LAST_BIT, OPEN, Condition, Sighting
from mxcheck.conformance.verify.effects import (
    EFFECTS,
    LAST_PLACE,
    NAN,
    SIGN,
    TENSOR,
    Bool,
    Float64,
    Int64,
    code_effects,
    effects,
    ladder_of,
    magnitudes_of,
    scale_effects,
)
from mxcheck.conformance.verify.numbered import among, numbered
from mxcheck.conformance.verify.verifier import Comparison
from mxcheck.formats.blocks import E8M0, block_format
from mxcheck.formats.codes import E8M0_BIAS, code_values, scale_values
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.oracle import quantize_array
from mxcheck.formats.real_scales import NVFP4_BLOCK_SCALE
from mxcheck.formats.spec import CastSpec, resolve_axis, scales_shape

C = Condition
# A wrong sign of zero is one cause, whether the input was zero or was rounded to it.
_ANY_ZERO = C.ZERO | C.TO_ZERO | C.SUBNORMAL | C.SUBNORMAL_INPUT | C.NEAR_TIE | C.TIE


# Relative distances to a tie, or to a threshold of the scale, that count as close: rounding to bf16 crosses
# the first, rounding to fp32 the second (of formats whose quotient is inexact), an fp32 logarithm the last.
_CLOSE, _CLOSE_IN_FP32, _CLOSE_TO_THRESHOLD = 2.0**-8, 2.0**-22, 2.0**-12
_TILE, _FEW_ROWS, _FEW_BLOCKS = 128, 16, 8
# Numbers and shapes in an error's message.
_NUMBERS = re.compile(r"[\[(]?[0-9]+(?:[, ]+[0-9]+)*,?[\])]?")
# Exponents are compared by their distance to 0; this is a zero's, which does not matter.
_FAR = 1 << 14
_CODES = 256


def sightings(x: Tensor, spec: CastSpec, comparison: Comparison) -> list[Sighting]:
    """Return the sightings of a comparison with the oracle, in the order of kinds."""
    of_call = _of_call(x, spec)
    if comparison.error:
        values = x.detach().float()
        has = {C.NAN_IN_BLOCK: bool(values.isnan().any()), C.INF_IN_BLOCK: bool(values.isinf().any())}
        return [
            Sighting(
                kind="error",
                effect=without_numbers(comparison.error),
                conditions=of_call | _all(has),
                codes=0,
                count=1,
                place=(0,) * x.dim(),
            )
        ]
    if not comparison.found:
        return []
    with np.errstate(all="ignore"):  # NaN and Inf are inputs like any other
        told = _Told(x, spec, comparison, of_call)
        return [
            one
            for kind in KINDS
            if kind in comparison.found
            for one in (told.of_scales() if kind == "scale" else told.of_elements(kind))
        ]


def without_numbers(error: str) -> str:
    """Return an error's message without numbers and shapes."""
    return _NUMBERS.sub("…", error)


def _of_call(x: Tensor, spec: CastSpec) -> Condition:
    axis = resolve_axis(x.dim(), spec.axis)
    columns = x.shape[axis]
    rows = x.numel() // columns
    own = block_format(spec.format).block_size
    size = spec.block_size or columns
    holds = {
        C.BFLOAT16: x.dtype == torch.bfloat16,
        C.FLOAT16: x.dtype == torch.float16,
        C.BLOCK_SIZE: spec.block_size != own,
        C.AXIS: axis != x.dim() - 1,
        C.STRIDES: not x.is_contiguous(),
        C.RANK: x.dim() > 2,
        C.ONE_ROW: rows == 1,
        C.MANY_ROWS: rows > _FEW_ROWS,
        C.SEVERAL_BLOCKS: columns > size,
        C.MANY_BLOCKS: columns > _FEW_BLOCKS * size,
        C.WHOLE_TILES: rows % _TILE == 0 and columns % _TILE == 0,
    }
    return _all(holds)


def _all(holds: Mapping[Condition, bool]) -> Condition:
    found = Condition(0)
    for one, where in holds.items():
        found |= one if where else Condition(0)
    return found


class _Told:
    """The conditions and effects of one comparison's mismatches."""

    def __init__(self, x: Tensor, spec: CastSpec, comparison: Comparison, of_call: Condition) -> None:
        self.spec, self.comparison, self.of_call = spec, comparison, int(of_call)
        self.axis = resolve_axis(x.dim(), spec.axis)
        self.dtype = x.dtype
        self.values: NDArray[np.float32] = x.detach().float().numpy()
        self.codes, self.scales = comparison.oracle[:2]
        self.tensor_scale = comparison.oracle[2] if len(comparison.oracle) == 3 else None
        self.shape = scales_shape(self.values.shape, spec)
        self.amax, self.not_finite = self._amax()

    def of_scales(self) -> list[Sighting]:
        got, expected = self.comparison.got[1:], self.comparison.expected[1:]
        if len(got) == 2 and not _same(got[1], expected[1]):
            # The block scales follow from the tensor scale.
            effect = scale_effects(got[1].reshape(1), expected[1].reshape(1))[0]
            return self._grouped(
                "scale",
                np.full(1, LAST_PLACE if effect == LAST_PLACE else TENSOR),
                self._of_block(np.zeros(1, np.int64)),
                np.zeros(1, np.int64),
                np.zeros((1, self.values.ndim), np.int64),
                np.zeros(1, np.int64),
                count=self.comparison.counts["scale"],
            )
        places = np.argwhere(self.comparison.found["scale"])
        blocks = self._blocks(places)
        wanted = expected[0].ravel()[blocks]
        codes = np.zeros(len(blocks), np.int64) if wanted.dtype == np.float32 else wanted.astype(np.int64)
        effect = scale_effects(got[0].ravel()[blocks], wanted)
        return self._grouped(
            "scale", effect, self._of_block(blocks), codes, places, blocks, coded=wanted.dtype != np.float32
        )

    def of_elements(self, kind: str) -> list[Sighting]:
        places = np.argwhere(self.comparison.found[kind])
        at = tuple(places.T)
        blocks = self._blocks(places)
        element = self.spec.element
        expected = magnitudes_of(element)[self.codes[at]]
        conditions = self._of_block(blocks) | self._of_element(at, blocks, expected)
        if kind == "zero sign":
            conditions &= ~int(_ANY_ZERO)
        match kind:
            case _ if kind == LAST_BIT:
                effects, conditions = np.full(len(places), LAST_PLACE), np.zeros_like(conditions)
            case "nan":
                effects = np.full(len(places), NAN)
            case "zero sign":
                effects = np.full(len(places), SIGN)
            case "code":
                effects = code_effects(element, self.comparison.got[0][at], self.codes[at])
            case _:
                effects = self._value_effects(at, blocks, expected)
        return self._grouped(kind, effects, conditions, expected, places, blocks, coded=True)

    def _grouped(
        self,
        kind: str,
        effects: Int64,
        conditions: Int64,
        codes: Int64,
        places: NDArray[Any],
        blocks: Int64,
        *,
        coded: bool = False,
        count: int | None = None,
    ) -> list[Sighting]:
        """Return a sighting for each effect under each set of conditions."""
        exponents = np.frexp(self.amax.ravel())[1]
        distance = np.where(self.amax.ravel() > 0, np.abs(exponents - 1), _FAR).astype(np.int16)[blocks]
        order = np.argsort(distance, kind="stable")  # radix sort, as integers have 16 bits
        found, group = numbered(conditions * len(EFFECTS) + effects)
        counts = np.bincount(group, minlength=len(found))
        first = np.empty(len(found), np.int64)
        first[group[order[::-1]]] = order[::-1]  # the last one written stays
        masks = _as_masks(group, codes, len(found)) if coded else [0] * len(found)
        return [
            Sighting(
                kind=kind,
                effect=EFFECTS[key % len(EFFECTS)],
                conditions=Condition(key // len(EFFECTS) | self.of_call),
                codes=mask,
                count=count or number,
                place=tuple(places[index].tolist()),
            )
            for key, index, number, mask in zip(
                found.tolist(), first.tolist(), counts.tolist(), masks, strict=True
            )
        ]

    # Elements that share a scale

    def _amax(self) -> tuple[Float64, Int64]:
        """Return the largest finite magnitude under each scale, and flags for what is not finite, in the
        scales' shape."""
        size = np.abs(self.values)
        finite = np.isfinite(size)
        not_finite = np.zeros(size.shape, np.int64)
        if not finite.all():
            not_finite = np.where(
                np.isnan(size), int(C.NAN_IN_BLOCK), np.where(finite, 0, int(C.INF_IN_BLOCK))
            )
            size = np.where(finite, size, np.float32(0))
        if self.spec.block.whole_tensor or self.spec.block_size is None:
            over = None if self.spec.block.whole_tensor else self.axis
            amax = size.max(over, keepdims=True)
            every = tuple(range(size.ndim)) if over is None else over
            return amax.astype(np.float64), np.bitwise_or.reduce(not_finite, every, keepdims=True)
        starts = np.arange(0, size.shape[self.axis], self.spec.block_size)
        amax = np.maximum.reduceat(size, starts, self.axis)
        return amax.astype(np.float64), np.bitwise_or.reduceat(not_finite, starts, self.axis)

    def _blocks(self, places: NDArray[Any]) -> Int64:
        """Return the flat index of the scale of each of these elements."""
        if self.spec.block.whole_tensor:
            return np.zeros(len(places), np.int64)
        index = list(places.T)
        index[self.axis] = index[self.axis] // (self.spec.block_size or self.values.shape[self.axis])
        return np.asarray(np.ravel_multi_index(tuple(index), self.shape), np.int64)

    def _of_block(self, blocks: Int64) -> Int64:
        chosen, back = among(blocks, self.amax.size)
        amax = self.amax.ravel()[chosen]
        conditions = self.not_finite.ravel()[chosen]
        if self.spec.block_size is not None:
            number = np.unravel_index(chosen, self.shape)[self.axis]
            ragged = bool(self.values.shape[self.axis] % self.spec.block_size)
            tail = ragged & (number == self.shape[self.axis] - 1)
            conditions |= _flags({C.BEHIND: number > 0, C.TAIL: tail})
        conditions |= np.where((amax == 0) & (conditions & int(OPEN) == 0), int(C.ZERO_BLOCK), 0)
        some = (amax > 0) & (conditions & int(C.NAN_IN_BLOCK | C.INF_IN_BLOCK) == 0)
        more = self._of_power_of_two if self.spec.block.scale == E8M0 else self._of_real_scale
        conditions[some] |= more(amax[some], chosen[some])
        return conditions[back]

    def _of_power_of_two(self, amax: Float64, blocks: Int64) -> Int64:
        del blocks
        significand, exponent = np.frexp(amax)
        significand, exponent = (2 * significand).astype(np.float32), exponent - 1
        around = [
            (significand * np.float32(1 + by)).astype(np.float32)
            for by in (0, _CLOSE_TO_THRESHOLD, -_CLOSE_TO_THRESHOLD)
        ]
        scales = _scale_of(np.concatenate(around), self.spec).reshape(3, -1)
        unclamped = scales[0] + exponent
        return _flags(
            {
                C.CLAMPED_BELOW: unclamped < -E8M0_BIAS,
                C.CLAMPED_ABOVE: unclamped > E8M0_BIAS,
                C.LOWEST_SCALE: unclamped <= -E8M0_BIAS,
                C.THRESHOLD: (scales[1:] != scales[0]).any(0),
            }
        )

    def _of_real_scale(self, amax: Float64, blocks: Int64) -> Int64:
        if self.tensor_scale is None:
            scales = self.scales.ravel()[blocks].astype(np.float64)
            return _flags({C.SCALE_UNDERFLOW: _underflows(amax, scales, self.spec.element)})
        top = NVFP4_BLOCK_SCALE.max_value * self.spec.element.max_value
        tensor = float(self.tensor_scale)
        whole = np.full(len(amax), float(self.amax.max()) / top)
        codes = self.scales.ravel()[blocks]
        ladder = np.array(code_values(NVFP4_BLOCK_SCALE))[: NVFP4_BLOCK_SCALE.max_magnitude + 1]
        unit = self.spec.element.max_value * tensor
        middle = (ladder[:-1] + ladder[1:]) / 2 * unit
        return _flags(
            {
                C.SCALE_UNDERFLOW: (codes == 0) | ((tensor == 1) & (whole < np.float64(2.0**-149))),
                C.SCALE_TIE: np.isin(amax, middle),
            }
        )

    def _each_scale(self, blocks: Int64) -> Float64:
        """Return these blocks' scales as numbers; NaN for invalid ones."""
        scales = self.scales.ravel()[blocks]
        if self.spec.block.scale == E8M0:
            found = np.array(scale_values())[scales]
        elif self.tensor_scale is not None:
            found = np.array(code_values(NVFP4_BLOCK_SCALE))[scales] * np.float64(self.tensor_scale)
        else:
            found = scales.astype(np.float64)
        return np.asarray(found, np.float64)

    # Elements

    def _of_element(self, at: tuple[NDArray[Any], ...], blocks: Int64, code: Int64) -> Int64:
        """Return the conditions of elements whose expected magnitude codes are `code`."""
        element, x = self.spec.element, self.values[at].astype(np.float64)
        size, scale = np.abs(x), self._each_scale(blocks)
        ladder, top = ladder_of(element), element.max_magnitude
        code = np.minimum(code, top)
        meant = np.isfinite(size) & np.isfinite(scale) & (scale > 0)
        below = np.where(code > 0, (ladder[code - 1] + ladder[code]) / 2 * scale, -1.0)
        above = (ladder[code] + ladder[code + 1]) / 2 * scale
        exact = self.spec.block.scale == E8M0
        close = (_CLOSE if exact else _CLOSE_IN_FP32) * size
        near = (np.abs(size - below) <= close) | (np.abs(size - above) <= close)
        tie = (size == below) | (size == above)
        if self.spec.rounding == "stochastic":
            tie, near = self._one_step(at, size, scale, code), np.zeros_like(near)
        if self.spec.rounding == "zero":
            tie = near = np.zeros_like(near)
        binades = element.mantissa_bits > 0 and not element.twos_complement
        fraction = (1 << element.mantissa_bits) - 1
        rounded_up = size < ladder[code] * scale
        return _flags(
            {
                C.NAN: np.isnan(x),
                C.INF: np.isinf(x),
                C.ZERO: size == 0,
                C.NEGATIVE: np.signbit(x),
                C.TIE: meant & tie,
                C.NEAR_TIE: meant & near & ~tie,
                C.CARRY: meant & rounded_up & (code > 0) & ((code & fraction) == 0) & binades,
                C.SATURATED: meant & (size > ladder[top] * scale),
                C.SUBNORMAL: meant & (size > 0) & (size < element.min_normal * scale) & binades,
                C.TO_ZERO: meant & (size > 0) & (code == 0),
                C.SUBNORMAL_INPUT: (size > 0) & (size < torch.finfo(self.dtype).tiny),
            }
        )

    def _one_step(self, at: tuple[NDArray[Any], ...], size: Float64, scale: Float64, code: Int64) -> Bool:
        """Return where remainder and random integer add up to exactly one step."""
        ladder = ladder_of(self.spec.element)
        lower = np.maximum(code - 1, 0)
        step = (ladder[lower + 1] - ladder[lower]) * scale
        part = np.floor((size - ladder[lower] * scale) / step * 2.0**32)
        random = np.asarray(self.spec.random, np.int64)[at]
        return np.asarray(part + random == 2.0**32)

    def _value_effects(self, at: tuple[NDArray[Any], ...], blocks: Int64, code: Int64) -> Int64:
        """Return effects by the code whose value was got; `other` where there is none."""
        got = self.comparison.got[0][at].astype(np.float64)
        expected = self.comparison.expected[0][at].astype(np.float64)
        ladder = ladder_of(self.spec.element)[:-1]
        quotient = np.abs(got) / self._each_scale(blocks)
        nearest = np.searchsorted((ladder[:-1] + ladder[1:]) / 2, quotient)
        is_code = np.abs(quotient - ladder[nearest]) <= 2.0**-6 * ladder[nearest]
        same_sign = (np.signbit(got) == np.signbit(expected)) | (got == 0) | (expected == 0)
        return effects(
            nearest - np.minimum(code, len(ladder) - 1), got == 0, same_sign, is_code & np.isfinite(got)
        )


def _as_masks(group: Int64, codes: Int64, groups: int) -> list[int]:
    """Return the codes of each group as the bits of an integer."""
    has = np.bincount(group * _CODES + codes, minlength=groups * _CODES).reshape(groups, _CODES) > 0
    return [int.from_bytes(row.tobytes(), "little") for row in np.packbits(has, axis=1, bitorder="little")]


def _scale_of(amax: NDArray[np.float32], spec: CastSpec) -> Int64:
    """Return the exponents that the oracle gives blocks of one number of about [1, 2): none is clamped."""
    if not amax.size:
        return np.zeros(0, np.int64)
    alone = replace(spec, axis=-1, block_size=1, rounding="even", tail="pad", nonfinite="block", random=None)
    return quantize_array(amax[:, None], alone)[1][:, 0].astype(np.int64) - E8M0_BIAS


def _underflows(amax: Float64, scales: Float64, element: ElementFormat) -> Bool:
    return np.asarray((scales == 1) & (amax / element.max_value < 2.0**-149))


def _flags(holds: Mapping[Condition, Any]) -> Int64:
    found: Int64 = np.zeros((), np.int64)
    for one, where in holds.items():
        found = found | np.where(where, int(one), 0)
    return found


def _same(got: NDArray[Any], expected: NDArray[Any]) -> bool:
    return bool((got == expected) | (np.isnan(got) & np.isnan(expected)))
