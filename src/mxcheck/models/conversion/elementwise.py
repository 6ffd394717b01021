"""Global quantization: cast the results of element-wise operations too, to show the benefit of selective
casts.

Casts the results of norms and activation functions (modules of their own), of the gate of experts that
compute it inline, of every softmax, and of every addition of two hidden states: the residual stream.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.activations import ACT2CLS

from mxcheck.models.conversion.casts import activation_cast, refuse_gradient
from mxcheck.models.conversion.linear import Method
from mxcheck.models.conversion.product_hooks import Cast, busy, undisturbed
from mxcheck.models.recipes.recipe import Operand

_NORM = re.compile(r"Norm(Gated)?(\d|$)")
#: Activation functions outside transformers' table: torch's own (MPT), a model's own (BLOOM).
_OTHER_ACTIVATION = re.compile(r"(gelu|relu|silu)$", re.IGNORECASE)
_ENTRIES: list[Any] = list(ACT2CLS.values())  # a class, or a class and its arguments
_ACTIVATIONS: tuple[type, ...] = tuple(e[0] if isinstance(e, tuple) else e for e in _ENTRIES)
_GATE = "_apply_gate"
#: Activation functions that are called as functions, without a module.
_FUNCTIONS = tuple(getattr(torch.nn.functional, name) for name in ("gelu", "relu", "silu"))
_SOFTMAX = (torch.nn.functional.softmax, torch.softmax, Tensor.softmax)
_ADDITIONS = (torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__, Tensor.add_)


def elementwise_modules(model: nn.Module) -> dict[str, str]:
    """Return the kind, `norm` or `activation`, of every module whose result global quantization casts."""
    kinds = {}
    for name, module in model.named_modules():
        if _NORM.search(type(module).__name__):
            kinds[name] = "norm"
        elif (
            isinstance(module, _ACTIVATIONS)
            or _OTHER_ACTIVATION.search(type(module).__name__)
            or _has_gate(module)
        ):
            kinds[name] = "activation"
    return kinds


def _has_gate(module: nn.Module) -> bool:
    """Return whether experts compute their gate inline, without an activation module (gpt-oss)."""
    return hasattr(module, _GATE) and not hasattr(module, "act_fn")


class _Operations(TorchFunctionMode):
    """Cast the results of softmax and of additions of two hidden states [batch, length, `width`], or [tokens,
    `width`], as OPT flattens them."""

    def __init__(self, cast: Cast, width: int, counts: Counter[str]) -> None:
        super().__init__()
        self._cast, self._width, self._counts = cast, width, counts

    def _hidden(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() in (2, 3) and value.shape[-1] == self._width

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if busy():
            return result
        if func in _SOFTMAX or func in _FUNCTIONS:
            refuse_gradient("softmax" if func in _SOFTMAX else "an activation", [result])
            self._counts["softmax" if func in _SOFTMAX else "activation"] += 1
            return self._cast(result)
        if func in _ADDITIONS and len(args) == 2 and all(map(self._hidden, args)):
            refuse_gradient("the residual stream", [result])
            self._counts["addition"] += 1
            # in place where the model adds in place: the tensor may have aliases
            return result.copy_(self._cast(result)) if result is args[0] else self._cast(result)
        return result


class GlobalQuantization:
    """Casts on a model's element-wise operations. `counts`: operations outside modules, in one forward pass
    of the whole model."""

    def __init__(self, model: PreTrainedModel, operand: Operand, kernel: str) -> None:
        self.cast: Cast = activation_cast(operand, kernel, of="results of element-wise operations")
        self.modules = elementwise_modules(model)
        self.counts: Counter[str] = Counter()
        self._width = int(model.config.get_text_config().hidden_size)
        self._model = Method(model)
        self._parts = [
            Method(module, _GATE if _has_gate(module) else "forward")
            for module in map(model.get_submodule, self.modules)
        ]

    def activate(self) -> None:
        def forward(*args: Any, **kwargs: Any) -> Any:
            counts: Counter[str] = Counter()
            with _Operations(lambda x: self.cast(x), self._width, counts):
                output = self._model.original(*args, **kwargs)
            self.counts |= counts  # the larger of each: a pass of the head alone has fewer
            return output

        self._model.replace(forward)
        for part in self._parts:
            part.replace(self._cast_result(part.original))

    def revert(self) -> None:
        for part in (self._model, *self._parts):
            part.restore()

    def _cast_result(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def cast_result(*args: Any, **kwargs: Any) -> Tensor:
            with undisturbed("module"):  # intermediate values of the module are not its result
                result = function(*args, **kwargs)
            refuse_gradient("a norm or an activation", [result])
            return self.cast(result)

        return cast_result
