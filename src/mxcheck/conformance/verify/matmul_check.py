"""Compare a matrix product of quantized operands with exact arithmetic on the oracle's decoded values.

The bits of a product cannot be required: the order of the sum is the implementation's own (OCP MX v1.0,
sections 6.1 and 6.2). What can be required is the error bound that every order of fp32 additions keeps: with
the unit roundoff u = 2^-24, gamma(n) = n u / (1 - n u), and n the number of roundings of a term,

    |computed - exact| <= gamma(n) * sum |a_i b_i|

(N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, sections 3.1 and 4.2). A sum of K
terms rounds each term at most K - 1 times, in whatever order. Further roundings depend on the scales:

- E8M0: nothing. A product of two elements has at most 14 bits (mxint8) and is exact in fp32, and scaling by a
  power of two is, too, before or after the sum within a block: that form has the same bound.
- an fp32 scale a row or a tensor: 3 (each decoded operand and their product; or the sum times two scales).
- NVFP4: 5 (block scale times tensor scale and that times the element, for each operand, and the product).

The bound also allows one rounding to the result's dtype; one subnormal fp32 step per term, twice the largest
error of rounding a product that underflows; and the rounding of `exact` to float64. Larger losses show: to
underflow, to TF32 where operands have more than its 11 bits, to a bf16 or a truncating accumulator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxcheck.formats.blocks import E4M3, E8M0, FP32
from mxcheck.formats.oracle import dequantize_array, quantize_array
from mxcheck.formats.spec import CastSpec

Float64 = NDArray[np.float64]
# (a [M, K], b [N, K], spec) -> [M, N]
Product = Callable[[Tensor, Tensor, CastSpec], Tensor]

#: scale kind -> roundings of a term besides those of the sum
ROUNDINGS: Mapping[str, int] = MappingProxyType({E8M0: 0, FP32: 3, E4M3: 5})

_UNIT_ROUNDOFF = 2.0**-24
_SUBNORMAL_STEP = 2.0**-149
_FP32_MAX = float(np.finfo(np.float32).max)

# Range of finite operands for which `exact_product` is exact: see there.
_SMALLEST, _LARGEST = 2.0**-480, 2.0**480
_SPLITTER = 2.0**27 + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductReport:
    """The worst output of a product.

    Attributes:
        ratio: its error over its bound; Inf where NaN, Inf and numbers are confused.
        index: its index.
        got, exact, bound: the output, the exact value, and the allowed error.
        unjudged: number of outputs whose operands or partial sums may overflow, where any order but one may
            be right.
    """

    ratio: float
    index: tuple[int, int]
    got: float
    exact: float
    bound: float
    unjudged: int

    @property
    def within(self) -> bool:
        """True if every judged output keeps its bound."""
        return self.ratio <= 1

    def __str__(self) -> str:
        unjudged = f"; {self.unjudged} outputs not judged (overflow)" if self.unjudged else ""
        return (
            f"error / bound = {self.ratio:.3g} at {list(self.index)}: got {self.got!r}, "
            f"exact {self.exact!r}, bound {self.bound:.3g}{unjudged}"
        )


def exact_product(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    """Return the dot products of the rows of a and the rows of b, and the sums of |a_i b_i|, each rounded
    once.

    Products of decoded values with E8M0 scales are exact in float64: a value has at most 7 significant bits
    (mxint8), a product 14; values lie between 2^-143 (the least E5M2 subnormal times 2^-127) and 2^143,
    products between 2^-286 and 2^286, far from underflow and overflow. With an fp32 scale a value has up to
    28 bits, in NVFP4 30, so a product has up to 60: too many. So each value is split into two of at most 26
    bits (T. J. Dekker, 1971), whose four products are exact, and `math.fsum` rounds the sum of them all once.
    That serves every float64 of a magnitude in [2^-480, 2^480]: the lowest bit of a value is at 2^-532 or
    above, that of a product at 2^-1064, where float64 ends at 2^-1074; and nothing overflows.

    Args:
        a: float64 [M, K].
        b: float64 [N, K].

    Returns:
        float64 [M, N] twice. NaN where the row of a or of b has a NaN.

    Raises:
        ValueError: the shapes do not match, or a value lies outside the range in which this is exact.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"expected [M, K] and [N, K], got {a.shape} and {b.shape}")
    for operand in (a, b):
        size = np.abs(operand[(operand != 0) & ~np.isnan(operand)])
        if size.size and (size.min() < _SMALLEST or size.max() > _LARGEST):
            raise ValueError(
                f"values must be 0, NaN or of a magnitude in [2^-480, 2^480] for the products to be exact, "
                f"got magnitudes from {size.min()} to {size.max()}"
            )
    poisoned = _any_of_rows(np.isnan(a), np.isnan(b))
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    sums, absolute = _sums(a, b), _sums(np.abs(a), np.abs(b))
    return np.where(poisoned, np.nan, sums), np.where(poisoned, np.nan, absolute)


def _sums(a: Float64, b: Float64) -> Float64:
    parts_a, parts_b = _split(a), _split(b)
    rows = [
        [math.fsum(np.concatenate([x[i] * y[j] for x in parts_a for y in parts_b])) for j in range(len(b))]
        for i in range(len(a))
    ]
    return np.array(rows, np.float64).reshape(len(a), len(b))


def _split(values: Float64) -> list[Float64]:
    """Split values into arrays of at most 26 significant bits that add up to them: one where that is enough,
    else two."""
    scaled = values * _SPLITTER
    high = scaled - (scaled - values)
    low = values - high
    return [high, low] if low.any() else [high]


def accumulation_bound(sum_abs: Float64, k: int, roundings: int = 0) -> Float64:
    """Return gamma(k - 1 + roundings) * sum_abs: the largest error of an fp32 sum of k terms in any order.

    Args:
        sum_abs: sums of |a_i b_i|.
        k: terms of a sum.
        roundings: roundings of each term besides those of the sum.

    Raises:
        ValueError: 2^24 terms or more, for which there is no such bound.
    """
    n = (k - 1 + roundings) * _UNIT_ROUNDOFF
    if n >= 1:
        raise ValueError(f"sums of {k} terms have no error bound in fp32; it ends at 2^24 roundings")
    return n / (1 - n) * sum_abs


def verify(got: Tensor, a: Float64, b: Float64, roundings: int = 0) -> ProductReport:
    """Compare a product with the exact one of the decoded operands.

    Args:
        got: [M, N], fp32, bf16 or fp16; a 16-bit result counts as rounded once from fp32.
        a: float64 [M, K], decoded.
        b: float64 [N, K], decoded.
        roundings: roundings of a term besides those of the sum: a value of `ROUNDINGS`.

    Raises:
        ValueError: the wrong shape; as `exact_product`.
    """
    exact, sum_abs = exact_product(a, b)
    if tuple(got.shape) != exact.shape:
        raise ValueError(f"the product has the shape {tuple(got.shape)}, expected {exact.shape}")
    bound = _bound(exact, sum_abs, a.shape[1], roundings, got.dtype)
    values = got.detach().double().cpu().numpy()
    with np.errstate(invalid="ignore"):  # NaN and Inf are expected
        ratio = np.abs(values - exact) / bound
    # A NaN where one is expected is right; a NaN or an Inf elsewhere exceeds any bound.
    ratio = np.where(np.isnan(exact), np.where(np.isnan(values), 0.0, np.inf), ratio)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    unjudged = _may_overflow(a, b, sum_abs + bound, torch.finfo(got.dtype).max)
    ratio[unjudged] = 0.0
    i, j = map(int, np.unravel_index(int(ratio.argmax()), ratio.shape))
    return ProductReport(
        ratio=float(ratio[i, j]),
        index=(i, j),
        got=float(values[i, j]),
        exact=float(exact[i, j]),
        bound=float(bound[i, j]),
        unjudged=int(unjudged.sum()),
    )


def _bound(exact: Float64, sum_abs: Float64, k: int, roundings: int, dtype: torch.dtype) -> Float64:
    bound = accumulation_bound(sum_abs, k, roundings) + k * _SUBNORMAL_STEP
    if dtype != torch.float32:
        # eps is the step above 1, so half of it is the unit roundoff: 2^-8 of bf16, 2^-11 of fp16.
        limits = torch.finfo(dtype)
        bound = bound + limits.eps / 2 * (np.abs(exact) + bound) + limits.smallest_normal * limits.eps / 2
    # `exact` and this very arithmetic are float64
    return bound * (1 + 2.0**-50) + np.abs(exact) * 2.0**-53


def _may_overflow(a: Float64, b: Float64, reach: Float64, largest: float) -> NDArray[np.bool_]:
    too_large = _any_of_rows(np.abs(a) > _FP32_MAX, np.abs(b) > _FP32_MAX)
    return too_large | (reach >= min(largest, _FP32_MAX))


def _any_of_rows(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Combine [M, K] and [N, K] to [M, N]: whether any element that an output uses is marked."""
    used: NDArray[np.bool_] = np.logical_or.outer(np.any(a, axis=1), np.any(b, axis=1))
    return used


def verify_product(product: Product, a: Tensor, b: Tensor, spec: CastSpec) -> ProductReport:
    """Compare an implementation's product of a and b, which it casts itself, with that of the oracle's casts.

    Args:
        product: the implementation.
        a: [M, K], fp32, bf16 or fp16.
        b: [N, K], likewise.
        spec: the cast of both operands, along their last axis.

    Raises:
        NotImplementedError: the implementation does not support it.
        ValueError: as `verify`.
    """
    got = product(a, b, spec)
    return verify(got, decoded(a, spec), decoded(b, spec), ROUNDINGS[spec.block.scale])


def decoded(x: Tensor, spec: CastSpec) -> Float64:
    """The exact values of the oracle's cast of x."""
    codes, scales, *tensor_scale = quantize_array(x.detach().float().cpu().numpy(), spec)
    return dequantize_array(codes, scales, spec, *tensor_scale)
