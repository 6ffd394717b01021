"""An operand's cast as a function of tensors, computed by the recipe's kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mxcheck.files.printed import told
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.api import Kernel, cast_with, fake_quantize_with, is_own, kernel_name, resolve_kernel
from mxcheck.kernels.counts import CastCounts, count_cast
from mxcheck.kernels.digest import WeightDigest, digest
from mxcheck.kernels.domain import NotSupported, named
from mxcheck.kernels.grown import as_it_is, is_growing
from mxcheck.kernels.quantized import QuantizedTensor
from mxcheck.kernels.refusals import is_interrupt, own_word, refusal
from mxcheck.kernels.standing_for import house_cast, stand_for
from mxcheck.models.conversion.product_hooks import Cast, undisturbed
from mxcheck.models.recipes.ladder import BF16
from mxcheck.models.recipes.recipe import Operand
from mxcheck.models.zoo.refusal import is_of_the_host

_NO = (NotImplementedError, AssertionError, TypeError, ValueError)


def _says_no(error: Exception, kernel: Kernel) -> bool:
    """Return whether a kernel itself refuses the cast, by a refusal or by a `raise` of its own."""
    return refusal(error, kernel) is not None or own_word(error, kernel)


def identity(x: Tensor) -> Tensor:
    """Return x unchanged: the cast of an unquantized operand."""
    return x


def round_to_bf16(x: Tensor) -> Tensor:
    """Round each element to bfloat16 (to nearest, ties to even), in x's dtype."""
    return x.to(torch.bfloat16).to(x.dtype)


def refuse_gradient(what: str, tensors: Iterable[object]) -> None:
    """Raise ValueError where autograd would record one of `tensors` (other objects are ignored) through
    `what`: casts pass no gradient, so some parameters would silently get none."""
    if not torch.is_grad_enabled():
        return
    if any(isinstance(one, Tensor) and one.requires_grad for one in tensors):
        raise ValueError(
            f"{what} is converted, and no gradient passes its casts: call the model under torch.no_grad() or "
            f"torch.inference_mode(), or after requires_grad_(False); undo the conversion to train"
        )


class CastRefusedError(NotSupported):
    """A kernel refuses an operand of a model. The message is one line.

    Attributes:
        kernel, spec: the kernel, and the requested cast.
        reason: the kernel's own message.
    """

    def __init__(self, kernel: str | Kernel, of: str, x: Tensor, spec: CastSpec, error: Exception) -> None:
        self.kernel, self.spec = resolve_kernel(kernel)[0], spec
        self.reason = told(error)
        hint = (
            "; this is a probe of mxcheck's own, which has the rows that a kernel declares: "
            "@mxcheck.domain(rows_multiple=128, …)"
        )
        super().__init__(
            f"kernel {_called(kernel)} does not cast {of}, {named(x.dtype)} {[*x.shape]} along axis "
            f"{spec.axis}: {self.reason}{hint if is_growing() else ''}"
        )


class CastFailedError(ValueError):
    """A user's kernel raises on an operand of a model, or returns an invalid result. The message is one line.

    Attributes:
        reason: the type of the error, and its message.
    """

    def __init__(
        self, kernel: str | Kernel, of: str, x: Tensor, spec: CastSpec, error: BaseException
    ) -> None:
        self.reason = f"{type(error).__name__}: {told(error)}"
        super().__init__(
            f"kernel {_called(kernel)} fails at {of}, {named(x.dtype)} {[*x.shape]} along axis {spec.axis}: "
            f"{self.reason}"
        )


def _called(kernel: str | Kernel) -> str:
    return kernel if isinstance(kernel, str) else kernel_name(kernel)


def _is_the_machine_s(error: BaseException) -> bool:
    return isinstance(error, Exception) and (is_of_the_host(error) or "CUDA error:" in str(error))


@contextmanager
def _by_name(kernel: str | Kernel, own: Kernel, of: str, x: Tensor, spec: CastSpec) -> Iterator[None]:
    """Add the cast's name and operand to a kernel's error. Errors of the machine, or of our own kernel, pass
    unchanged."""
    try:
        yield
    except BaseException as error:  # pytest's outcomes too: a skip would hide the error
        if is_own(own) or is_interrupt(error) or _is_the_machine_s(error):
            raise
        if isinstance(error, _NO) and _says_no(error, own):
            raise CastRefusedError(kernel, of, x, spec, error) from error
        raise CastFailedError(kernel, of, x, spec, error) from error


def activation_cast(operand: Operand | None, kernel: str, *, axis: int = -1, of: str = "a tensor") -> Cast:
    """Return the cast of an operand at each call; its result has the input's shape and dtype. `of` describes
    the operand in a refusal by the kernel."""
    if operand is None:
        return identity
    if operand.format == BF16:
        return round_to_bf16
    spec = operand.spec(axis=axis)
    own, function = resolve_kernel(kernel)

    def cast(x: Tensor) -> Tensor:
        with undisturbed("cast"), _by_name(kernel, own, of, x, spec):
            return fake_quantize_with(x, spec, function)

    return cast


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CastWeight:
    """A weight after its cast: its values, the tensors to store (codes, then scales), and their packed size
    in bytes; nothing is stored where the weight is not cast. `counts` are the counters of the cast; None
    where there are no codes. `unscaled` gives the values in less memory, for a 16-bit weight whose values are
    in fp32 (`QuantizedTensor.unscaled`); else None.

    For a kernel that returns values, `stored` and `counts` are those of the codes for exactly these values;
    where such codes do not exist, nothing is stored, and the size is that of the format."""

    values: Tensor
    stored: tuple[Tensor, ...]
    nbytes: int
    counts: CastCounts | None = None
    unscaled: tuple[Tensor, Tensor] | None = None


def cast_weight(
    weight: Tensor, operand: Operand | None, kernel: str, *, axis: int, of: str = "a weight"
) -> CastWeight:
    """Cast a weight once along `axis`. Values are in the weight's dtype, or in fp32 where that dtype cannot
    hold them (see `Operand.is_exact_in_16_bits`)."""
    if operand is None or operand.format == BF16:
        values = weight if operand is None else round_to_bf16(weight)
        stored = weight if operand is None else values.to(torch.bfloat16)
        return CastWeight(values=values, stored=(stored,), nbytes=0 if operand is None else stored.nbytes)
    spec = operand.spec(axis=axis)
    dtype = weight.dtype if operand.is_exact_in_16_bits else torch.float32
    own = resolve_kernel(kernel)[0]
    with _by_name(kernel, own, of, weight, spec):
        quantized = cast_with(weight, spec, own)
    if isinstance(quantized, Tensor):
        in_dtype = activation_cast(operand, kernel, axis=axis, of=of)
        values = quantized if dtype == weight.dtype else in_dtype(weight.to(dtype))
        return _of_values(weight, values, house_cast(weight, spec))
    return CastWeight(
        values=quantized.dequantize(dtype),
        stored=_parts(quantized),
        nbytes=quantized.nbytes,
        counts=count_cast(weight, quantized),
        unscaled=None if dtype == weight.dtype else quantized.unscaled(),
    )


def weight_values(operand: Operand | None, kernel: str, *, axis: int, of: str = "a weight") -> Cast:
    """Return the function that gives the values of `cast_weight`, bit for bit, and nothing else: for weights
    that are cast at each forward."""
    if operand is None or operand.format == BF16:
        return identity if operand is None else round_to_bf16
    spec, own = operand.spec(axis=axis), resolve_kernel(kernel)[0]
    in_dtype = activation_cast(operand, kernel, axis=axis, of=of)
    in_16_bits = operand.is_exact_in_16_bits

    def values(weight: Tensor) -> Tensor:
        dtype = weight.dtype if in_16_bits else torch.float32
        if is_own(own):
            return in_dtype(weight.to(dtype))
        with undisturbed("cast"), as_it_is():  # an operand of the case, also where a probe meets it
            with _by_name(kernel, own, of, weight, spec):
                quantized = cast_with(weight, spec, own)
            if not isinstance(quantized, Tensor):
                return quantized.dequantize(dtype)
            return quantized if dtype == weight.dtype else in_dtype(weight.to(dtype))

    return values


def _of_values(weight: Tensor, values: Tensor, house: QuantizedTensor) -> CastWeight:
    """Combine a kernel's values with our own cast of the weight."""
    if not stand_for(house, values):
        return CastWeight(values=values, stored=(), nbytes=house.nbytes)
    return CastWeight(
        values=values, stored=_parts(house), nbytes=house.nbytes, counts=count_cast(weight, house)
    )


def _parts(quantized: QuantizedTensor) -> tuple[Tensor, ...]:
    """Return the tensors to store."""
    found = (quantized.codes, quantized.scales, quantized.tensor_scale)
    return tuple(part for part in found if part is not None)


def digest_weights(casts: Sequence[CastWeight]) -> WeightDigest | None:
    """Return the digest of a module's weights; None where the values of one have no codes. Codes are digested
    unpacked, one for each byte: packing adds no information."""
    if not all(cast.stored for cast in casts):
        return None
    scales = [scale for cast in casts for scale in cast.stored[1:]]
    return WeightDigest(
        codes=digest(*(cast.stored[0] for cast in casts)), scales=digest(*scales) if scales else None
    )
