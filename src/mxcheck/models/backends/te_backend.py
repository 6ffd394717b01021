"""FP8 and MXFP8 linear layers by Transformer Engine. Unverified: the development machine had no GPU.

Source: Transformer Engine 2.20, transformer_engine.pytorch (`Linear`, `autocast`, the quantizers) and
transformer_engine.common.recipe, each recipe with its own defaults; in the forward pass that is E4M3.
Behaviour of the library:

- MXFP8 scales round up (`reciprocal`). For an fp32 model the bias is rounded to bfloat16.
- The number of rows must be a multiple of 8 (FP8) or 32 (MXFP8). Zero rows, which change no scale, pad the
  input and are cut off the result.
- *Delayed scaling* casts by the amax of earlier batches. The library updates its history in training only:
  without gradients every scale stays 1, as in a fresh layer, and at 1 weights of a usual size are subnormal
  in E4M3. (`autocast(enabled=False, calibrating=True)` does not calibrate `Linear`, since it creates no
  quantizers.) So the state is set here as after one batch of calibration: the weight's scale from the weight,
  the activation's from the first batch in `forward`. Afterwards it is constant, and later values beyond that
  batch's amax saturate. The first batch therefore affects the result. `operand` casts each activation by its
  own amax, as if it were that batch, and does not change the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from mxcheck.extras import missing
from mxcheck.kernels.digest import WeightDigest, digest
from mxcheck.models.backends.backend import Replacement
from mxcheck.models.backends.library_linear import bias_of, indivisible, nbytes, not_linear, weight_of
from mxcheck.models.backends.requirements import Capability, broken, cuda_capability, unfit_device

_ROWS = 32
_MXFP8_BLOCK = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerEngine:
    """Replaces a linear layer by `te.Linear` under one recipe.

    Attributes:
        recipe, recipe_arguments: the class in transformer_engine.common.recipe, and its arguments.
        available: the function of transformer_engine.pytorch that reports whether the recipe runs.
        at_least, below: the range of compute capabilities of that recipe.
        of_in, of_out: required divisors of in_features and out_features.
    """

    name: str
    recipe: str
    recipe_arguments: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    available: str
    at_least: Capability
    below: Capability | None = None
    of_in: int
    of_out: int

    def missing(self, device: str) -> str | None:
        """As `Backend.missing`."""
        return self.unmet(device, cuda_capability(device))

    def unmet(self, device: str, capability: Capability | None) -> str | None:
        """As `missing`, given the compute capability of `device`. Imports the library only where the device
        is suitable."""
        return (
            missing("transformer_engine")
            or unfit_device(device, capability, at_least=self.at_least, below=self.below)
            or broken("transformer_engine.pytorch")
            or self._own_answer()
        )

    def _own_answer(self) -> str | None:
        import transformer_engine.pytorch as te

        if not hasattr(te, "autocast"):
            return "transformer_engine has no te.autocast, so it is too old: install 2.20 or later"
        available, reason = getattr(te, self.available)(return_reason=True)
        return None if available else f"te.{self.available} says no: {reason}"

    def refuses(self, module: nn.Module) -> str | None:
        """As `Backend.refuses`."""
        return not_linear(module) or indivisible(module, self.of_in, self.of_out, f"{self.recipe} in TE")

    def replace(self, module: nn.Module) -> Replacement:
        """As `Backend.replace`."""
        import transformer_engine.pytorch as te
        from transformer_engine.common import recipe as recipes

        recipe = getattr(recipes, self.recipe)(**self.recipe_arguments)
        layer = _layer(module, recipe)
        cast_input, cast_weight = _quantizers(layer)
        largest = recipe.fp8_format.value.max_fwd
        calibrated = not recipe.delayed()
        if recipe.delayed():
            _calibrate(cast_weight, layer.weight, largest)
        codes, scales = _operand(cast_weight, layer.weight)

        def forward(x: Tensor) -> Tensor:
            nonlocal calibrated
            rows = _padded(x)
            if not calibrated:
                _calibrate(cast_input, rows, largest)
                calibrated = True
            with torch.cuda.device(x.device), torch.no_grad(), te.autocast(enabled=True, recipe=recipe):
                product: Tensor = layer(rows)
            return product[: x.numel() // x.shape[-1]].reshape(*x.shape[:-1], codes.shape[0])

        def operand(x: Tensor) -> tuple[Tensor, Tensor]:
            rows, cast = _padded(x), cast_input.copy()
            if recipe.delayed():
                cast.scale, cast.amax = torch.ones_like(cast.scale), torch.zeros_like(cast.amax)
                _calibrate(cast, rows, largest)
            return _operand(cast, rows)

        return Replacement(
            forward=forward,
            weight_digest=WeightDigest(codes=digest(codes), scales=digest(scales)),
            weight_bytes=nbytes(codes, scales),
            operand=operand,
        )


def _layer(module: nn.Module, recipe: Any) -> Any:
    """Create a `te.Linear` with the weights of `module` and quantizers for `recipe`."""
    import transformer_engine.pytorch as te

    weight, bias = weight_of(module), bias_of(module)
    outputs, inputs = weight.shape
    layer = te.Linear(
        inputs,
        outputs,
        bias=bias is not None,
        params_dtype=weight.dtype,
        device=weight.device,
        init_method=_leave,  # the default would draw random weights
    ).eval()
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    layer.requires_grad_(False)
    # The first forward under the recipe creates them; this one multiplies in the weight's own dtype.
    rows = torch.zeros(_ROWS, inputs, dtype=weight.dtype, device=weight.device)
    with (
        torch.cuda.device(weight.device),
        torch.no_grad(),
        te.autocast(enabled=False, calibrating=True, recipe=recipe),
    ):
        layer(rows)
    return layer


def _leave(_: Tensor) -> None:
    """Initialize nothing."""


def _quantizers(layer: Any) -> tuple[Any, Any]:
    """Return the layer's quantizers of its input and of its weight."""
    from transformer_engine.pytorch.constants import FP8FwdTensorIdx

    made = layer.quantizers["scaling_fwd"]
    return made[FP8FwdTensorIdx.GEMM1_INPUT], made[FP8FwdTensorIdx.GEMM1_WEIGHT]


def _calibrate(quantizer: Any, x: Tensor, largest: float) -> None:
    """Set a delayed scale as the library does after a batch: largest / amax, and 1 where amax is 0."""
    amax = x.detach().abs().amax().float()
    quantizer.scale.copy_(torch.where(amax > 0, largest / amax, torch.ones_like(amax)))


def _operand(quantizer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Cast a matrix to codes [rows, n] (uint8) and scales: fp32 [1], or for MXFP8 E8M0 codes [rows, n /
    32]."""
    cast = quantizer.copy()
    cast.set_usage(rowwise=True, columnwise=False)
    cast.optimize_for_gemm = False  # it would reorder MXFP8 scales
    quantized = cast.quantize(x.detach())
    # Codes and scales have no public accessor.
    if hasattr(quantized, "_rowwise_data"):
        scales = quantized._rowwise_scale_inv[
            : x.shape[0], : x.shape[1] // _MXFP8_BLOCK
        ]  # the rest is padding
        return quantized._rowwise_data.view(torch.uint8), scales.contiguous().view(torch.uint8)
    return quantized._data.view(torch.uint8), quantized._scale_inv.reshape(1)


def _padded(x: Tensor) -> Tensor:
    """Flatten x [..., in] to rows and pad them with zeros to a multiple of 32."""
    rows = x.detach().reshape(-1, x.shape[-1])
    return nn.functional.pad(rows, (0, 0, 0, -rows.shape[0] % _ROWS)).contiguous()
