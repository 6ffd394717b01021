"""The zoo's cards: against the published configurations, and the arithmetic of memory and devices."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPTNeoConfig,
    LlamaConfig,
    MixtralConfig,
    MptConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
)

from mxcheck.models.zoo.cards import CARDS, DEVICE_BYTES, GIB, ITEM_BYTES, ModelCard, read_cards


def dense(hidden: int, inner: int, layers: int, heads: int, keys: int, vocabulary: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
    }


#: The shapes of the configurations that the hub's repositories publish.
CONFIGURATIONS: dict[str, tuple[Callable[..., PreTrainedConfig], dict[str, Any]]] = {
    "tinystories-33M": (
        GPTNeoConfig,
        {
            "hidden_size": 768,
            "num_layers": 4,
            "num_heads": 16,
            "attention_types": [[["global", "local"], 2]],
            "vocab_size": 50257,
        },
    ),
    "smollm2-135m-instruct": (
        LlamaConfig,
        {**dense(576, 1536, 30, 9, 3, 49152), "tie_word_embeddings": True},
    ),
    "qwen1.5-0.5B": (
        Qwen2Config,
        {**dense(1024, 2816, 24, 16, 16, 151936), "tie_word_embeddings": True},
    ),
    "phi-1_5": (PhiConfig, dense(2048, 8192, 24, 32, 32, 51200)),
    "llama-3.1-8b": (LlamaConfig, dense(4096, 14336, 32, 32, 8, 128256)),
    "qwen2.5-7b": (Qwen2Config, dense(3584, 18944, 28, 28, 4, 152064)),
    "qwen2.5-14b": (Qwen2Config, dense(5120, 13824, 48, 40, 8, 152064)),
    "phi-3-medium-14b": (Phi3Config, {**dense(5120, 17920, 40, 40, 10, 32064), "pad_token_id": 0}),
    "mixtral-8x7b": (
        MixtralConfig,
        {**dense(4096, 14336, 32, 32, 8, 32000), "num_local_experts": 8, "num_experts_per_tok": 2},
    ),
    "mpt-30b": (MptConfig, {"d_model": 7168, "n_heads": 64, "n_layers": 48, "vocab_size": 50432}),
    "yi-34b": (LlamaConfig, dense(7168, 20480, 60, 56, 8, 64000)),
    "deepseek-67b": (LlamaConfig, dense(8192, 22016, 95, 64, 8, 102400)),
}

CARD = """
["a-1b"]
hub_id = "org/a"
architecture = "LlamaForCausalLM"
dtype = "bfloat16"
parameters = 1_000_000_000
vocabulary = 50_000
attention_heads = 16
batch_size = 4
sequence_length = 1024
"""


def test_every_card_has_a_configuration_here() -> None:
    assert list(CARDS) == list(CONFIGURATIONS)
    assert len(CARDS) == 12


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_parameters_and_class_are_those_of_the_published_configuration(name: str) -> None:
    make, shape = CONFIGURATIONS[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(make(**shape))
    card = CARDS[name]

    assert card.architecture == type(model).__name__
    assert card.parameters == sum(value.numel() for value in model.parameters())
    assert card.vocabulary == model.config.vocab_size
    assert card.attention_heads == model.config.num_attention_heads


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_revisions_are_commits_or_main(name: str) -> None:
    assert re.fullmatch(r"main|[0-9a-f]{40}", CARDS[name].revision)


def test_what_must_be_asked_for_or_converted() -> None:
    assert {name for name, card in CARDS.items() if card.gated} == {"llama-3.1-8b"}
    assert {name for name, card in CARDS.items() if not card.safetensors} == {
        "tinystories-33M",
        "mpt-30b",
        "deepseek-67b",
    }


def test_memory_by_hand() -> None:
    card = read_cards(CARD)["a-1b"]

    assert card.weight_bytes() == 2_000_000_000
    assert card.weight_bytes("float32") == 4_000_000_000
    logits = 4 * 1024 * 50_000 * 2
    scores = 4 * 16 * 1024 * 1024 * (2 + 4 + 2)
    assert card.working_bytes() == logits + scores + 2 * GIB
    assert card.bytes_needed() == 2 * 2_000_000_000 + card.working_bytes()


@pytest.mark.parametrize(
    ("room", "devices"),
    [
        pytest.param(4_000_000_000, 1, id="just-one"),
        pytest.param(3_999_999_999, 2, id="just-not-one"),
        pytest.param(1_000_000_000, 4, id="four"),
    ],
)
def test_devices_hold_their_share_beside_the_working_bytes(room: int, devices: int) -> None:
    card = read_cards(CARD)["a-1b"]
    device = card.working_bytes() + room

    assert card.devices(device_bytes=device) == devices
    assert card.bytes_per_device(device_bytes=device) == card.working_bytes() + 4_000_000_000 // devices


def test_a_device_without_room_for_weights_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"a-1b needs 2\.9 GiB beside its weights, got a device of 1\.0 GiB"):
        read_cards(CARD)["a-1b"].devices(device_bytes=GIB)


@pytest.mark.parametrize("dtype", ITEM_BYTES)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_devices_of_80_gb_are_as_few_as_hold_the_model(name: str, dtype: str) -> None:
    card = CARDS[name]
    devices = card.devices(dtype)

    assert card.bytes_per_device(dtype) <= DEVICE_BYTES
    assert (
        devices == 1
        or 2 * card.weight_bytes(dtype) / (devices - 1) + card.working_bytes(dtype) > DEVICE_BYTES
    )


def test_devices_in_the_checkpoint_s_dtype() -> None:
    several = {name: card.devices() for name, card in CARDS.items() if card.devices() > 1}
    assert several == {"mixtral-8x7b": 3, "mpt-30b": 2, "yi-34b": 2, "deepseek-67b": 4}


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown dtype 'float23'; .* did you mean 'float32'"):
        CARDS["phi-1_5"].bytes_needed("float23")


def test_defaults() -> None:
    card = read_cards(CARD)["a-1b"]
    assert isinstance(card, ModelCard)
    assert (card.name, card.revision, card.gated, card.safetensors, card.notes) == (
        "a-1b",
        "main",
        False,
        True,
        "",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            ("hub_id", "hub_di"), "unknown key 'hub_di'; .* did you mean 'hub_id'", id="unknown-key"
        ),
        pytest.param(("hub_id", "name"), "unknown key 'name'", id="name"),
        pytest.param(('architecture = "LlamaForCausalLM"\n', ""), "architecture missing", id="missing"),
        pytest.param(("bfloat16", "bf16"), "unknown dtype 'bf16'", id="dtype"),
        pytest.param(("= 4\n", "= 0\n"), "batch_size must be a positive integer, got 0", id="zero"),
        pytest.param(("= 4\n", "= true\n"), "batch_size must be a positive integer, got True", id="bool"),
        pytest.param(("= 4\n", "= 4.0\n"), "batch_size must be a positive integer, got 4.0", id="float"),
        pytest.param(('"org/a"', "7"), "hub_id must be str, got 7", id="text"),
        pytest.param(("= 1024\n", '= 1024\ngated = "no"\n'), "gated must be bool, got 'no'", id="flag"),
        pytest.param(('["a-1b"]', "b = 1\n['a-1b']"), "'b': must be a table, got 1", id="no-table"),
    ],
)
def test_a_card_that_is_wrong_is_refused(change: tuple[str, str], words: str) -> None:
    assert change[0] in CARD
    with pytest.raises(ValueError, match=words) as caught:
        read_cards(CARD.replace(*change))
    assert "\n" not in str(caught.value)


def test_the_cards_are_read_when_they_are_looked_into_and_without_torch() -> None:
    code = """
import sys
from mxcheck.models.zoo import known_models
assert "_table" not in vars(known_models.CARDS)
known_models.model_source("phi-1_5")
assert "_table" in vars(known_models.CARDS)
print({"torch", "numpy", "transformers", "datasets"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
