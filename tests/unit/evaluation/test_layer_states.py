from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matrix_products import some_tokens
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from mxcheck.evaluation.layer_states import (
    TOKENS,
    LayerStates,
    check_states,
    load_states,
    reference_states,
    save_states,
    started_from,
)
from mxcheck.files.write import WriteError

FILE = "states.safetensors"
WEIGHTS = "a" * 64


@pytest.fixture
def states(tiny_llama: LlamaForCausalLM) -> LayerStates:
    return reference_states(tiny_llama, torch.arange(64).reshape(2, 32))


@pytest.fixture
def stored(states: LayerStates, tmp_path: Path) -> Path:
    save_states(states, tmp_path / "model" / FILE, weights=WEIGHTS)
    return tmp_path / "model" / FILE


def test_are_what_enters_each_layer_rounded_to_bfloat16(
    tiny_llama: LlamaForCausalLM, states: LayerStates
) -> None:
    tokens = torch.arange(32).reshape(1, 32)
    with torch.no_grad():
        entering = tiny_llama(input_ids=tokens, use_cache=False, output_hidden_states=True).hidden_states

    assert torch.equal(states.tokens, tokens)
    assert list(states.layers) == ["model.layers.0", "model.layers.1"]
    for expected, found in zip(entering, states.layers.values(), strict=False):
        assert found.dtype == torch.bfloat16
        assert torch.equal(found, expected.bfloat16())


def test_are_a_copy(tiny_llama: LlamaForCausalLM) -> None:
    tokens = torch.arange(32).reshape(1, 32)
    states = reference_states(tiny_llama, tokens)
    before = states.digest
    tokens.zero_()
    assert states.digest == before


def test_only_the_first_tokens_of_the_first_sequence_are_read(tiny_llama: LlamaForCausalLM) -> None:
    tokens = torch.randint(96, (3, TOKENS + 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(reference_states(tiny_llama, tokens).tokens, tokens[:1, :TOKENS])
    assert reference_states(tiny_llama, tokens[:, :8]).tokens.shape == (1, 8)


def test_round_trip(states: LayerStates, stored: Path) -> None:
    found = load_states(stored, weights=WEIGHTS)
    assert found.digest == states.digest
    assert torch.equal(found.tokens, states.tokens)
    assert all(torch.equal(found.layers[name], states.layers[name]) for name in states.layers)
    assert [path.name for path in stored.parent.iterdir()] == [FILE]


def test_the_digest_sees_one_bit_and_another_token(states: LayerStates) -> None:
    changed = {name: value.clone() for name, value in states.layers.items()}
    changed["model.layers.1"].view(torch.int16)[0, 5, 3] ^= 1
    assert replace(states, layers=changed).digest != states.digest
    assert replace(states, tokens=states.tokens + 1).digest != states.digest


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(bytes(data))


def _other_version(path: Path) -> None:
    save_file(load_file(path), path, metadata={"format_version": "0"})


def _without_tokens(path: Path) -> None:
    tensors = load_file(path)
    del tensors["tokens"]
    save_file(tensors, path, metadata={"format_version": "1"})


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_as_folder, "no file; restore it"),
        (_truncate, "not a readable safetensors file"),
        (_flip, "damaged: its contents have the digest"),
        (_other_version, "format version '0', this mxcheck reads '1'"),
        (_without_tokens, "must hold tokens"),
        (Path.unlink, "no such file of reference states"),
    ],
)
def test_a_spoilt_file_is_refused_by_name(spoil: Callable[[Path], None], message: str, stored: Path) -> None:
    spoil(stored)
    with pytest.raises(ValueError, match=message) as caught:
        load_states(stored, weights=WEIGHTS)
    assert str(stored) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.index_fill(1, torch.tensor(3), math.nan),
            r"finite bfloat16.*, 64 of it not finite",
        ),
        (lambda state: state.float(), r"finite bfloat16 \[1, 32, hidden\], got float32 \[1, 32, 64\]"),
        (lambda state: state[:, :5], r"finite bfloat16 \[1, 32, hidden\], got bfloat16 \[1, 5, 64\]"),
    ],
)
def test_states_that_no_model_has_are_refused(
    change: Callable[[Tensor], Tensor], message: str, states: LayerStates, stored: Path
) -> None:
    layers = {**states.layers, "model.layers.1": change(states.layers["model.layers.1"]).contiguous()}
    save_states(replace(states, layers=layers), stored, weights=WEIGHTS)
    with pytest.raises(ValueError, match=f"the state of model.layers.1 must be {message}"):
        load_states(stored, weights=WEIGHTS)


def test_states_of_some_layers_or_of_other_tokens_are_refused(
    tiny_llama: LlamaForCausalLM, states: LayerStates, stored: Path
) -> None:
    check_states(states, tiny_llama, stored)
    first, second = states.layers.items()
    vocabulary = tiny_llama.config.vocab_size
    for spoilt, message in (
        (replace(states, layers=dict([first])), "holds no state of model.layers.1"),
        (
            replace(states, layers=dict([first, second, ("model.layers.7", second[1])])),
            "a state of model.layers.7",
        ),
        (replace(states, tokens=states.tokens.clamp(min=vocabulary)), f"a token beyond the {vocabulary}"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            check_states(spoilt, tiny_llama, stored)
        assert str(stored) in str(caught.value)


def test_states_of_other_weights_are_refused(stored: Path) -> None:
    with pytest.raises(ValueError, match="come from weights aaaaaaaaaaaaaaaa…, the model has bbbb"):
        load_states(stored, weights="b" * 64)


def test_a_write_that_fails_leaves_the_old_file(
    states: LayerStates, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stored.read_bytes()

    def full(_handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="no space"):
        save_states(replace(states, tokens=states.tokens + 1), stored, weights=WEIGHTS)
    assert stored.read_bytes() == before
    assert [path.name for path in stored.parent.iterdir()] == [FILE]


def _entering(model: nn.Module, name: str, states: LayerStates) -> list[Tensor]:
    seen: list[Tensor] = []
    layer = model.get_submodule(name)
    with started_from(model, states), torch.no_grad():
        handle = layer.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        model(input_ids=states.tokens, use_cache=False)
        handle.remove()
    return seen


def test_layers_start_from_them_whatever_came_before(
    tiny_llama: LlamaForCausalLM, states: LayerStates
) -> None:
    tiny_llama.model.layers[0].mlp.down_proj.weight.mul_(100)
    (found,) = _entering(tiny_llama, "model.layers.1", states)
    assert torch.equal(found, states.layers["model.layers.1"].float())
    assert not any(module._forward_pre_hooks for module in tiny_llama.modules())


def test_states_of_another_model_are_refused(tiny_llama: LlamaForCausalLM, states: LayerStates) -> None:
    for layers, message in (
        ({"model.layers.7": states.layers["model.layers.1"]}, "it has no layer model.layers.7"),
        ({"model.layers.0": states.layers["model.layers.0"][..., :32]}, r"takes \[1, 32, 64\], stored is"),
    ):
        with (
            pytest.raises(ValueError, match=message),
            started_from(tiny_llama, replace(states, layers=layers)),
            torch.no_grad(),
        ):
            tiny_llama(input_ids=states.tokens, use_cache=False)
        assert not any(module._forward_pre_hooks for module in tiny_llama.modules())


def test_a_reference_that_is_not_finite_is_refused(tiny_llama: LlamaForCausalLM) -> None:
    tiny_llama.model.layers[0].mlp.down_proj.weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"NaN or infinite, first at the input of model\.layers\.1"):
        reference_states(tiny_llama, some_tokens()[:, :32] % 96)


def test_a_model_without_decoder_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="Sequential has no decoder layers"):
        reference_states(nn.Sequential(nn.Linear(4, 4)), torch.zeros(1, 4, dtype=torch.int64))
