"""Where it hurts: each quantized module's own error, on the inputs that the reference model gives it."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from mxcheck.models.attention import ConvertedAttention
from mxcheck.models.convert import Conversion
from mxcheck.models.linear import Converted


def local_sqnr(conversion: Conversion, tokens: torch.Tensor, *, batch_size: int = 8) -> dict[str, float]:
    """Signal to quantization noise ratio in dB of each replaced module's output against the unquantized
    module's, both on the *reference's* input (so an early module's error is not charged to a later one).

    `tokens`: int64 [sequences, length]; a few sequences are enough to find a place. An exact module has
    infinite SQNR and is left out, since JSON has no infinity.
    """
    signal: dict[str, float] = defaultdict(float)
    noise: dict[str, float] = defaultdict(float)
    busy: set[str] = set()
    parts: dict[str, Converted | ConvertedAttention] = {**conversion.modules, **conversion.attention}

    def compare(name: str) -> Any:
        converted = parts[name]

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if busy:
                return  # inside the quantized forward below: this module's own, or an attention's around it
            busy.add(name)
            converted.activate()
            try:
                quantized = module(*args, **kwargs)
            finally:
                converted.revert()
                busy.remove(name)
            before, after = (_first(value).double() for value in (output, quantized))
            signal[name] += before.square().sum().item()
            noise[name] += (after - before).square().sum().item()

        return hook

    with conversion.suspended(), torch.inference_mode():
        handles = [
            converted.module.register_forward_hook(compare(name), with_kwargs=True)
            for name, converted in parts.items()
        ]
        try:
            device = next(conversion.model.parameters()).device
            for start in range(0, len(tokens), batch_size):
                batch = tokens[start : start + batch_size].to(device)
                conversion.model(input_ids=batch, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
    # A hundredth of a dB is more than anybody reads, and keeps baselines quiet in a diff.
    return {
        name: round(10 * math.log10(signal[name] / noise[name]), 2)
        for name in sorted(signal)
        if noise[name] > 0
    }


def _first(output: Any) -> torch.Tensor:
    """A module's result; of attention, which also returns its weights, the first."""
    tensor: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
    return tensor
