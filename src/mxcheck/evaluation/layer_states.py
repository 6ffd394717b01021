"""Start states of each decoder layer: the reference's states for a few tokens, stored with the baselines.

Two machines that multiply differently reach slightly different inputs of layer 20, and a cast may turn these
into other codes. From stored states both start each layer with the same bits, so depth amplifies nothing.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mxcheck.evaluation.logits import vocabulary_of
from mxcheck.evaluation.tokens import fingerprint
from mxcheck.files.printed import RefusedFileError, got, one_line, some_of, told
from mxcheck.files.write import write_whole
from mxcheck.models.conversion.classify import classify
from mxcheck.models.zoo.load import tensor_bytes
from mxcheck.models.zoo.refusal import reading

__all__ = [
    "TOKENS",
    "LayerStates",
    "check_states",
    "decoder_layers",
    "load_states",
    "reference_states",
    "save_states",
]

#: Number of stored tokens: the first of the first sequence, so that they include the attention sink.
TOKENS = 32

_FORMAT_VERSION = "1"
_TOKENS_KEY = "tokens"
_LAYER = re.compile(r"^(.*?\.\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerStates:
    """Tokens, int64 [1, n], and the input of each decoder layer, bfloat16 [1, n, hidden], on the CPU."""

    tokens: Tensor
    layers: Mapping[str, Tensor]

    @property
    def digest(self) -> str:
        """SHA-256 of the tokens and of every state. Figures measured from states of another digest are not
        comparable."""
        total = hashlib.sha256(fingerprint(self.tokens).encode())
        for name in sorted(self.layers):
            value = self.layers[name]
            total.update(f"{name}:{value.dtype}:{tuple(value.shape)}:".encode())
            total.update(tensor_bytes(value))
        return total.hexdigest()


def decoder_layers(model: nn.Module) -> dict[str, dict[str, list[str]]]:
    """Return, for each decoder layer in the model's order, the names of its linear-like modules by role."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, role in classify(model).items():
        layer = _LAYER.match(name)
        if layer is not None:
            found.setdefault(layer[1], {}).setdefault(role, []).append(name)
    return found


def reference_states(model: nn.Module, tokens: Tensor) -> LayerStates:
    """Run the unconverted `model` over the first tokens of `tokens`, int64 [sequences, length], and return
    the inputs of all decoder layers, rounded to bfloat16.

    Raises ValueError if the model has no decoder layers, a layer takes no hidden states, or a state is not
    finite.
    """
    chosen = tokens[:1, :TOKENS].to("cpu", torch.int64, copy=True).contiguous()
    layers = {name: model.get_submodule(name) for name in decoder_layers(model)}
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no decoder layers with linear modules (`layers.0.…`): "
            f"there is nothing to store"
        )
    states: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states.setdefault(name, _snapped(hidden_states(module, args, kwargs)))

        return hook

    with torch.no_grad(), ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(keep(name), with_kwargs=True).remove)
        run(model, chosen)
    bad = [name for name, value in states.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(
            f"the reference's hidden states are NaN or infinite, first at the input of {bad[0]}; "
            f"a reference must be finite: load the model in a wider dtype"
        )
    return LayerStates(tokens=chosen, layers=states)


def _snapped(state: Tensor) -> Tensor:
    return state.detach().to("cpu", torch.bfloat16, copy=True).contiguous()


def run(model: nn.Module, tokens: Tensor) -> None:
    """Run one forward pass over tokens [sequences, n] on the model's device, for the hooks on it."""
    model(input_ids=tokens.to(next(model.parameters()).device), use_cache=False)


def hidden_states(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the hidden states that a decoder layer is called with: its first argument, or the one of that
    name."""
    value = args[0] if args else kwargs.get("hidden_states")
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{type(module).__name__} is called without hidden states, neither as its first argument nor by "
            f"the name hidden_states; got {', '.join(kwargs) or 'nothing'}"
        )
    return value


@contextmanager
def started_from(model: nn.Module, states: LayerStates) -> Iterator[None]:
    """Replace the input of every decoder layer with its stored state, in the dtype and on the device of the
    model's own, within the context.

    Raises ValueError if the states belong to other layers, or have another width.
    """
    names = decoder_layers(model).keys()
    other = sorted(states.layers.keys() - names)
    if other:
        raise ValueError(
            f"the stored states are those of another model: it has no layer {other[0]} "
            f"({len(other)} of {len(states.layers)} are unknown); accept the model's baselines anew"
        )

    def replace(stored: Tensor) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            natural = hidden_states(module, args, kwargs)
            if natural.shape != stored.shape:
                raise ValueError(
                    f"the stored states are those of another model: {type(module).__name__} takes "
                    f"{list(natural.shape)}, stored is {list(stored.shape)}; accept its baselines anew"
                )
            value = stored.to(natural.device, natural.dtype, copy=True)  # layers may add in place
            return ((value, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": value})

        return hook

    with ExitStack() as hooks:
        for name, stored in states.layers.items():
            layer = model.get_submodule(name)
            hooks.callback(layer.register_forward_pre_hook(replace(stored), with_kwargs=True).remove)
        yield


def save_states(states: LayerStates, path: Path, *, weights: str) -> None:
    """Write to `path` so that a reader sees the old file or the new one, never a part. `weights` is the
    fingerprint of the weights that gave the states."""
    data = save(
        {_TOKENS_KEY: states.tokens.to(torch.int32), **states.layers},
        metadata={
            "format_version": _FORMAT_VERSION,
            "weights": weights,
            "tokens": fingerprint(states.tokens),
            "digest": states.digest,
        },
    )
    write_whole(path, data)


class StatesError(RefusedFileError, ValueError):
    """Reference states that cannot be used. The message is one printable line and names the file."""


def load_states(path: Path, *, weights: str) -> LayerStates:
    """Read the file of `save_states` for the model whose weights have the fingerprint `weights`.

    Raises ValueError, in one line that names the file, if it is missing, damaged, of another version or from
    other weights, or if a state is not finite bfloat16 [1, tokens, hidden]. `check_states` checks whether
    they are those of every layer of a model.
    """
    mend = "restore it from version control, or delete it and accept the model's baselines anew"
    if not path.is_file():
        found = "no file" if path.exists() else "no such file of reference states"
        raise StatesError(f"{path}: {found}; {mend}")
    with (
        reading(
            lambda error: StatesError(f"{path}: not a readable safetensors file ({told(error)}); {mend}")
        ),
        tempfile.TemporaryDirectory(prefix="mxcheck-states-") as folder,
    ):
        # safetensors opens a file twice, for its header and for its tensors: if another process replaced it
        # meanwhile, the two would not match
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        with safe_open(copy, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    version = metadata.get("format_version")
    if version != _FORMAT_VERSION:
        raise StatesError(
            f"{path}: reference states have format version {got(version)}, this mxcheck reads "
            f"{_FORMAT_VERSION!r}; delete it and accept the model's baselines anew"
        )
    tokens = tensors.pop(_TOKENS_KEY, None)
    if tokens is None or not tensors:
        raise StatesError(
            f"{path}: must hold tokens and a state a layer, got {some_of(sorted(tensors))}; {mend}"
        )
    states = LayerStates(tokens=tokens.to(torch.int64), layers=tensors)
    if (found := states.digest) != metadata.get("digest"):
        raise StatesError(
            f"{path}: damaged: its contents have the digest {found[:16]}…, its header says "
            f"{metadata.get('digest', 'none')[:16]}…; {mend}"
        )
    if weights != metadata.get("weights"):
        raise StatesError(
            f"{path}: its states come from weights {metadata.get('weights', 'none')[:16]}…, the model has "
            f"{weights[:16]}…; give the accepted model, or delete the file and accept its baselines anew"
        )
    for layer, value in tensors.items():
        name, shape = one_line(layer, 120), list(value.shape)
        if (
            value.dtype != torch.bfloat16
            or shape[:-1] != list(tokens.shape)
            or not torch.isfinite(value).all()
        ):
            raise StatesError(
                f"{path}: the state of {name} must be finite bfloat16 [1, {tokens.shape[-1]}, hidden], got "
                f"{str(value.dtype).removeprefix('torch.')} {shape}, "
                f"{int(value.isfinite().logical_not().sum())} of it not finite; {mend}"
            )
    return states


def check_states(states: LayerStates, model: nn.Module, path: Path) -> None:
    """Raise ValueError, in one line that names the file at `path`, if its `states` are not those of every
    decoder layer of `model`, or its tokens are outside the model's vocabulary."""
    layers, stored, vocabulary = decoder_layers(model).keys(), states.layers.keys(), vocabulary_of(model)
    wrong = [
        *(f"no state of {name}" for name in sorted(layers - stored)[:1]),
        *(f"a state of {name}, which the model has not" for name in sorted(stored - layers)[:1]),
    ]
    if vocabulary and not 0 <= int(states.tokens.min()) <= int(states.tokens.max()) < vocabulary:
        wrong.append(f"a token beyond the {vocabulary} of the model")
    if wrong:
        raise StatesError(
            f"{path}: holds {' and '.join(wrong)}; restore it from version control, or delete it and accept "
            f"the model's baselines anew"
        )
