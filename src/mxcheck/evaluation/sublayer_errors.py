"""Measure the error of a recipe in each decoder layer and in its attention and its MLP, each alone.

Every decoder layer starts from its stored reference state, and attention and MLP take their inputs in the
unconverted layer. A figure therefore describes its own place alone, and neither depth nor one token of
extreme values decides it: figures are taken by token, each token relative to its own size.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mxcheck.evaluation.layer_states import LayerStates, decoder_layers, run, started_from
from mxcheck.gate.sublayer_drift import SKETCH_UNIT, SublayerError
from mxcheck.models.conversion.convert import Conversion

__all__ = ["PROJECTIONS", "SublayerErrors", "signs", "sublayer_errors", "sublayers"]

#: The two sublayers, by the role of their linear modules; a third entry, `layer`, is the whole layer.
ROLES = ("attention", "mlp")
#: Random projections of an error: one for each bit of a word. They give the distance of two errors to within
#: 1/sqrt(2 · 64) = 9 %.
PROJECTIONS = 64
_SEED = 20251121


@dataclass(frozen=True, slots=True, kw_only=True)
class SublayerErrors:
    """Figures by `<layer>.attention`, `<layer>.mlp` and `<layer>.layer`, or why there are none."""

    errors: dict[str, SublayerError]
    absent: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sublayer:
    """A part of a decoder layer. The first of `modules` that is called takes its input, and the last gives
    its output: one module, or two linear modules in a row that no module contains by themselves (OPT)."""

    layer: str
    modules: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Seen:
    """Observations of one sublayer in one forward pass."""

    calls: int = 0
    inputs: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    output: Tensor = field(default_factory=lambda: torch.empty(0))
    #: Residual that the module adds to its update by itself (BLOOM, MPT).
    residual: Tensor | None = None


def sublayers(model: nn.Module) -> tuple[dict[str, Sublayer], dict[str, str]]:
    """Return the sublayers of every decoder layer by key, and by key why a layer has no such sublayer."""
    found, absent = {}, {}
    modules = dict(model.named_modules())
    for layer, roles in decoder_layers(model).items():
        for role in ROLES:
            key = f"{layer}.{role}"
            names = roles.get(role, [])
            owner = _owner(names, modules)
            if not names:
                absent[key] = f"the layer has no linear module of role {role}"
            elif len(owner) > len(layer):
                found[key] = Sublayer(layer=layer, modules=(owner,))
            elif len(names) <= 2:
                found[key] = Sublayer(layer=layer, modules=tuple(names))
            else:
                absent[key] = f"no module holds its {len(names)} linear modules: its input cannot be told"
        found[f"{layer}.layer"] = Sublayer(layer=layer, modules=(layer,))
    return found, absent


def _owner(names: list[str], modules: Mapping[str, nn.Module]) -> str:
    """Return the nearest callable module around all of `names`."""
    if not names:
        return ""
    parents = [name.split(".")[:-1] for name in names]
    common: list[str] = []
    for parts in zip(*parents, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    while isinstance(modules[".".join(common)], nn.ModuleList | nn.ModuleDict):
        common.pop()
    return ".".join(common)


def sublayer_errors(
    conversion: Conversion, states: LayerStates, *, beside: AbstractContextManager[object] | None = None
) -> SublayerErrors:
    """Measure every sublayer of a converted model from `states`: three forward passes over their tokens.

    The first pass is the unconverted model's; the second is the converted one's and gives the whole layers;
    in the third, attention and MLP take the inputs of the first, in their own dtype. The model is left
    converted. `beside` is entered for the second pass alone: what counts casts need not run one of its own.

    Raises ValueError if the states belong to another model.
    """
    model = conversion.model
    found, absent = sublayers(model)
    parts = {key: one for key, one in found.items() if not key.endswith(".layer")}
    with torch.inference_mode():
        with conversion.suspended():
            reference = _pass(model, states, found)
        with beside or nullcontext():
            converted = _pass(model, states, found)
        converted |= _pass(model, states, parts, given=reference)
    errors = {}
    for key, sublayer in found.items():
        state = states.layers.get(sublayer.layer)
        reason = "the model does not call it" if state is None else _unusable(reference[key], converted[key])
        if reason:
            absent[key] = reason
            continue
        assert state is not None
        residual = state if key.endswith(".layer") else reference[key].residual
        figures = _figures(reference[key].output, converted[key].output, residual, state)
        if isinstance(figures, str):
            absent[key] = figures
        else:
            errors[key] = figures
    return SublayerErrors(errors=errors, absent=absent)


def _pass(
    model: nn.Module,
    states: LayerStates,
    sublayers: Mapping[str, Sublayer],
    given: Mapping[str, _Seen] | None = None,
) -> dict[str, _Seen]:
    """Run a forward pass and return the observations of each sublayer; with `given`, sublayers take the
    hidden states seen there."""
    seen = {key: _Seen() for key in sublayers}

    def enter(key: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            one = seen[key]
            one.calls += 1
            if one.calls > 1:
                return None
            if given is not None:
                args, kwargs = _with_states_of(given[key].inputs, args, kwargs, states)
            one.inputs = _copied(args, kwargs)
            one.residual = _residual(module, *one.inputs)
            return args, kwargs

        return hook

    def leave(key: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple | list) else output
            seen[key].output = first.clone()  # Falcon adds its attention's output to its MLP's in place

        return hook

    with ExitStack() as hooks:
        hooks.enter_context(started_from(model, states))
        for key, sublayer in sublayers.items():
            for name in sublayer.modules:
                module = model.get_submodule(name)
                hooks.callback(module.register_forward_pre_hook(enter(key), with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(leave(key)).remove)
        run(model, states.tokens)
    for key, sublayer in sublayers.items():  # calls of the sublayer, not of its modules
        seen[key].calls = -(-seen[key].calls // len(sublayer.modules))
    return seen


def _with_states_of(
    given: tuple[tuple[Any, ...], dict[str, Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    states: LayerStates,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call, with its hidden states replaced by those of the call `given`."""
    width = next(iter(states.layers.values())).shape[-1]
    rows = states.tokens.numel()

    def chosen(own: Any, other: Any) -> Any:
        if isinstance(own, Tensor) and own.shape[-1:] == (width,) and own.numel() == rows * width:
            return other.to(own.device, own.dtype)
        return own  # masks, position embeddings: equal, and in the call's own dtype

    positional = tuple(chosen(own, other) for own, other in zip(args, given[0], strict=True))
    return positional, {name: chosen(own, given[1][name]) for name, own in kwargs.items()}


def _copied(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copy arguments, so that no later in-place operation changes their tensors."""
    positional = tuple(value.clone() if isinstance(value, Tensor) else value for value in args)
    named = {name: value.clone() if isinstance(value, Tensor) else value for name, value in kwargs.items()}
    return positional, named


def _residual(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Return the module's argument `residual`, which it adds to its own update."""
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    value = {**dict(zip(names, args, strict=False)), **kwargs}.get("residual")
    return value if isinstance(value, Tensor) else None


def _unusable(reference: _Seen, converted: _Seen) -> str:
    """Return why two observations cannot be compared; empty if they can."""
    if reference.calls != 1 or converted.calls != 1:
        return f"a pass calls it {reference.calls} times, converted {converted.calls} times; 1 is needed"
    if reference.output.shape != converted.output.shape:
        return f"its output is {list(reference.output.shape)}, converted {list(converted.output.shape)}"
    return ""


def _figures(
    reference: Tensor, converted: Tensor, residual: Tensor | None, state: Tensor
) -> SublayerError | str:
    """Return the figures of one sublayer from its outputs, or why there are none. Computed in fp64 on the
    CPU."""
    tokens = state.shape[-2]
    before, after, start = (_rows(value, tokens) for value in (reference, converted, state))
    update = before if residual is None else before - _rows(residual, tokens)
    error = after - before
    if not (torch.isfinite(update).all() and torch.isfinite(error).all()):
        return "its output is NaN or infinite"
    energy = update.square().sum(-1)
    if not (energy > 0).all():
        return f"its update is zero at {int((energy == 0).sum())} of {tokens} tokens"
    gain = (error * update).sum(-1) / energy
    norm = (error.square().sum(-1) / energy).sqrt()
    size = (energy / start.square().sum(-1)).sqrt()
    return SublayerError(
        gain=_quantile(gain, 0.5),
        gain_99=_quantile(gain.abs(), 0.99),
        norm=_quantile(norm, 0.5),
        norm_99=_quantile(norm, 0.99),
        size=_quantile(size, 0.5),
        sketch=_sketch(error),
    )


def _rows(value: Tensor, tokens: int) -> Tensor:
    """Reshape [..., tokens, width] to [tokens, width] (Gemma 3n keeps several streams before the tokens)."""
    return value.detach().to("cpu", torch.float64).movedim(-2, 0).reshape(tokens, -1)


def _quantile(values: Tensor, share: float) -> float:
    return float(torch.quantile(values, share))


def _sketch(error: Tensor) -> tuple[int, ...]:
    """Return signed sums of the error [tokens, width], each token scaled to length 1, in `SKETCH_UNIT`; empty
    if the error is exactly zero. The root mean square of the sums is 1.

    Tokens are scaled because the norm is a figure of its own, and otherwise one token would decide.
    """
    length = error.square().sum(-1, keepdim=True).sqrt()
    if not length.any():
        return ()
    tokens, width = error.shape
    directions = torch.where(length > 0, error / length, 0.0) / int((length > 0).sum()) ** 0.5
    table = signs(tokens * width).view(tokens, width, PROJECTIONS)
    total = torch.zeros(PROJECTIONS, dtype=torch.float64)
    for token in range(tokens):  # one at a time: the signs take eight times as many bytes in fp64
        total += directions[token] @ table[token].double()
    return tuple(round(value / SKETCH_UNIT) for value in total.tolist())


@lru_cache(maxsize=2)
def signs(count: int) -> Tensor:
    """Return +1 and -1, int8 [count, 64]: the bits of SplitMix64's words (Steele, Lea and Flood 2014) at
    counters 1 to `count`. Made by integers alone, they are the same on every machine."""
    words = np.uint64(_SEED) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    words ^= words >> np.uint64(31)
    bits = np.unpackbits(words.astype("<u8").view(np.uint8).reshape(count, 8), axis=1, bitorder="little")
    return torch.from_numpy(1 - 2 * bits.astype(np.int8))
