"""An operand's cast as a function of tensors, by the recipe's kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mxcheck.files.printed import told
from mxcheck.formats.spec import CastSpec
from mxcheck.kernels.api import Kernel, cast_with, fake_quantize_with, kernel_name, resolve_kernel
from mxcheck.kernels.counts import CastCounts, count_cast
from mxcheck.kernels.digest import WeightDigest, digest
from mxcheck.kernels.domain import NotSupported, named
from mxcheck.kernels.grown import is_growing
from mxcheck.kernels.quantized import QuantizedTensor
from mxcheck.kernels.refusals import is_interrupt, own_word, refusal
from mxcheck.kernels.standing_for import house_cast, stand_for
from mxcheck.models.products import Cast, undisturbed
from mxcheck.models.recipe import BF16, Operand
from mxcheck.models.refusal import is_of_the_host

_NO = (NotImplementedError, AssertionError, TypeError, ValueError)
_HOUSE = resolve_kernel("eager")[0]


def _says_no(error: Exception, kernel: Kernel) -> bool:
    """Whether a kernel itself says that it does not do this, as a refusal or by a `raise` of its own."""
    return refusal(error, kernel) is not None or own_word(error, kernel)


def identity(x: Tensor) -> Tensor:
    """The cast of an operand that the recipe leaves alone."""
    return x


def round_to_bf16(x: Tensor) -> Tensor:
    """Each element rounded to bfloat16 (to nearest, ties to even), in x's dtype."""
    return x.to(torch.bfloat16).to(x.dtype)


def refuse_gradient(what: str, tensors: Iterable[object]) -> None:
    """Raise ValueError where autograd would follow one of `tensors` (anything else is left aside) through
    `what`: no gradient passes a cast, and without a word some parameters would get none."""
    if not torch.is_grad_enabled():
        return
    if any(isinstance(one, Tensor) and one.requires_grad for one in tensors):
        raise ValueError(
            f"{what} is converted, and no gradient passes its casts: call the model under torch.no_grad() or "
            f"torch.inference_mode(), or after requires_grad_(False); undo the conversion to train"
        )


class CastRefusedError(NotSupported):
    """A kernel that does not cast an operand of a model; in one line.

    Attributes:
        kernel, spec: which, and the cast that it was asked for.
        reason: the kernel's own.
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
    """A kernel of somebody's that raises at an operand of a model, or returns what is no result; in one line.

    Attributes:
        reason: the type of the error, and what it says.
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
    """What a kernel raises, with what it was to cast. What is the machine's, or of our own kernel, passes."""
    try:
        yield
    except BaseException as error:  # pytest's outcomes too: a skip would hide what is wrong
        if own is _HOUSE or is_interrupt(error) or _is_the_machine_s(error):
            raise
        if isinstance(error, _NO) and _says_no(error, own):
            raise CastRefusedError(kernel, of, x, spec, error) from error
        raise CastFailedError(kernel, of, x, spec, error) from error


def activation_cast(operand: Operand | None, kernel: str, *, axis: int = -1, of: str = "a tensor") -> Cast:
    """The cast of an operand at each call; its result has the input's shape and dtype. `of` says what it
    casts, and where, where its kernel refuses it."""
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
    """A weight after its cast: its values, what would be stored of it (codes, then scales), and the bytes
    that this takes when packed: none where there is no cast, and the weight stays. `counts`: what the cast
    did; None where there are no codes.

    Of a kernel that gives values `stored` and `counts` are those of the codes that stand for exactly these
    values; where there are none, nothing is stored, and the bytes are those of the format."""

    values: Tensor
    stored: tuple[Tensor, ...]
    nbytes: int
    counts: CastCounts | None = None


def cast_weight(
    weight: Tensor, operand: Operand | None, kernel: str, *, axis: int, of: str = "a weight"
) -> CastWeight:
    """Cast a weight once along `axis`. Values are in the weight's dtype, or in fp32 where that one does not
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
    )


def _of_values(weight: Tensor, values: Tensor, house: QuantizedTensor) -> CastWeight:
    """A weight by a kernel that gives values, beside our own cast of it."""
    if not stand_for(house, values):
        return CastWeight(values=values, stored=(), nbytes=house.nbytes)
    return CastWeight(
        values=values, stored=_parts(house), nbytes=house.nbytes, counts=count_cast(weight, house)
    )


def _parts(quantized: QuantizedTensor) -> tuple[Tensor, ...]:
    """What would be stored of it."""
    found = (quantized.codes, quantized.scales, quantized.tensor_scale)
    return tuple(part for part in found if part is not None)


def digest_weights(casts: Sequence[CastWeight]) -> WeightDigest | None:
    """The digest of a module's weights; None where no codes stand for the values of one. Codes are read as
    they are, one a byte: packing changes nothing that a digest would see."""
    if not all(cast.stored for cast in casts):
        return None
    scales = [scale for cast in casts for scale in cast.stored[1:]]
    return WeightDigest(
        codes=digest(*(cast.stored[0] for cast in casts)), scales=digest(*scales) if scales else None
    )
