"""The two products of attention: queries by keys, and attention weights by values.

They are found while an attention module's own forward runs, so every architecture that computes them
eagerly is served alike; 24 modelling files of transformers 5.23 bypass its attention interface, and a mask
function that is not registered with an attention function of one's own silently lets the future in.

Values are cast in blocks along the axis of key positions, which span later tokens than the one that looks
at them. A later token therefore moves earlier logits of its own block, though the mask holds.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from mxcheck.models.casts import activation_cast, refuse_gradient
from mxcheck.models.classify import classify
from mxcheck.models.linear import Method
from mxcheck.models.products import AttentionCast, Cast, storage
from mxcheck.models.recipe import Operand

_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)


def attention_modules(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The modules that compute attention, by name: the innermost ones of an attention class that own a
    linear module of role attention; and such linear modules that none of them owns (the linear attention of
    hybrid models), with the reason why their products stay as they are. Raises ValueError where there is no
    attention module."""
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
    """Its class's name; none for a whole layer, whose name may say what kind of attention is in it."""
    name = type(module).__name__
    return "" if name.endswith(("Layer", "Block")) else name


class ConvertedAttention:
    """An attention module, both of whose products take cast operands."""

    def __init__(self, name: str, module: nn.Module, operand: Operand, kernel: str) -> None:
        self.name = name
        self.module = module
        first, second = f"queries and probabilities of {name}", f"keys and values of {name}"
        self.first: Cast = activation_cast(operand, kernel, axis=-1, of=first)
        self.second: Cast = activation_cast(operand, kernel, axis=-2, of=second)
        self._wide = not operand.is_exact_in_16_bits
        self._forward = Method(module)

    def observe(self, operand: Tensor) -> None:
        """Sees each operand as it enters a product; the probe puts its own in."""

    def activate(self) -> None:
        def forward(*args: Any, **kwargs: Any) -> Any:
            refuse_gradient(self.name, (*args, *kwargs.values(), *self.module.parameters()))
            with AttentionCast(
                lambda x: self.first(x),
                lambda x: self.second(x),
                wide=self._wide,
                weights={storage(value) for value in self.module.parameters()},
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
