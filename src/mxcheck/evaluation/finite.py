"""Find the module that first produced a NaN or an infinity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class NonFiniteLogitsError(ValueError):
    """Logits are NaN or infinite. The message names the first module whose output was."""

    def __init__(self, culprit: str) -> None:
        super().__init__(f"logits are not finite: the first module to produce NaN or infinity is {culprit}")


def _finite(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, Mapping):  # a ModelOutput is one
        return all(map(_finite, value.values()))
    if isinstance(value, tuple | list):
        return all(map(_finite, value))
    return True


def first_non_finite_module(model: nn.Module, batch: torch.Tensor, **arguments: Any) -> str:
    """Run one batch [sequences, length] again, with these further arguments, and name the first module, in
    order of completion, whose output is not finite. (Modules complete before those that contain them, so it
    is the innermost one.)"""
    culprits: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, _args: Any, output: Any) -> None:
            if not culprits and not _finite(output):
                culprits.append(f"{name or 'the model'} ({type(module).__name__})")

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        model(input_ids=batch, use_cache=False, **arguments)
    finally:
        for handle in handles:
            handle.remove()
    return culprits[0] if culprits else "none (the logits are finite, their log-probabilities are not)"
