"""An operand's cast as a function of tensors, by the recipe's kernel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mxcheck.kernels.api import fake_quantize_with, quantize, resolve_kernel
from mxcheck.kernels.counts import CastCounts, count_cast
from mxcheck.kernels.digest import WeightDigest, digest
from mxcheck.models.products import Cast, undisturbed
from mxcheck.models.recipe import BF16, Operand


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


def activation_cast(operand: Operand | None, kernel: str, *, axis: int = -1) -> Cast:
    """The cast of an operand at each call; its result has the input's shape and dtype."""
    if operand is None:
        return identity
    if operand.format == BF16:
        return round_to_bf16
    spec = operand.spec(axis=axis)
    function = resolve_kernel(kernel)[1]

    def cast(x: Tensor) -> Tensor:
        with undisturbed("cast"):
            return fake_quantize_with(x, spec, function)

    return cast


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CastWeight:
    """A weight after its cast: its values, what would be stored of it (codes, then scales), and the bytes
    that this takes when packed: none where there is no cast, and the weight stays. `counts`: what the cast
    did; None where there are no codes."""

    values: Tensor
    stored: tuple[Tensor, ...]
    nbytes: int
    counts: CastCounts | None = None


def cast_weight(weight: Tensor, operand: Operand | None, kernel: str, *, axis: int) -> CastWeight:
    """Cast a weight once along `axis`. Values are in the weight's dtype, or in fp32 where that one does not
    hold them (see `Operand.is_exact_in_16_bits`)."""
    if operand is None or operand.format == BF16:
        values = weight if operand is None else round_to_bf16(weight)
        stored = weight if operand is None else values.to(torch.bfloat16)
        return CastWeight(values=values, stored=(stored,), nbytes=0 if operand is None else stored.nbytes)
    spec = operand.spec(axis=axis)
    quantized = quantize(
        weight,
        spec.format,
        axis=spec.axis,
        block_size=spec.block_size,
        scale_rule=spec.scale_rule,
        rounding=spec.rounding,
        tail=spec.tail,
        kernel=kernel,
    )
    scales = [scale for scale in (quantized.scales, quantized.tensor_scale) if scale is not None]
    return CastWeight(
        values=quantized.dequantize(weight.dtype if operand.is_exact_in_16_bits else torch.float32),
        stored=(quantized.codes, *scales),
        nbytes=quantized.nbytes,
        counts=count_cast(weight, quantized),
    )


def digest_weights(casts: Sequence[CastWeight]) -> WeightDigest:
    """The digest of a module's weights. Codes are read as they are, one a byte: packing changes nothing that
    a digest would see."""
    scales = [scale for cast in casts for scale in cast.stored[1:]]
    return WeightDigest(
        codes=digest(*(cast.stored[0] for cast in casts)), scales=digest(*scales) if scales else None
    )
