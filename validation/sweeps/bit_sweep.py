"""Compare one of our casts with the table search over a range of fp32 bit patterns.

The oracle's result for a range is a few runs of one code each, so it costs next to nothing; inputs are
examined one by one only where the two differ.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxcheck.formats.codes import E8M0_BIAS, E8M0_NAN
from mxcheck.formats.elements import ElementFormat, element_format
from mxcheck.formats.spec import cast_spec
from mxcheck.kernels.compiled.calls import elements_cpp, quantize_cpp
from mxcheck.kernels.eager import quantize_eager
from mxcheck.kernels.element_codes import encode, round_elements
from mxcheck.kernels.usual_settings import check_subnormals
from validation.second_oracle.bit_tables import element_thresholds, encode_bits, scale_thresholds
from validation.second_oracle.search import FP32_INF
from validation.sweeps.sweep import MOST_SHOWN, Difference, Sweep, SweepResult

# Inputs per call. On a CPU they and the temporaries stay in cache (2^16: 2.6 ns an input; 2^20: 3.5 to 9 ns);
# on a GPU the calls dominate the cost.
_CPU_CALL, _GPU_CALL = 1 << 16, 1 << 24
_SIGN = 1 << 31


def compare(sweep: Sweep, start: int, stop: int, device: str = "cpu") -> SweepResult:
    """Compare a sweep's results for the bit patterns start, ..., stop - 1.

    Raises:
        ValueError: this process flushes subnormal numbers to zero.
    """
    check_subnormals()
    began = time.perf_counter()
    element = element_format(sweep.format)
    size = _CPU_CALL if device == "cpu" else _GPU_CALL
    compared = mismatches = 0
    first: list[Difference] = []
    for low, high in _stretches(sweep, element, start, stop):
        while low < high:
            end = min(high, (low // size + 1) * size)
            values = _inputs(low, end, device)
            got, expected = _cast(values, sweep, element), _expected(sweep, element, low, end, device)
            compared += end - low
            if not all(map(torch.equal, got, expected)):
                wrong = _differences(got, expected, element, low)
                mismatches += len(wrong[0])
                first += _as_differences(wrong, MOST_SHOWN - len(first))
            low = end
    return SweepResult(
        sweep=sweep,
        compared=compared,
        excluded=stop - start - compared,
        mismatches=mismatches,
        first=tuple(first),
        seconds=time.perf_counter() - began,
    )


def _stretches(sweep: Sweep, element: ElementFormat, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges to compare: all but NaNs for which the element cast has no code."""
    if sweep.scale_rule is not None or element.nan_magnitudes:
        yield start, stop
        return
    for sign in (0, _SIGN):
        low, high = max(start, sign), min(stop, sign + FP32_INF + 1)
        if low < high:
            yield low, high


def _inputs(start: int, stop: int, device: str) -> Tensor:
    """fp32 numbers from their bits, all of one sign."""
    past = 2 * _SIGN if start >= _SIGN else 0  # torch's integers of 32 bits have a sign
    return torch.arange(start - past, stop - past, dtype=torch.int32, device=device).view(torch.float32)


def _cast(values: Tensor, sweep: Sweep, element: ElementFormat) -> tuple[Tensor, ...]:
    """([scales,] codes) of our cast."""
    compiled = sweep.kernel == "cpp"
    if sweep.scale_rule is None:
        by = elements_cpp if compiled else cast_elements
        return (by(values, element, sweep.rounding),)
    spec = cast_spec(sweep.format, block_size=1, scale_rule=sweep.scale_rule, rounding=sweep.rounding)
    codes, scales = (quantize_cpp if compiled else quantize_eager)(values.unsqueeze(1), spec)[:2]
    return scales.squeeze(1), codes.squeeze(1)


def cast_elements(values: Tensor, element: ElementFormat, rounding: str) -> Tensor:
    """Return codes (uint8) of fp32 values at scale 1: the element cast alone, saturating.

    Inf saturates; NaN gets the format's largest NaN code, or an arbitrary one where the format has none.
    """
    rounded = values.clone()
    round_elements(rounded, element, rounding)
    return encode(rounded.copysign_(values), element)


def _expected(sweep: Sweep, element: ElementFormat, start: int, stop: int, device: str) -> tuple[Tensor, ...]:
    """([scales,] codes) of the oracle, for bits of one sign."""
    codes = torch.empty(stop - start, dtype=torch.uint8, device=device)
    if sweep.scale_rule is None:
        _fill(codes, start, *_element_runs(element, sweep.rounding, 0, start, stop))
        return (codes,)
    scales = torch.empty_like(codes)
    starts, of_scales = _scale_runs(element, sweep.scale_rule, start, stop)
    _fill(scales, start, starts, of_scales)
    for low, high, scale in zip(starts, [*starts[1:], stop], of_scales, strict=True):
        part = codes[low - start : high - start]
        if scale == E8M0_NAN:
            part.fill_(0)
        else:
            _fill(part, low, *_element_runs(element, sweep.rounding, scale - E8M0_BIAS, low, high))
    return scales, codes


def _fill(target: Tensor, start: int, starts: Sequence[int], codes: Sequence[int]) -> None:
    """Write runs of one code each; target[0] belongs to the bits `start`."""
    for low, high, code in zip(starts, [*starts[1:], start + len(target)], codes, strict=True):
        target[low - start : high - start].fill_(code)


def _element_runs(
    element: ElementFormat, rounding: str, exponent: int, start: int, stop: int
) -> tuple[list[int], list[int]]:
    """First bits of each run of one element code within start, ..., stop - 1, and the codes."""
    starts = _within(_element_starts(element, rounding, exponent), start, stop)
    return starts.tolist(), encode_bits(starts.astype(np.uint32), element, rounding, exponent).tolist()


def _scale_runs(element: ElementFormat, rule: str, start: int, stop: int) -> tuple[list[int], list[int]]:
    """The same for scale codes."""
    starts = _within(_scale_starts(element, rule), start, stop)
    amax = starts & (_SIGN - 1)
    codes = np.searchsorted(scale_thresholds(element, rule), amax.astype(np.uint32), side="right")
    return starts.tolist(), np.where(amax >= FP32_INF, E8M0_NAN, codes).tolist()


def _within(starts: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    low, high = np.searchsorted(starts, (start + 1, stop))
    return np.concatenate([[start], starts[low:high]])


@lru_cache(maxsize=1024)
def _element_starts(element: ElementFormat, rounding: str, exponent: int) -> NDArray[np.int64]:
    """Sorted bits at which the element code may change."""
    return _both_signs(element_thresholds(element, rounding, exponent), FP32_INF + 1)


@lru_cache(maxsize=64)
def _scale_starts(element: ElementFormat, rule: str) -> NDArray[np.int64]:
    return _both_signs(scale_thresholds(element, rule), FP32_INF)


def _both_signs(thresholds: NDArray[np.uint32], last: int) -> NDArray[np.int64]:
    half = np.array([0, *thresholds.tolist(), last], np.int64)
    return np.unique(np.concatenate([half, half + _SIGN]))


Wrong = tuple[NDArray[np.int64], list[NDArray[np.uint8]], list[NDArray[np.uint8]]]


def _differences(
    got: tuple[Tensor, ...], expected: tuple[Tensor, ...], element: ElementFormat, start: int
) -> Wrong:
    """Bits of the inputs that differ, and both codes. All NaN codes count as equal."""
    ours, theirs = ([part.cpu().numpy() for part in side] for side in (got, expected))
    nan = np.isin(np.arange(256) & (element.sign_bit - 1), sorted(element.nan_magnitudes))
    wrong = (ours[-1] != theirs[-1]) & ~(nan[ours[-1]] & nan[theirs[-1]])
    for one, other in zip(ours[:-1], theirs[:-1], strict=True):
        wrong |= one != other
    places = np.flatnonzero(wrong)
    return places + start, [part[places] for part in ours], [part[places] for part in theirs]


def _as_differences(wrong: Wrong, most: int) -> list[Difference]:
    bits, ours, theirs = wrong
    return [
        Difference(
            bits=int(bits[place]),
            got=tuple(int(part[place]) for part in ours),
            expected=tuple(int(part[place]) for part in theirs),
        )
        for place in range(min(most, len(bits)))
    ]
