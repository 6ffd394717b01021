"""The verifier: compare an implementation's result with the exact oracle, bit by bit.

Scales and codes must be equal; a format's NaN codes count as equal; a wrong sign of zero is a kind of its
own. Where the expected scale is NaN, element codes are meaningless and not compared. An implementation that
only fake-quantizes is compared by the bits of its values; where scales have a significand, these may be off
by one unit in the last place, which is a kind of its own and not wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mxcheck.conformance.verify.conditions import KINDS, LAST_BIT
from mxcheck.conformance.verify.plain_results import plain_result
from mxcheck.formats.blocks import E4M3, E8M0
from mxcheck.formats.codes import E8M0_NAN
from mxcheck.formats.elements import ElementFormat
from mxcheck.formats.oracle import Parts, dequantize_array, quantize_array
from mxcheck.formats.spec import CastSpec, resolve_axis
from mxcheck.kernels.api import Kernel, check_parts, check_values
from mxcheck.kernels.domain import check_domain, domain_of
from mxcheck.kernels.kept_settings import put_settings, settings
from mxcheck.kernels.quantized import QuantizedTensor
from mxcheck.kernels.refusals import is_interrupt, refusal

# Most bytes around a slice that are checked; more only where the slice is much of them.
_MOST_AROUND = 1 << 20
_SAME_SIZE_INT = {4: torch.int32, 2: torch.int16}

Index = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Result of one call.

    Attributes:
        unsupported: the implementation's own reason for not supporting this; None where it does.
        counts: kind -> number of mismatches (scales for `scale`, else elements; 1 for `error`).
        places: kind -> index in x of the first mismatch; a scale's is that of its first element.
        error: what is wrong with the call or the shape of its result; empty unless `error` is a kind.
        got, expected: codes, scales (and tensor scale), or values; None where there are none.
        found: kind -> mask of the mismatches, of x's shape; a scale is marked at its first element.
        oracle: the oracle's codes and scales, where the result was compared with them and differs.
    """

    unsupported: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[str, Index] = field(default_factory=dict)
    error: str = ""
    got: tuple[NDArray[Any], ...] = ()
    expected: tuple[NDArray[Any], ...] = ()
    found: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    oracle: Parts = ()


def compare(
    kernel: Kernel, x: Tensor, spec: CastSpec, expected: Parts | None = None, *, oracle: Parts = ()
) -> Comparison:
    """Call an implementation and compare its result with the oracle's.

    Args:
        kernel: `f(x, spec)`, which returns codes and scales, or values. An input outside of its domain is not
            passed to it; an input that it refuses (see `refusal`) is not supported. Any other exception is a
            mismatch of the kind `error`; so are a changed input, changed random integers, and a torch setting
            left changed.
        x: fp32, bf16 or fp16; the kernel sees it as it is, the oracle its exact fp32 values.
        expected: result to compare with instead of the oracle's: what another call of it `got`.
        oracle: the oracle's result, where known.
    """
    try:
        result = _called(kernel, x, spec)
    except BaseException as error:  # noqa: BLE001  (whatever a kernel raises is a mismatch)
        return failed(error, x, kernel)
    return _judged(result, x, spec, expected, oracle)


def failed(error: BaseException, x: Tensor, kernel: Kernel | None = None) -> Comparison:
    """Turn an exception into a comparison: a refusal, if `kernel` may refuse, or an error. Re-raise what is
    not about a cast: an interrupt, or the end of a time limit."""
    if is_interrupt(error):
        raise error
    if kernel is not None and (reason := refusal(error, kernel)) is not None:
        return Comparison(unsupported=reason)
    name = "" if isinstance(error, _LeftChangedError) else f"{type(error).__name__}: "
    lines = f"{name}{error}".strip().splitlines()
    return Comparison(counts={"error": 1}, places={"error": (0,) * x.dim()}, error=lines[0])


def outcome(kernel: Kernel, x: Tensor, spec: CastSpec) -> Comparison:
    """Call an implementation without comparing: `got` is a copy of its result."""
    try:
        return Comparison(got=tuple(part.copy() for part in _arrays(_called(kernel, x, spec))))
    except BaseException as error:  # noqa: BLE001  (as in `compare`)
        return failed(error, x, kernel)


def judged(kernel: Kernel, returned: object, x: Tensor, spec: CastSpec, expected: Parts) -> Comparison:
    """Compare what a kernel `returned` with what another call of it `got`."""
    try:
        result = _checked(kernel, returned, x, spec)
    except (TypeError, ValueError) as error:
        return failed(error, x)
    return _judged(result, x, spec, expected)


def _judged(
    result: Tensor | QuantizedTensor,
    x: Tensor,
    spec: CastSpec,
    expected: Parts | None,
    oracle: Parts = (),
) -> Comparison:
    if expected is not None and (len(expected) == 1) != isinstance(result, Tensor):
        return failed(TypeError("it returns values in one call, codes and scales in another"), x)
    if expected is None:
        expected = oracle = oracle or expected_parts(x, spec)
    if not isinstance(result, Tensor):
        found = _compare_parts(_arrays(result), expected, spec)
    elif oracle:
        in_fp32 = partial(_in_fp32, oracle, x, spec)
        found = _compare_values(result, expected_values(oracle, x.dtype, spec), in_fp32)
    else:
        found = _compare_values(result, torch.from_numpy(expected[0]).to(x.dtype))
    return replace(found, oracle=oracle) if found.counts else found


def _arrays(result: Tensor | QuantizedTensor) -> tuple[NDArray[Any], ...]:
    if isinstance(result, Tensor):
        return (result.detach().float().numpy(),)
    parts = (result.codes, result.scales, result.tensor_scale)
    return tuple(part.numpy() for part in parts if part is not None)


def _checked(kernel: Kernel, returned: Any, x: Tensor, spec: CastSpec) -> Tensor | QuantizedTensor:
    """Check a kernel's result. Raises TypeError or ValueError if a kernel may not return it."""
    returned = plain_result(kernel, returned, x)
    if not isinstance(returned, Tensor):
        return check_parts(kernel, returned, x, spec)
    check_values(kernel, returned, x)
    return returned


class _LeftChangedError(Exception):
    """A kernel changed something that is not its own; named in the message."""


def _called(kernel: Kernel, x: Tensor, spec: CastSpec) -> Tensor | QuantizedTensor:
    """Return a kernel's result. Raises NotSupported for an input outside of its domain.

    Whatever else it changes is restored, as the oracle, the shrinker and the next kernel start from it.
    Drawing from torch's generator is no fault, and gives the same in each call.
    """
    check_domain(domain_of(kernel), x, spec)
    before, around = x.clone(), _surroundings(x)
    kept, generator = settings(), torch.get_rng_state()
    given = spec if spec.random is None else replace(spec, random=_copy(spec.random))
    changed = []
    try:
        # Pass an alias: the kernel may change its shape and strides, not its numbers.
        result = _checked(kernel, kernel(x.detach(), given), x, spec)
    finally:
        changed += [f"{name} and left it so" for name in put_settings(kept)]
        torch.set_rng_state(generator)
        if not torch.equal(_bits(before), _bits(x)):
            once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in x.stride())
            x[once].copy_(before[once])
            changed.append("its input")
        if around is not None and not torch.equal(around, memory := _memory(x)):
            outside = int((around != memory).sum())
            memory.copy_(around)
            if "its input" not in changed:
                changed.append(
                    f"memory around its input, {outside:,} bytes of the tensor that it is a slice of"
                )
    if spec.random is not None and not torch.equal(
        torch.as_tensor(given.random), torch.as_tensor(spec.random)
    ):
        changed.append("its random integers")
    if changed:
        raise _LeftChangedError(f"it changed {', and '.join(changed)}")
    return result


def _memory(x: Tensor) -> Tensor:
    """Return all bytes of the storage that x may be a slice of."""
    return torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage())


def _surroundings(x: Tensor) -> Tensor | None:
    """Copy these bytes; None where x covers them all, or shares them with far more than itself."""
    size, whole = x.numel() * x.element_size(), x.untyped_storage().nbytes()
    return _memory(x).clone() if size < whole <= max(_MOST_AROUND, 4 * size) else None


def _copy(random: Any) -> Any:
    return random.clone() if isinstance(random, Tensor) else np.array(random)


def expected_parts(x: Tensor, spec: CastSpec) -> Parts:
    """Return the oracle's codes and scales of x."""
    with np.errstate(all="ignore"):  # NaN and Inf are inputs like any other
        return quantize_array(x.detach().float().numpy(), spec)


def expected_values(parts: Parts, dtype: torch.dtype, spec: CastSpec) -> Tensor:
    """Decode codes and scales: round to fp32 (exact for E8M0 scales), then to `dtype`."""
    with np.errstate(all="ignore"):
        exact = dequantize_array(parts[0], parts[1], spec, *parts[2:])
    return torch.from_numpy(exact).float().to(dtype)


def differences(got: Parts, expected: Parts, spec: CastSpec, dtype: torch.dtype) -> Comparison:
    """Compare what a call `got` (see `outcome`; values in this dtype) with codes and scales other than the
    oracle's."""
    if len(got) > 1:
        return _compare_parts(got, expected, spec)
    return _compare_values(torch.from_numpy(got[0]).to(dtype), expected_values(expected, dtype, spec))


def _compare_parts(got: Parts, expected: Parts, spec: CastSpec) -> Comparison:
    codes, *scales = got
    wrong = [_differ(part, want) for part, want in zip(scales, expected[1:], strict=True)]
    if np.array_equal(codes, expected[0]) and not any(part.any() for part in wrong):
        return Comparison(got=got, expected=expected)
    if len(expected) == 3 and np.isnan(expected[2]):
        wrong[0] = np.zeros_like(wrong[0])  # block scales are meaningless under a NaN tensor scale
    # An element under a wrong scale is wrong too, or right by chance: only the scale is reported.
    told = _to_elements(wrong[0], spec, codes.shape) | (len(wrong) > 1 and bool(wrong[1].any()))
    of_codes, of_nan = _magnitudes(spec.element)
    magnitudes = [of_codes[part] for part in (codes, expected[0])]
    is_nan = [of_nan[part] for part in (codes, expected[0])]
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
    return _comparison(found, counts, got, expected)


def _in_fp32(oracle: Parts, x: Tensor, spec: CastSpec) -> Tensor | None:
    """Return the values where the product of an NVFP4 block scale and the tensor scale is rounded to fp32
    before the multiplication by the element; with a scale per row or tensor, where values are rounded once,
    the expected values; None for E8M0, where every product is exact."""
    if spec.block.scale == E8M0:
        return None
    if spec.block.scale != E4M3:
        return expected_values(oracle, x.dtype, spec)
    one = np.full_like(oracle[0], 2)  # E2M1's code of 1
    scales = expected_values((one, *oracle[1:]), torch.float32, spec)
    of_one = np.full_like(oracle[1], 0x38), np.ones((), np.float32)  # E4M3's code of 1
    elements = expected_values((oracle[0], *of_one), torch.float32, spec)
    return (elements * scales).to(x.dtype)


def _compare_values(
    got: Tensor, expected: Tensor, values_in_fp32: Callable[[], Tensor | None] = lambda: None
) -> Comparison:
    arrays = ((got.float().numpy(),), (expected.float().numpy(),))
    if torch.equal(_bits(got), _bits(expected)):
        return Comparison(got=arrays[0], expected=arrays[1])
    differ = _bits(got) != _bits(expected)
    nan = differ & (got.isnan() ^ expected.isnan())
    differ &= ~(got.isnan() | expected.isnan())
    zero = differ & (got == 0) & (expected == 0)
    differ &= ~zero
    last = torch.zeros_like(differ)
    if bool(differ.any()) and (in_fp32 := values_in_fp32()) is not None:
        # Among numbers of one sign, bits are ordered as values are.
        beside = (_bits(got).int() - _bits(expected).int()).abs() <= 1
        beside &= got.signbit() == expected.signbit()
        last = differ & got.isfinite() & expected.isfinite() & (beside | (_bits(got) == _bits(in_fp32)))
    found = {"value": differ & ~last, "nan": nan, "zero sign": zero, LAST_BIT: last}
    where = {kind: mask.numpy() for kind, mask in found.items()}
    counts = {kind: int(mask.sum()) for kind, mask in where.items()}
    return _comparison(where, counts, *arrays)


def _comparison(
    found: Mapping[str, NDArray[np.bool_]],
    counts: Mapping[str, int],
    got: tuple[NDArray[Any], ...],
    expected: tuple[NDArray[Any], ...],
) -> Comparison:
    kinds = [kind for kind in KINDS if counts.get(kind)]
    if kinds:
        got = tuple(part.copy() for part in got)  # a kernel may reuse its buffers
    places = {
        kind: tuple(map(int, np.unravel_index(found[kind].argmax(), found[kind].shape))) for kind in kinds
    }
    return Comparison(
        counts={kind: counts[kind] for kind in kinds},
        places=places,
        got=got,
        expected=expected,
        found={kind: found[kind] for kind in kinds},
    )


def _differ(got: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    if got.dtype == np.float32:
        both_nan = np.isnan(got) & np.isnan(expected)
        different: NDArray[np.bool_] = (got.view(np.uint32) != expected.view(np.uint32)) & ~both_nan
        return different
    return np.asarray(got != expected)


def _meaningless(expected: Parts, spec: CastSpec, shape: Index) -> NDArray[np.bool_]:
    """Mark the elements whose expected scale is NaN."""
    if len(expected) == 3:
        return np.broadcast_to(np.isnan(expected[2]), shape)
    scales = expected[1]
    poisoned = scales == E8M0_NAN if spec.block.scale == E8M0 else np.isnan(scales.astype(np.float32))
    return _to_elements(poisoned, spec, shape)


def _to_elements(
    blocks: NDArray[np.bool_], spec: CastSpec, shape: Index, *, first: bool = False
) -> NDArray[np.bool_]:
    """Expand a mask of scales to their elements, or to the first of each."""
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


@cache
def _magnitudes(element: ElementFormat) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Return for each byte its magnitude for the comparison, and whether it is NaN. A byte that is no code
    has a magnitude of its own."""
    codes = np.arange(256, dtype=np.int16)
    own = codes if element.twos_complement else codes & (element.sign_bit - 1)
    found = np.where(codes >= 2 * element.sign_bit, -1 - codes, own)
    return found, np.isin(found, list(element.nan_magnitudes))


def _bits(values: Tensor) -> Tensor:
    return values.detach().contiguous().view(_SAME_SIZE_INT[values.element_size()])
