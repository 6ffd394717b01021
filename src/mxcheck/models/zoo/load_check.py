"""Verify a load from the files: the model took every tensor that they hold."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from mxcheck.models.zoo.kind_of_checkpoint import PLAIN_DTYPES
from mxcheck.models.zoo.refusal import UnfitError, listed
from mxcheck.models.zoo.weight_files import Stored

#: Constants that older versions of transformers stored with the weights, of one element each.
_FORMER_CONSTANTS = re.compile(r"\.attn\.(attention\.)?masked_bias$")
#: Causal masks that older versions stored.
_MASKS = (".attn.bias", ".attention.bias", ".causal_mask")
#: Tensors that are computed from the configuration, and that older versions stored.
_ROTARY = "rotary_emb.inv_freq"
_LAYER = re.compile(r"\.(?:layers|h|blocks|block)\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """The destination of a tensor of the files: `target` in the model; `merged`, the pattern of the tensors
    merged with it (as transformers 5 merges a layer's experts), or None."""

    stored: Stored
    target: str
    merged: str | None


def check_taken(model: PreTrainedModel, stored: Sequence[Stored], unexpected: Collection[str]) -> None:
    """Raise UnfitError for tensors of the files that the model did not take.

    `unexpected` are the names for which the loader found no place, without those that the architecture
    declares ignorable. Permitted are a copy of a buffer that the model computes itself, and a second copy of
    a tensor with equal bits, under another name or as its tied twin.

    The loader does not report that it takes the first of two names for one tensor; that it unties tensors
    that the configuration ties where both are present and differ; that it reads integers as numbers; and that
    it orders experts by their numbers, whatever these are.
    """
    places = _places(model, stored)
    check_no_places(model, [place.stored for place in places if place.target in unexpected])
    others = set(unexpected) - {place.target for place in places}
    assert not others, f"names that no tensor of the files has: {others}"
    state = model.state_dict()
    for place in places:
        value = state.get(place.target)
        if value is not None and value.is_floating_point() and place.stored.dtype not in PLAIN_DTYPES:
            raise UnfitError(
                f"tensor {place.stored.name} is stored as {place.stored.dtype}, integer codes without their "
                f"scale, where the model has numbers; give the original model"
            )
    _check_rotary(model, stored)
    by_target = defaultdict(list)
    for place in places:
        by_target[place.target].append(place)
    for target, found in by_target.items():
        _check_one(target, found)
    for target, other in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        _check_tied(by_target.get(target, []), by_target.get(other, []))


def check_no_places(model: PreTrainedModel, unplaced: Sequence[Stored]) -> None:
    """Refuse tensors without a place in the model, except copies of computed ones."""
    buffers = dict(model.named_buffers())
    lost = [one.name for one in unplaced if not _is_computed(one, buffers)]
    if lost:
        raise UnfitError(
            f"{len(lost)} tensors of the file have no place in the model: {listed(lost)}; {_why(model, lost)}"
        )


def _why(model: PreTrainedModel, lost: Sequence[str]) -> str:
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    beyond = [int(found[1]) for name in lost if (found := _LAYER.search(name))]
    if isinstance(layers, int) and len(beyond) == len(lost) and min(beyond) >= layers:
        return f"config.json says num_hidden_layers {layers}; give the configuration of these weights"
    if all(name.endswith("bias") for name in lost):
        return "config.json says that there are no such biases; give the configuration of these weights"
    return (
        "config.json is another model's, or the file holds more than this model; give what belongs together"
    )


def _is_computed(one: Stored, buffers: dict[str, torch.Tensor]) -> bool:
    """Return whether a tensor is a buffer that the model has or had: a causal mask, the stand-in for minus
    infinity."""
    if _FORMER_CONSTANTS.search(one.name) and all(size == 1 for size in one.shape):
        return True
    mask = one.name.endswith(_MASKS) and len(one.shape) == 4 and one.shape[-1] == one.shape[-2]
    same = [
        buffer
        for name, buffer in buffers.items()
        if f".{name}".endswith(f".{one.name}") and tuple(buffer.shape) == one.shape
    ]
    if not mask and not same:
        return False
    value = read_tensor(one)
    if mask and torch.equal(value.bool(), torch.ones(one.shape, dtype=torch.bool).tril()):
        return True
    return any(torch.equal(buffer.cpu().to(value.dtype), value) for buffer in same)


def _check_rotary(model: PreTrainedModel, stored: Iterable[Stored]) -> None:
    """Check rotary frequencies that older versions stored with the weights: where the model computes others
    from config.json, one of the two belongs to another model. 16-bit copies differ by less than a hundredth,
    or, where fp16 has few bits left, by less than 1e-6."""
    rope = getattr(model.config.get_text_config(), "rope_parameters", None)
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        return  # scaled frequencies were stored unscaled
    own = [value for name, value in model.named_buffers() if name.endswith(_ROTARY)]
    for one in stored:
        same = [value for value in own if tuple(value.shape) == one.shape]
        if not one.name.endswith(_ROTARY) or not same:
            continue
        value = read_tensor(one).float()
        if not any(torch.allclose(buffer.float().cpu(), value, rtol=0.02, atol=1e-6) for buffer in same):
            raise UnfitError(
                f"tensor {one.name} is not what config.json makes (rope_theta {rope.get('rope_theta')}): the "
                f"weights were trained with other rotary frequencies; give the configuration of these weights"
            )


def _places(model: PreTrainedModel, stored: Iterable[Stored]) -> list[_Place]:
    """Map names as transformers' loader does, in its order: each of its renamings, then at most one merge."""
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    prefix, state = model.base_model_prefix, model.state_dict()
    places = []
    for one in sorted(stored, key=lambda one: dot_natural_key(one.name)):
        target, pattern = rename_source_key(one.name, renamings, converters, prefix, state)
        if target not in state and one.name in state:
            target, pattern = rename_source_key(one.name, [], [], prefix, state)
        places.append(_Place(stored=one, target=target, merged=pattern))
    return places


def _check_one(target: str, found: list[_Place]) -> None:
    """Check one tensor of the model, which comes from one stored tensor or from several that are merged."""
    direct = [place.stored for place in found if place.merged is None]
    if direct and len(direct) < len(found):
        raise UnfitError(
            f"{target} stands in the file whole ({direct[0].name}) and in parts "
            f"({next(place.stored.name for place in found if place.merged)}); keep one of them"
        )
    _check_equal(direct, f"are one tensor of the model, {target}, and differ; keep the right one")
    for pattern in {place.merged for place in found} - {None}:
        names = {place.stored.name for place in found if place.merged == pattern}
        numbers = [[int(part) for part in re.findall(r"\d+", name)] for name in names]
        if len({len(row) for row in numbers}) != 1:
            continue  # different names of one pattern without distinguishing numbers
        counted = [sorted(column) for column in zip(*numbers, strict=True) if len(set(column)) > 1]
        for column in counted:
            if len(column) == len(names) and column != list(range(len(names))):
                raise UnfitError(
                    f"{len(names)} parts of {target} are not numbered from 0 on: {listed(names)}; "
                    f"some are missing, and the others would take their places"
                )


def _check_tied(one: list[_Place], other: list[_Place]) -> None:
    pair = [place.stored for place in (*one[:1], *other[:1])]
    if len(pair) == 2:
        _check_equal(
            pair,
            "are tied by config.json and differ; say tie_word_embeddings false there if both are meant, or "
            "take the wrong one away",
        )


def check_equal_where_twice(stored: Iterable[Stored]) -> None:
    """Raise UnfitError for a tensor stored in two files with different values: the loader's order would
    decide."""
    copies = defaultdict(list)
    for one in stored:
        copies[one.name].append(one)
    for name, found in copies.items():
        for other in found[1:]:
            if not _equal(found[0], other):
                raise UnfitError(
                    f"tensor {name} stands in {found[0].file.name} and in {other.file.name} with different "
                    f"values; keep the right one"
                )


def _check_equal(copies: Sequence[Stored], what: str) -> None:
    for other in copies[1:]:
        if other.name != copies[0].name and not _equal(copies[0], other):
            raise UnfitError(f"{copies[0].name} and {other.name} {what}")


def _equal(one: Stored, other: Stored) -> bool:
    """Compare bit by bit; in different dtypes, by value."""
    if one.shape != other.shape:
        return False
    a, b = read_tensor(one), read_tensor(other)
    if a.dtype != b.dtype:
        return torch.equal(a.to(torch.float64), b.to(torch.float64))
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def read_tensor(one: Stored) -> torch.Tensor:
    """Read the values of a stored tensor."""
    with safe_open(one.file, framework="pt") as tensors:
        value: torch.Tensor = tensors.get_tensor(one.name)
    return value
