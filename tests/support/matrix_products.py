"""The operands of every matrix product of a model, seen at ATen level: below all that mxcheck enters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mxcheck.models.conversion.converted_parameters import running

_OPERANDS: Mapping[Any, tuple[int, int]] = {
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.baddbmm.default: (1, 2),
}
#: Parts of the names of other products: one that appears must be met, not overlooked.
_PRODUCT_WORDS = ("attention", "matmul", "linear", "einsum", "grouped_mm", "scaled_mm", "mv.", "dot.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Product:
    """One product: `first` [..., n, k] times `second` [..., k, m]. `owner` is the name of the module whose
    parameter `second` is; None where it is none, as in attention."""

    owner: str | None
    first: Tensor
    second: Tensor


class _Products(TorchDispatchMode):
    def __init__(self, owners: Mapping[int, str]) -> None:
        super().__init__()
        self._owners = owners
        self.seen: list[Product] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in _OPERANDS:
            first, second = (args[place] for place in _OPERANDS[func])
            owner = self._owners.get(second.untyped_storage().data_ptr())
            self.seen.append(Product(owner=owner, first=first.clone(), second=second.clone()))
        elif any(word in str(func) for word in _PRODUCT_WORDS):
            raise AssertionError(f"{func} multiplies, and nobody looks at its operands")
        return func(*args, **(kwargs or {}))


def logits(model: nn.Module, ids: Tensor, **arguments: Any) -> Tensor:
    """Of one forward pass: [batch, length, vocabulary]."""
    with torch.no_grad():
        result: Tensor = model(input_ids=ids, use_cache=False, **arguments).logits
    return result


def multiplied(model: nn.Module) -> dict[str, Tensor]:
    """The parameters by name as a forward of `model` meets them: of a converted one the quantized weights."""
    with running():
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        return {name: model.get_parameter(name) for name in names}


def products(model: nn.Module, ids: Tensor) -> list[Product]:
    """Every matrix product of one forward pass, in order."""
    owners = {
        parameter.untyped_storage().data_ptr(): name.rpartition(".")[0]
        for name, parameter in multiplied(model).items()
    }
    with _Products(owners) as mode:
        logits(model, ids)
    return mode.seen


def some_tokens(length: int = 64, sequences: int = 2) -> Tensor:
    """Random tokens of a vocabulary of 256: int64 [sequences, length]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (sequences, length), generator=generator)
