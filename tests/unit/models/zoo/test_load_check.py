"""Every tensor of the files is one that the model took: for every architecture, and what each may leave."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, tiny
from broken_checkpoints import Tensors, change_config, change_tensors
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
)

from mxcheck.models.zoo.load import load, weights_fingerprint

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)
#: Those that tie their embeddings.
TIED = (
    *("tinystories-33M", "qwen1.5-0.5B", "mpt-30b", "gpt2", "opt-125m", "gemma3-1b", "qwen3-0.6b"),
    *("falcon-7b", "bloom-560m"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


def tied_in_file(model: PreTrainedModel, folder: Path) -> dict[str, torch.Tensor]:
    """Tied tensors that the file has once, by the name that it lacks."""
    stored = load_file(folder / "model.safetensors")
    pairs = model.get_expanded_tied_weights_keys(all_submodels=True)
    return {target: stored[source].clone() for target, source in pairs.items() if target not in stored}


@every_architecture
def test_every_architecture_loads_as_it_was_saved(name: str, folder: Path) -> None:
    model = tiny(name)
    model.save_pretrained(folder)
    assert load(str(folder)).weights_fingerprint == weights_fingerprint(model)


@every_architecture
def test_one_tensor_more_is_refused_by_name(name: str, folder: Path) -> None:
    tiny(name).save_pretrained(folder)
    change_tensors(folder, lambda tensors: tensors.update({"model.layers.0.extra.weight": torch.ones(3)}))
    with pytest.raises(
        ValueError, match=r"1 tensors of the file have no place in the model: .*extra\.weight"
    ):
        load(str(folder))


@every_architecture
def test_these_architectures_tie_their_embeddings(name: str) -> None:
    assert bool(tiny(name).get_expanded_tied_weights_keys(all_submodels=True)) == (name in TIED)


@pytest.mark.parametrize("name", TIED)
def test_tied_duplicates_load_and_one_other_bit_is_refused(name: str, folder: Path) -> None:
    model = tiny(name)
    model.save_pretrained(folder)
    twins = tied_in_file(model, folder)
    assert twins
    change_tensors(folder, lambda tensors: tensors.update(twins))
    assert load(str(folder)).weights_fingerprint == weights_fingerprint(model)

    next(iter(twins.values())).view(torch.uint8)[0, 0] ^= 1
    change_tensors(folder, lambda tensors: tensors.update(twins))
    with pytest.raises(ValueError, match=r"are tied by config\.json and differ"):
        load(str(folder))


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_without_its_head_loads_if_the_head_is_tied(tied: bool, folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=tied,
    )  # fmt: skip
    LlamaModel(config).save_pretrained(folder)
    if tied:
        assert load(str(folder)).model.config.tie_word_embeddings
        return
    with pytest.raises(ValueError, match=r"1 missing tensors: lm_head\.weight; they would be initialised"):
        load(str(folder))


def mask(size: int) -> torch.Tensor:
    return torch.ones(size, size).tril().view(1, 1, size, size)


def neox() -> PreTrainedModel:
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
        )
    )


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=64))


OLD_BUFFERS = {
    "gpt2": (gpt2, {"transformer.h.0.attn.bias": mask(64), "h.1.attn.masked_bias": torch.tensor(-1e4)}),
    "gpt-neo": (
        lambda: tiny("tinystories-33M"),
        {
            "transformer.h.0.attn.attention.bias": mask(128).bool(),
            "transformer.h.0.attn.attention.masked_bias": torch.tensor(-1e9),
        },
    ),
    "gpt-neox": (
        neox,
        {
            "gpt_neox.layers.0.attention.bias": mask(64).to(torch.uint8),
            "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
            "gpt_neox.layers.0.attention.rotary_emb.inv_freq": 10_000.0 ** -torch.tensor([0, 0.5]),
        },
    ),
    "gemma": (lambda: tiny("gemma3-1b"), {"model.embed_tokens.embed_scale": torch.tensor(8.0)}),
}


@pytest.mark.parametrize("name", OLD_BUFFERS)
def test_buffers_that_older_versions_stored_are_no_weights(name: str, folder: Path) -> None:
    make, buffers = OLD_BUFFERS[name]
    model = make()
    model.save_pretrained(folder)
    change_tensors(folder, lambda tensors: tensors.update(buffers))
    assert load(str(folder)).weights_fingerprint == weights_fingerprint(model)


def test_a_stored_buffer_that_the_model_computes_otherwise_is_refused(folder: Path) -> None:
    tiny("gemma3-1b").save_pretrained(folder)
    scale = {"model.embed_tokens.embed_scale": torch.tensor(7.0)}
    change_tensors(folder, lambda tensors: tensors.update(scale))
    with pytest.raises(ValueError, match=r"no place in the model: model\.embed_tokens\.embed_scale"):
        load(str(folder))


def experts(tensors: Tensors, number: int) -> list[str]:
    return [name for name in tensors if f".experts.{number}." in name and ".layers.1." in name]


def test_an_expert_under_another_number_is_not_put_in_the_place_of_one_that_is_missing(folder: Path) -> None:
    tiny("qwen3-moe-30b-a3b").save_pretrained(folder)

    def renumber(tensors: Tensors) -> None:
        for name in experts(tensors, 2):
            tensors[name.replace(".experts.2.", ".experts.7.")] = tensors.pop(name)

    change_tensors(folder, renumber)
    with pytest.raises(
        ValueError, match=r"4 parts of model\.layers\.1\.mlp\.experts.* are not numbered from 0"
    ):
        load(str(folder))


def test_a_missing_expert_is_refused(folder: Path) -> None:
    tiny("mixtral-8x7b").save_pretrained(folder)
    change_tensors(folder, lambda tensors: [tensors.pop(name) for name in experts(tensors, 3)])
    with pytest.raises(ValueError, match=r"mismatched tensors: model\.layers\.1\.mlp\.experts"):
        load(str(folder))


def test_an_expert_more_is_refused(folder: Path) -> None:
    tiny("mixtral-8x7b").save_pretrained(folder)

    def add(tensors: Tensors) -> None:
        for name in experts(tensors, 3):
            tensors[name.replace(".experts.3.", ".experts.4.")] = tensors[name].clone()

    change_tensors(folder, add)
    with pytest.raises(ValueError, match=r"mismatched tensors: model\.layers\.1\.mlp\.experts"):
        load(str(folder))


def test_experts_both_merged_and_apart_are_refused(folder: Path) -> None:
    model = tiny("mixtral-8x7b")
    model.save_pretrained(folder)
    merged = {
        name: value.clone()
        for name, value in model.state_dict().items()
        if name.endswith("experts.down_proj")
    }
    assert len(merged) == 2
    change_tensors(folder, lambda tensors: tensors.update(merged))
    with pytest.raises(ValueError, match=r"stands in the file whole .* and in parts|cannot be loaded"):
        load(str(folder))


def test_integers_among_experts_are_no_numbers(folder: Path) -> None:
    tiny("mixtral-8x7b").save_pretrained(folder)

    def codes(tensors: Tensors) -> None:
        for name in experts(tensors, 3):
            tensors[name] = (tensors[name] * 9).to(torch.int8)

    change_tensors(folder, codes)
    with pytest.raises(ValueError, match="is stored as I8, codes and not weights"):
        load(str(folder))


def test_an_expert_of_another_shape_is_told_by_what_could_not_be_merged(folder: Path) -> None:
    tiny("mixtral-8x7b").save_pretrained(folder)

    def widen(tensors: Tensors) -> None:
        name = experts(tensors, 3)[0]
        tensors[name] = torch.cat([tensors[name], tensors[name]])

    change_tensors(folder, widen)
    with pytest.raises(
        ValueError, match=r"tensors that cannot be merged: MergeModulelist on tensors destined"
    ):
        load(str(folder))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("mixtral-8x7b", "num_local_experts", 10**6), ("tinystories-33M", "max_position_embeddings", 100_000)],
    ids=["experts", "masks"],
)
def test_a_configuration_that_asks_for_gigabytes_is_refused_before_they_are_allocated(
    name: str, key: str, value: int, folder: Path
) -> None:
    """A million experts of a tiny model, and a causal mask of 100,000 positions for each layer."""
    tiny(name).save_pretrained(folder)
    change_config(folder, **{key: value})
    with pytest.raises(
        ValueError, match=r"config\.json describes a model of .* parameters, and the files hold"
    ):
        load(str(folder))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_copies_of_slow_rotary_frequencies_are_the_model_s(dtype: torch.dtype, folder: Path) -> None:
    """The slowest is 2.5e-7, where a step of fp16 is 23 % of it."""
    config = LlamaConfig(
        hidden_size=128, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, vocab_size=64,
        rope_parameters={"rope_type": "default", "rope_theta": 5e6},
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    copy = {"model.layers.0.self_attn.rotary_emb.inv_freq": model.model.rotary_emb.inv_freq.to(dtype)}
    change_tensors(folder, lambda tensors: tensors.update(copy))
    assert load(str(folder)).weights_fingerprint == weights_fingerprint(model)
