"""Quantizing a transformers model in place, and undoing it bit for bit.

A converted module keeps its class and its forward. Two things change: its weights are swapped for their
quantized values (computed once), and while its forward runs, the activation operand of every linear
product passes through the cast. One mechanism therefore serves `nn.Linear`, its subclasses and experts
stored as 3-D parameters alike.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mxcheck.kernels.api import fake_quantize_with, quantize, resolve_kernel
from mxcheck.models.classify import classify, expert_parameters
from mxcheck.models.load import tensor_bytes
from mxcheck.models.recipe import MX, Recipe

logger = logging.getLogger(__name__)

Cast = Callable[[torch.Tensor], torch.Tensor]

#: The products whose operands are quantized, and where the activation stands among their arguments.
PRODUCTS: Mapping[Callable[..., Any], int] = {torch.nn.functional.linear: 0}

#: Attribute of a converted model: a second conversion would quantize what is already quantized.
_MARK = "_mxcheck_conversion"


class ActivationCast(TorchFunctionMode):
    """While active, the activation operand of every product goes through `cast`."""

    def __init__(self, cast: Cast) -> None:
        super().__init__()
        self._cast = cast
        self.products = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        position = PRODUCTS.get(func)
        if position is not None:
            self.products += 1
            args = (*args[:position], self._cast(args[position]), *args[position + 1 :])
        return func(*args, **(kwargs or {}))


class ConvertedModule:
    """One quantized module: its original and quantized weights, and the cast of its activations."""

    def __init__(self, name: str, module: nn.Module, recipe: Recipe) -> None:
        self.name = name
        self.module = module
        if getattr(module, "is_transposed", False):
            raise ValueError(
                f"{name} ({type(module).__name__}) stores its experts transposed [experts, in, out], which "
                f"is not supported yet: their blocks would run along the wrong axis"
            )
        spec = recipe.spec(axis=-1)
        fake_quantize = resolve_kernel(recipe.kernel)[1]
        self.cast: Cast = lambda x: fake_quantize_with(x, spec, fake_quantize)
        self._originals: dict[str, nn.Parameter] = {}
        self._quantized: dict[str, nn.Parameter] = {}
        codes = hashlib.sha256()
        for key in expert_parameters(module) or ["weight"]:
            original = module.get_parameter(key)
            quantized = quantize(
                original.detach(),
                spec.format,
                axis=spec.axis,
                block_size=spec.block_size,
                scale_rule=spec.scale_rule,
                rounding=spec.rounding,
                tail=spec.tail,
                kernel=recipe.kernel,
            )
            codes.update(tensor_bytes(quantized.codes))
            codes.update(tensor_bytes(quantized.scales))
            self._originals[key] = original
            self._quantized[key] = nn.Parameter(quantized.dequantize(original.dtype), requires_grad=False)
        #: SHA-256 of the weights' element codes and scale codes.
        self.weight_digest = codes.hexdigest()

    def activate(self) -> None:
        """Swap the quantized weights in and cast activations from now on."""
        forward = type(self.module).forward

        def cast_forward(*args: Any, **kwargs: Any) -> Any:
            with ActivationCast(lambda x: self.cast(x)) as mode:  # late: the probe puts its own cast in
                output = forward(self.module, *args, **kwargs)
            if mode.products == 0:
                raise ValueError(
                    f"{self.name} ({type(self.module).__name__}) makes no product that mxcheck can see "
                    f"({', '.join(product.__name__ for product in PRODUCTS)}): its activations would stay "
                    f"unquantized; leave its role out of the recipe"
                )
            return output

        for name, value in self._quantized.items():
            setattr(self.module, name, value)
        self.module.forward = cast_forward

    def revert(self) -> None:
        """Put the original weights and forward back."""
        for name, value in self._originals.items():
            setattr(self.module, name, value)
        del self.module.forward


class Conversion:
    """A model as a recipe changed it. `replaced` maps the name of every changed module to its role."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.model = model
        self.recipe = recipe
        self.replaced: dict[str, str] = {}
        self.modules: dict[str, ConvertedModule] = {}
        self._parameters: list[tuple[nn.Parameter, torch.Tensor]] = []
        self._active = False

    def undo(self) -> None:
        """Give the model back as it was, bit for bit. A second call does nothing."""
        if self._active:
            self._revert()
            delattr(self.model, _MARK)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The unconverted model, for as long as the context lasts."""
        self._revert()
        try:
            yield
        finally:
            self._activate()

    def _activate(self) -> None:
        for module in self.modules.values():
            module.activate()
        for parameter, _ in self._parameters:
            parameter.data = parameter.data.to(torch.bfloat16)
        self._active = True

    def _revert(self) -> None:
        for module in self.modules.values():
            module.revert()
        for parameter, original in self._parameters:
            parameter.data = original
        self._active = False


def convert(model: nn.Module, recipe: Recipe) -> Conversion:
    """Quantize `model` in place as `recipe` says, and return the handle that undoes it.

    `fp32` changes nothing; `bf16` casts every floating-point parameter (buffers, such as the rotary
    frequencies, keep their dtype, as when a checkpoint is loaded in bf16). For MX precisions every
    linear-like module whose role is in `recipe.roles` is converted.

    Raises ValueError where the model is converted already, or where no module has a role of the recipe.
    """
    if hasattr(model, _MARK):
        raise ValueError("the model is converted already; call undo() on its Conversion first")
    conversion = Conversion(model, recipe)
    if recipe.precision in MX:
        modules = dict(model.named_modules())
        conversion.replaced = {name: role for name, role in classify(model).items() if role in recipe.roles}
        if not conversion.replaced:
            raise ValueError(
                f"{type(model).__name__} has no module of role {' or '.join(recipe.roles)}; "
                f"nothing would be quantized"
            )
        for name, role in conversion.replaced.items():
            conversion.modules[name] = ConvertedModule(name, modules[name], recipe)
            logger.info("%s (%s, %s): %s", name, role, type(modules[name]).__name__, recipe.precision)
    elif recipe.precision == "bf16":
        conversion._parameters = [(p, p.data) for p in model.parameters() if p.is_floating_point()]
    conversion._activate()
    setattr(model, _MARK, recipe.precision)
    return conversion
