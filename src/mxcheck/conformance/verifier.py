"""The verifier: an implementation's result against the exact oracle, bit by bit.

Scales are compared exactly, and so are codes; the NaN codes of a format are equal to each other; a wrong sign
of zero is a kind of its own. Where the expected scale is NaN, element codes mean nothing and are not
compared. An implementation that only fake-quantizes is compared by the bits of its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxcheck.formats.blocks import E8M0
from mxcheck.formats.codes import E8M0_NAN
from mxcheck.formats.oracle import Parts, dequantize_array, quantize_array
from mxcheck.formats.spec import CastSpec, resolve_axis
from mxcheck.kernels.api import Kernel, check_parts, check_values
from mxcheck.kernels.quantized import QuantizedTensor

#: Kinds of mismatch, in the order in which they are told.
KINDS = ("error", "scale", "code", "value", "nan", "zero sign")
_SAME_SIZE_INT = {4: torch.int32, 2: torch.int16}

Index = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """What came of one call.

    Attributes:
        unsupported: why the implementation does not do this, in its own words; None where it does.
        counts: kind -> number of mismatches (scales for `scale`, else elements; 1 for `error`).
        places: kind -> index in x of the first mismatch; a scale's is that of its first element.
        error: what was wrong with the call or the shape of its result; empty unless `error` is a kind.
        got, expected: codes, scales (and tensor scale), or the values; None where there are none.
    """

    unsupported: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[str, Index] = field(default_factory=dict)
    error: str = ""
    got: tuple[NDArray[Any], ...] = ()
    expected: tuple[NDArray[Any], ...] = ()


def compare(kernel: Kernel, x: Tensor, spec: CastSpec) -> Comparison:
    """Call an implementation and hold its result against the oracle's.

    Args:
        kernel: `f(x, spec)`, which returns codes and scales, or values; NotImplementedError says that this is
            not supported. Any other exception is a mismatch of the kind `error`.
        x: fp32, bf16 or fp16; the kernel sees it as it is, the oracle its exact fp32 values.
    """
    before = x.clone()
    try:
        result = kernel(x, spec)
        if isinstance(result, Tensor):
            check_values(kernel, result, x)
        else:
            quantized = check_parts(kernel, result, x, spec)
    except NotImplementedError as error:
        _restored(x, before)
        return Comparison(unsupported=str(error) or "not supported, no reason given")
    except Exception as error:  # noqa: BLE001  (whatever a kernel under test raises is told as a mismatch)
        _restored(x, before)
        text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        return Comparison(counts={"error": 1}, places={"error": (0,) * x.dim()}, error=text)
    if _restored(x, before):
        return Comparison(counts={"error": 1}, places={"error": (0,) * x.dim()}, error="it changed its input")
    expected = expected_parts(x, spec)
    if isinstance(result, Tensor):
        return _compare_values(result, expected_values(expected, x.dtype, spec))
    return _compare_parts(quantized, expected, spec)


def _restored(x: Tensor, before: Tensor) -> bool:
    """Whether a kernel has changed x; if so it is put back, since the shrinker starts from it."""
    changed = not torch.equal(_bits(before), _bits(x))
    if changed:
        x.copy_(before)
    return changed


def expected_parts(x: Tensor, spec: CastSpec) -> Parts:
    """The oracle's codes and scales of x."""
    with np.errstate(all="ignore"):  # NaN and Inf are inputs like any other
        return quantize_array(x.detach().float().numpy(), spec)


def expected_values(parts: Parts, dtype: torch.dtype, spec: CastSpec) -> Tensor:
    """What codes and scales mean: rounded to fp32 (exact for E8M0 scales), then to `dtype`."""
    with np.errstate(all="ignore"):
        exact = dequantize_array(parts[0], parts[1], spec, *parts[2:])
    return torch.from_numpy(exact).float().to(dtype)


def _compare_parts(quantized: QuantizedTensor, expected: Parts, spec: CastSpec) -> Comparison:
    scales = [(quantized.scales.numpy(), expected[1])]
    if quantized.tensor_scale is not None:
        scales.append((quantized.tensor_scale.numpy(), expected[2]))
    codes = quantized.codes.numpy()
    wrong = [_differ(got, want) for got, want in scales]
    if len(expected) == 3 and np.isnan(expected[2]):
        wrong[0] = np.zeros_like(wrong[0])  # under a tensor scale that is NaN block scales mean nothing
    # An element under a wrong scale is wrong too, or right by chance: it is told as a scale.
    told = _to_elements(wrong[0], spec, codes.shape) | (len(wrong) > 1 and bool(wrong[1].any()))
    element = spec.element
    magnitudes = [
        np.array([_magnitude(element, code) for code in range(256)])[part] for part in (codes, expected[0])
    ]
    is_nan = [np.isin(part, list(element.nan_magnitudes)) for part in magnitudes]
    compared = ~(_meaningless(expected, spec, codes.shape) | told)
    differ = (codes != expected[0]) & ~(is_nan[0] & is_nan[1]) & compared
    nan = differ & (is_nan[0] | is_nan[1])
    zero = differ & (magnitudes[0] == 0) & (magnitudes[1] == 0)
    found = {
        "scale": _to_elements(wrong[0], spec, codes.shape, first=True) if wrong[0].any() else told,
        "code": differ & ~nan & ~zero,
        "nan": nan,
        "zero sign": zero,
    }
    counts = {kind: int(where.sum()) for kind, where in found.items()}
    counts["scale"] = sum(int(where.sum()) for where in wrong)
    got = (codes, *(part for part, _ in scales))
    return _comparison(found, counts, got, expected)


def _compare_values(got: Tensor, expected: Tensor) -> Comparison:
    differ = _bits(got) != _bits(expected)
    nan = differ & (got.isnan() ^ expected.isnan())
    differ &= ~(got.isnan() | expected.isnan())
    zero = differ & (got == 0) & (expected == 0)
    found = {"value": differ & ~zero, "nan": nan, "zero sign": zero}
    arrays = {kind: where.numpy() for kind, where in found.items()}
    counts = {kind: int(where.sum()) for kind, where in arrays.items()}
    return _comparison(arrays, counts, (got.float().numpy(),), (expected.float().numpy(),))


def _comparison(
    found: Mapping[str, NDArray[np.bool_]],
    counts: Mapping[str, int],
    got: tuple[NDArray[Any], ...],
    expected: tuple[NDArray[Any], ...],
) -> Comparison:
    kinds = [kind for kind in KINDS if counts.get(kind)]
    places = {kind: tuple(int(i) for i in np.argwhere(found[kind])[0]) for kind in kinds}
    return Comparison(
        counts={kind: counts[kind] for kind in kinds}, places=places, got=got, expected=expected
    )


def _differ(got: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    if got.dtype == np.float32:
        both_nan = np.isnan(got) & np.isnan(expected)
        different: NDArray[np.bool_] = (got.view(np.uint32) != expected.view(np.uint32)) & ~both_nan
        return different
    return np.asarray(got != expected)


def _meaningless(expected: Parts, spec: CastSpec, shape: Index) -> NDArray[np.bool_]:
    """Elements whose expected scale is NaN."""
    if len(expected) == 3:
        return np.broadcast_to(np.isnan(expected[2]), shape)
    scales = expected[1]
    poisoned = scales == E8M0_NAN if spec.block.scale == E8M0 else np.isnan(scales.astype(np.float32))
    return _to_elements(poisoned, spec, shape)


def _to_elements(
    blocks: NDArray[np.bool_], spec: CastSpec, shape: Index, *, first: bool = False
) -> NDArray[np.bool_]:
    """A mask of scales as a mask of their elements, or of the first of each."""
    if spec.block_size is None:
        spread = np.broadcast_to(blocks, shape)
        if not first:
            return spread
        only = np.zeros(shape, np.bool_)
        only[tuple(slice(0, size) for size in blocks.shape)] = blocks
        return only
    axis = resolve_axis(len(shape), spec.axis)
    spread = np.moveaxis(np.repeat(blocks, spec.block_size, axis), axis, -1)[..., : shape[axis]]
    if first:
        spread = spread & (np.arange(shape[axis]) % spec.block_size == 0)
    return np.moveaxis(spread, -1, axis)


def _magnitude(element: Any, code: int) -> int:
    """The magnitude of a code for the comparison; a byte that is no code has one that nothing else has."""
    if code >= 2 * element.sign_bit:
        return -1 - code
    if element.twos_complement:
        return code
    return int(code & (element.sign_bit - 1))


def _bits(values: Tensor) -> Tensor:
    return values.detach().contiguous().view(_SAME_SIZE_INT[values.element_size()])
