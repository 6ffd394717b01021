"""Quantize a transformers model in place, and undo it bit for bit."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mxcheck.formats.choices import choose
from mxcheck.models.backends.backend import backend
from mxcheck.models.conversion.attention import ConvertedAttention, attention_modules
from mxcheck.models.conversion.classify import classify, weight_parameters
from mxcheck.models.conversion.elementwise import GlobalQuantization
from mxcheck.models.conversion.linear import Around, Converted, ConvertedLinear, LibraryLinear
from mxcheck.models.recipes.recipe import Recipe

#: Where the quantized weights are.
MEMORIES = ("kept", "lean")

logger = logging.getLogger(__name__)

#: Attribute of a converted model: its recipe, or None while the conversion is suspended. A second conversion
#: would quantize quantized operands.
_MARK = "_mxcheck_conversion"


class UnavailableError(Exception):
    """A precision that cannot run here, or not on this model; the message gives the reason in one line."""


class Conversion:
    """A model converted by a recipe.

    `replaced` maps the name of every changed module to its role (`attention products` and `norm`,
    `activation` for other than linear modules); `unconverted` maps modules that a library refuses or no rule
    matches to the reason. `weight_bytes` is the size of all weights with codes packed, `original_bytes` the
    size before.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, *, memory: str = "kept") -> None:
        self.model = model
        self.recipe = recipe
        #: Whether quantized weights are `kept`, or `lean`: made at each forward.
        self.memory = memory if can_be_lean(recipe) else "kept"
        self.replaced: dict[str, str] = {}
        self.unconverted: dict[str, str] = {}
        self.modules: dict[str, Converted] = {}
        self.attention: dict[str, ConvertedAttention] = {}
        self.elementwise: GlobalQuantization | None = None
        self._around: list[Around] = []
        self.original_bytes = sum(parameter.nbytes for parameter in model.parameters())
        self.weight_bytes = self.original_bytes
        #: Whether the result may not (True), must (False) or may (None) equal the unconverted model's.
        self.changes_bits = recipe.changes_bits(str(_dtype(model)).removeprefix("torch."))
        self._parameters: list[tuple[nn.Parameter, torch.Tensor]] = []
        self._active = False

    def undo(self) -> None:
        """Restore the model bit for bit, but for what its owner wrote since. A second call does nothing."""
        if self._active:
            self._revert()
            delattr(self.model, _MARK)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Restore the unconverted model while the context lasts."""
        if not self._active:
            yield
            return
        self._revert()
        try:
            yield
        finally:
            self._activate()

    def note_what_ran(self) -> None:
        """Record the results of a forward pass: in `unconverted`, the modules that the model did not call (it
        reads their weights itself, or does not use them), of which only the weight was cast; in `replaced`,
        the number of element-wise operations outside modules that were cast."""
        for name, module in self.modules.items():
            if module.calls == 0:
                self.unconverted[name] = "the model does not call it: its activations are not cast"
        if self.elementwise is not None:
            counts = sorted(self.elementwise.counts.items())
            self.replaced |= {f"({kind})": f"{count} a pass" for kind, count in counts}

    def _parts(self) -> Iterator[Converted | ConvertedAttention | GlobalQuantization]:
        yield from self.modules.values()
        yield from self.attention.values()
        if self.elementwise is not None:
            yield self.elementwise

    def _activate(self) -> None:
        for part in self._parts():
            part.activate()
        # over the parts' own, and put back before them
        self._around = [Around(module) for module in _around(self)]
        for parameter, _ in self._parameters:
            parameter.data = parameter.data.to(torch.bfloat16)
        setattr(self.model, _MARK, self.recipe)
        self._active = True

    def _revert(self) -> None:
        for one in self._around:
            one.revert()
        for part in self._parts():
            part.revert()
        for parameter, original in self._parameters:
            parameter.data = original
        setattr(self.model, _MARK, None)
        self._active = False


def _around(conversion: Conversion) -> list[nn.Module]:
    """Return the modules around those with mxcheck's casts, which may read a weight themselves."""
    converted = [name for name, one in conversion.modules.items() if isinstance(one, ConvertedLinear)]
    names = {name[: dot.start()] for name in converted for dot in re.finditer(r"\.", name)}
    if converted:
        names.add("")  # the model itself
    return [conversion.model.get_submodule(name) for name in sorted(names.difference(conversion.modules))]


def can_be_lean(recipe: Recipe) -> bool:
    """Return whether a recipe's weights can be quantized at each forward: those that mxcheck casts. A library
    holds its own, and `bf16` converts every parameter at once."""
    return recipe.library is None and bool(recipe.roles)


def convert(model: nn.Module, recipe: Recipe, *, memory: str = "kept") -> Conversion:
    """Quantize `model` in place by `recipe`, and return the handle that undoes it.

    `memory` is `kept`, which holds a quantized copy of the weights, or `lean`, which makes each at every
    forward of its module and drops it: one model and one layer, the same results. Where `lean` does not apply
    (see `can_be_lean`) weights are kept; `Conversion.memory` says which it is.

    The weights of a converted model stay its owner's: attributes, `parameters()` and `state_dict()` give the
    originals, a forward multiplies by the casts of what they are then, and `undo` leaves what was written to
    them. Three limits: torch does not count what is written in place through `.data`, and only `lean` sees
    it; a library's weights, and those of `bf16`, are converted once; and while a forward of the model or of a
    part of it runs, an attribute is the quantized weight, and what is written to that in place may be lost.

    `fp32` changes nothing; `bf16` casts every floating-point parameter (buffers, such as the rotary
    frequencies, keep their dtype, as when a checkpoint is loaded in bf16). Other precisions convert every
    linear-like module whose role the recipe names, by mxcheck's casts or by a library.

    A model with casts is for inference: a call that would record a gradient through them raises ValueError.
    Where a cast has one scale for the whole tensor (`nvfp4`, `fp8_tensor_*`), every token of a sequence
    affects that scale, and so the earlier logits: the measured model is not causal, and its figures apply to
    complete sequences (see `Recipe.looks_ahead`).

    Raises ValueError where the model is already converted, no module has a role of the recipe, or there is no
    such memory;
    UnavailableError where a library is missing, or converts none of the modules.
    """
    if hasattr(model, _MARK):
        raise ValueError("the model is converted already; call undo() on its Conversion first")
    conversion = Conversion(model, recipe, memory=choose("memory", memory, MEMORIES))
    if recipe.precision == "bf16":
        conversion._parameters = [(p, p.data) for p in model.parameters() if p.is_floating_point()]
    elif recipe.roles:
        _convert_linears(conversion)
    if recipe.attention is not None:
        owners, missed = attention_modules(model)
        conversion.unconverted |= missed
        for name, module in owners.items():
            conversion.attention[name] = ConvertedAttention(name, module, recipe.attention, recipe.kernel)
            conversion.replaced[name] = "attention products"
    if recipe.elementwise is not None:
        conversion.elementwise = GlobalQuantization(model, recipe.elementwise, recipe.kernel)  # type: ignore[arg-type]
        # linear modules keep their role: gpt-oss' experts also compute an activation
        conversion.replaced = conversion.elementwise.modules | conversion.replaced
    conversion.weight_bytes = _weight_bytes(conversion)
    conversion._activate()
    return conversion


def sequences_a_pass(model: nn.Module) -> int | None:
    """Return how many sequences may pass through `model` together where a recipe on it, or on a part of it,
    has casts that depend on the other sequences (`Recipe.sequences_a_pass`); None: any number."""
    recipes = [getattr(module, _MARK, None) for module in model.modules()]
    return min((one.sequences_a_pass for one in recipes if one and one.sequences_a_pass), default=None)


def _convert_linears(conversion: Conversion) -> None:
    model, recipe = conversion.model, conversion.recipe
    modules = dict(model.named_modules())
    roles = classify(model)
    chosen = {name: role for name, role in roles.items() if role in recipe.roles}
    unplaced = [name for name, role in roles.items() if role == "other" and role not in recipe.roles]
    conversion.unconverted |= dict.fromkeys(unplaced, "no rule says what it is; --mx-all-linears takes it in")
    if not chosen:
        raise ValueError(
            f"{type(model).__name__} has no module of role {' or '.join(recipe.roles)}; "
            f"nothing would be quantized"
        )
    if recipe.library is None:
        for name, role in chosen.items():
            conversion.modules[name] = ConvertedLinear(
                name, modules[name], recipe.roles[role], recipe, lean=conversion.memory == "lean"
            )
    else:
        _convert_by_library(conversion, {name: modules[name] for name in chosen})
    conversion.replaced = {name: role for name, role in chosen.items() if name in conversion.modules}
    for name, role in conversion.replaced.items():
        logger.info("%s (%s, %s): %s", name, role, type(modules[name]).__name__, recipe.precision)


def _convert_by_library(conversion: Conversion, modules: dict[str, nn.Module]) -> None:
    library = backend(conversion.recipe.precision)
    device = str(next(conversion.model.parameters()).device)
    if (reason := library.missing(device)) is not None:
        raise UnavailableError(reason)
    for name, module in modules.items():
        if (reason := library.refuses(module)) is not None:
            conversion.unconverted[name] = reason
        else:
            conversion.modules[name] = LibraryLinear(name, module, library)
    if not conversion.modules:
        name = next(iter(modules))  # of the requested roles: `unconverted` also has modules without a rule
        raise UnavailableError(
            f"{conversion.recipe.precision} converts none of the {len(modules)} modules: {name}: "
            f"{conversion.unconverted[name]}"
        )


def _weight_bytes(conversion: Conversion) -> int:
    """Return the size of the weights with codes packed; a quantized tied head leaves the embedding in
    place."""
    left: dict[int, int] = {}
    for name, module in conversion.model.named_modules():
        converted = conversion.modules.get(name)
        quantized = weight_parameters(module) if converted is not None and converted.weight_bytes else []
        for key, parameter in module.named_parameters(recurse=False):
            if key not in quantized:
                left[id(parameter)] = parameter.nbytes
    if conversion._parameters:
        left = {id(p): p.numel() * torch.bfloat16.itemsize for p, _ in conversion._parameters}
    return sum(left.values()) + sum(module.weight_bytes for module in conversion.modules.values())


def _dtype(model: nn.Module) -> torch.dtype:
    """Return the dtype of the weights; of several (routers may stay in fp32), the widest."""
    types = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    return max(types, key=lambda dtype: (dtype.itemsize, dtype != torch.bfloat16))
