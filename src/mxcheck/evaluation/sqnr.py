"""Where it hurts: each quantized module's own error, on the inputs that the reference model gives it."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from mxcheck.models.convert import Conversion


def local_sqnr(conversion: Conversion, tokens: torch.Tensor) -> dict[str, float]:
    """Signal to quantization noise ratio in dB of each replaced module's output against the unquantized
    module's, both on the *reference's* input (so an early module's error is not charged to a later one).

    `tokens`: int64 [sequences, length]; a few sequences are enough to find a place. An exact module has
    infinite SQNR and is left out, since JSON has no infinity.
    """
    signal: dict[str, float] = defaultdict(float)
    noise: dict[str, float] = defaultdict(float)
    busy: set[str] = set()

    def compare(name: str) -> Any:
        converted = conversion.modules[name]

        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
        ) -> None:
            if name in busy:
                return  # the quantized forward below, coming through the same hook
            busy.add(name)
            converted.activate()
            try:
                quantized = module(*args, **kwargs)
            finally:
                converted.revert()
                busy.remove(name)
            signal[name] += output.double().square().sum().item()
            noise[name] += (quantized.double() - output.double()).square().sum().item()

        return hook

    with conversion.suspended(), torch.inference_mode():
        handles = [
            converted.module.register_forward_hook(compare(name), with_kwargs=True)
            for name, converted in conversion.modules.items()
        ]
        try:
            device = next(conversion.model.parameters()).device
            conversion.model(input_ids=tokens.to(device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    # A hundredth of a dB is more than anybody reads, and keeps baselines quiet in a diff.
    return {
        name: round(10 * math.log10(signal[name] / noise[name]), 2)
        for name in sorted(signal)
        if noise[name] > 0
    }
