"""Choose whether a conversion keeps its quantized weights, by the memory that is free."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from mxcheck.formats.choices import choose
from mxcheck.run.option_choices import MEMORIES
from mxcheck.scheduling.devices import CPU, cpu_device, used_bytes

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mxcheck.models.conversion.convert import Conversion
    from mxcheck.models.recipes.recipe import Recipe

#: Most of the free memory that a kept copy may take. The rest is for activations, logits and the casts'
#: temporaries, which nobody knows before a pass.
MARGIN = 0.5


def convert(model: nn.Module, recipe: Recipe, *, memory: str = "kept") -> Conversion:
    """Quantize `model` in place by `recipe`, and return the handle that undoes it: `mxcheck.convert`.

    Args:
        model: a transformers model, for inference: a call that would record a gradient through its casts
            raises ValueError.
        recipe: of `mxcheck.recipe`.
        memory: `kept` holds the quantized weights beside the model; `lean` makes those of a module at each of
            its forwards, and drops them; `auto` chooses by what is free, as `memory_of` does. All give the
            same results, and `Conversion.memory` says which it is: weights that a library casts are kept.

    Raises ValueError and UnavailableError as `models.conversion.convert.convert`, which says more.
    """
    from mxcheck.models.conversion import convert as conversion

    chosen = choose("memory", memory, MEMORIES)
    return conversion.convert(model, recipe, memory=memory_of(chosen, model, recipe))


def memory_of(chosen: str, model: nn.Module, recipe: Recipe) -> str:
    """Return `kept` or `lean` for a conversion of `model`. `auto` is `kept` where the quantized weights take
    at most `MARGIN` of what is free on each of its devices."""
    if chosen != "auto":
        return chosen
    needed = _bytes_of_a_copy(model, recipe)
    return "kept" if all(size <= MARGIN * free_bytes(device) for device, size in needed.items()) else "lean"


def _bytes_of_a_copy(model: nn.Module, recipe: Recipe) -> Counter[torch.device]:
    """Return, by device, the bytes of the quantized weights that a recipe makes."""
    from mxcheck.models.conversion.classify import classify, owned_weight, weight_parameters

    found: Counter[torch.device] = Counter()
    for name, role in classify(model).items():
        if role not in recipe.roles or recipe.roles[role].weights is None:
            continue
        module = model.get_submodule(name)
        for weight in (owned_weight(module, key) for key in weight_parameters(module)):
            # also where values take fp32: of those a 16-bit model keeps the elements in bf16
            found[weight.device] += weight.nbytes
    return found


def free_bytes(device: torch.device) -> int:
    """Return the memory that this process can still take on a device: of a GPU also what torch's allocator
    holds and does not use; of the host what no process uses, within the limit of its container."""
    if device.type == CPU:
        host = cpu_device(workers_per_device=1)
        return host.total_bytes - used_bytes([host])[CPU]
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
