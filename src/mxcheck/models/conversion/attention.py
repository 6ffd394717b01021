"""The two products of attention: queries by keys, and attention weights by values.

Products are found while an attention module's own forward runs, so every architecture that computes them
eagerly is supported alike; 24 modelling files of transformers 5.23 bypass its attention interface, and a
custom attention function without a registered mask function silently attends to future tokens.

Values are cast in blocks along the axis of key positions, which extend past the query position. A later token
therefore moves earlier logits of its own block, though the mask holds.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

from torch import Tensor, nn

from mxcheck.models.conversion.casts import activation_cast, refuse_gradient
from mxcheck.models.conversion.classify import classify
from mxcheck.models.conversion.converted_parameters import reads
from mxcheck.models.conversion.linear import Method
from mxcheck.models.conversion.product_hooks import AttentionCast, Cast, storage
from mxcheck.models.recipes.recipe import Operand

_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)


def attention_modules(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Return the modules that compute attention, by name: the innermost modules of an attention class that
    own a linear module of role attention. Also return linear modules of that role without such an owner (the
    linear attention of hybrid models), with the reason why their products stay unconverted. Raises ValueError
    where there is no attention module."""
    projections = [name for name, role in classify(model).items() if role == "attention"]
    modules = dict(model.named_modules())
    found, missed = {}, {}
    for projection in projections:
        owner = projection.rpartition(".")[0]
        while owner and not _ATTENTION.search(_class_of(modules[owner])):
            owner = owner.rpartition(".")[0]
        if owner:
            found[owner] = modules[owner]
        else:
            missed[projection] = "no module of an attention class owns it: its products are not cast"
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no module of an attention class that owns projections; "
            f"leave --mx-attention out"
        )
    return found, missed


def _class_of(module: nn.Module) -> str:
    """Return the module's class name, or an empty string for a whole layer, whose name may mention its
    attention."""
    name = type(module).__name__
    return "" if name.endswith(("Layer", "Block")) else name


class _Storages(Container[int]):
    """The storages of a module's parameters, and of the quantized weights that its forward has read."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __contains__(self, address: object) -> bool:
        return any(storage(one) == address for one in (*self._module.parameters(), *(reads() or {}).values()))


class ConvertedAttention:
    """An attention module with casts on the operands of both products."""

    def __init__(self, name: str, module: nn.Module, operand: Operand, kernel: str) -> None:
        self.name = name
        self.module = module
        first, second = f"queries and probabilities of {name}", f"keys and values of {name}"
        self.first: Cast = activation_cast(operand, kernel, axis=-1, of=first)
        self.second: Cast = activation_cast(operand, kernel, axis=-2, of=second)
        self._wide = not operand.is_exact_in_16_bits
        self._forward = Method(module)

    def observe(self, operand: Tensor) -> None:
        """Observe each operand as it enters a product; the probe replaces this method."""

    def activate(self) -> None:
        def forward(*args: Any, **kwargs: Any) -> Any:
            refuse_gradient(self.name, (*args, *kwargs.values(), *self.module.parameters()))
            with AttentionCast(
                lambda x: self.first(x),
                lambda x: self.second(x),
                wide=self._wide,
                weights=_Storages(self.module),
                observe=lambda x: self.observe(x),
            ) as mode:
                output = self._forward.original(*args, **kwargs)
            if mode.products != 2:
                raise ValueError(
                    f"{self.name} ({type(self.module).__name__}) makes {mode.products} products besides its "
                    f"projections where attention has two; leave --mx-attention out"
                )
            return output

        self._forward.replace(forward)

    def revert(self) -> None:
        self._forward.restore()
