"""The rules one by one: on layers made for them, and on library models outside the table of architectures."""

from collections import Counter
from typing import Any

import pytest
import torch
from architectures import full_on_meta
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    JetMoeConfig,
    Lfm2MoeConfig,
    Llama4TextConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen3_5MoeTextConfig,
)
from transformers.pytorch_utils import Conv1D

from mxcheck.models.conversion.classify import classify, reduction_axis, weight_parameters

TINY = {
    "vocab_size": 64,
    "pad_token_id": 2,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
QKVO = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"


def on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def in_layer(model: nn.Module, index: int) -> dict[str, str]:
    """Role by the path below that layer."""
    start = f"model.layers.{index}."
    return {
        name.removeprefix(start): role for name, role in classify(model).items() if name.startswith(start)
    }


def roles(**paths: str) -> dict[str, str]:
    return {path: role for role, listed in paths.items() for path in listed.split()}


def one_layer(layer: nn.Module, **counts: int) -> nn.Module:
    """A model of that layer alone, with a configuration of those counts."""
    model = nn.ModuleDict({"layers": nn.ModuleList([layer])})
    model.config = PreTrainedConfig(**counts)
    return model


def test_linear_subclasses_count_as_linears() -> None:
    model = full_on_meta("falcon-7b")
    classes = {type(model.get_submodule(name)) for name, role in classify(model).items() if role == "mlp"}

    assert all(issubclass(cls, nn.Linear) and cls is not nn.Linear for cls in classes)


def test_projections_outside_the_layers_are_other() -> None:
    found = classify(on_meta(OPTConfig(**TINY, ffn_dim=48, word_embed_proj_dim=16)))

    assert found["model.decoder.project_in"] == found["model.decoder.project_out"] == "other"
    assert Counter(found.values()) == Counter(attention=8, mlp=4, lm_head=1, other=2)


class UnknownLayer(nn.Module):
    """A layer whose class and paths say nothing of what its linears are for."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Linear(8, 8)
        self.adapter = nn.Sequential(nn.Linear(8, 8), Conv1D(8, 8))
        self.gate = nn.Linear(8, 4)
        self.fc1 = nn.Linear(8, 8)


def test_what_no_rule_places_is_other_and_not_guessed() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([UnknownLayer()]), "mlp": nn.Linear(8, 8)})

    assert classify(model) == {
        "layers.0.mixing": "other",
        "layers.0.adapter.0": "other",
        "layers.0.adapter.1": "other",
        "layers.0.gate": "other",  # nothing says that there are as many experts as it has outputs
        "layers.0.fc1": "mlp",
        "mlp": "other",  # a word of the mlp's, but outside the layers
    }


class AttentionDecoderLayer(UnknownLayer): ...


class MoeMixerBlock(UnknownLayer): ...


@pytest.mark.parametrize("layer", [AttentionDecoderLayer, MoeMixerBlock])
def test_the_name_of_a_whole_layer_tells_nothing(layer: type[nn.Module]) -> None:
    assert classify(one_layer(layer()))["layers.0.mixing"] == "other"


class MoeStack(nn.ModuleDict): ...


def test_what_is_above_the_layer_tells_nothing() -> None:
    model = nn.ModuleDict({"decoder": MoeStack({"layers": nn.ModuleList([UnknownLayer()])})})

    assert classify(model)["decoder.layers.0.mixing"] == "other"


def test_a_list_may_hold_the_attentions_themselves() -> None:
    """XLM keeps a list of attentions and a list of feed-forward networks, and no layers."""
    model = nn.ModuleDict({"attentions": nn.ModuleList([nn.MultiheadAttention(8, 2)])})

    assert classify(model) == {"attentions.0.out_proj": "attention"}


def test_an_unknown_linear_in_a_known_layer_is_other(tiny_llama: PreTrainedModel) -> None:
    tiny_llama.model.layers[1].mixing = nn.Linear(8, 8)
    found = classify(tiny_llama)

    assert found.pop("model.layers.1.mixing") == "other"
    assert Counter(found.values()) == Counter(attention=8, mlp=6, lm_head=1)


class BankOfExperts(nn.Module):
    """Four experts [experts, out, in]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 8, 8))


def test_experts_are_mlp_unless_something_nearer_says_attention() -> None:
    layer = nn.ModuleDict({"bank": BankOfExperts(), "attn": nn.ModuleDict({"bank": BankOfExperts()})})

    assert classify(one_layer(layer)) == {"layers.0.bank": "mlp", "layers.0.attn.bank": "attention"}


def test_output_embedding_is_known_by_identity_not_by_name(tiny_llama: PreTrainedModel) -> None:
    tiny_llama.model.layers[0].mlp.lm_head = nn.Linear(8, 8)
    found = classify(tiny_llama)

    assert found["model.layers.0.mlp.lm_head"] == "mlp"
    assert found["lm_head"] == "lm_head"


def test_a_tied_output_embedding_is_the_head() -> None:
    model = full_on_meta("qwen1.5-0.5B")

    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert [name for name, role in classify(model).items() if role == "lm_head"] == ["lm_head"]


def test_deepseek_v3_has_latent_queries_and_shared_experts() -> None:
    latent = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16}
    groups = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
    model = on_meta(DeepseekV3Config(**TINY, **EXPERTS, **latent, **groups, v_head_dim=16))
    attention = (
        "self_attn.q_a_proj self_attn.q_b_proj self_attn.kv_a_proj_with_mqa self_attn.kv_b_proj "
        "self_attn.o_proj"
    )
    shared = "mlp.shared_experts.gate_proj mlp.shared_experts.up_proj mlp.shared_experts.down_proj"

    assert in_layer(model, 0) == roles(attention=attention, mlp="mlp.gate_proj mlp.up_proj mlp.down_proj")
    assert in_layer(model, 1) == roles(attention=attention, mlp=f"mlp.experts {shared}", router="mlp.gate")


def test_qwen2_moe_gates_its_shared_expert() -> None:
    model = on_meta(Qwen2MoeConfig(**TINY, **EXPERTS, num_experts=4, shared_expert_intermediate_size=16))
    shared = "mlp.shared_expert.gate_proj mlp.shared_expert.up_proj mlp.shared_expert.down_proj"

    assert model.model.layers[0].mlp.shared_expert_gate.out_features == 1
    assert in_layer(model, 1) == roles(
        attention=QKVO, mlp=f"mlp.experts {shared}", router="mlp.gate mlp.shared_expert_gate"
    )


@pytest.mark.parametrize(
    ("config", "arguments", "path", "role"),
    [
        # neither is an mlp, though every class of the model has "Moe" in its name
        pytest.param(
            Qwen3_5MoeTextConfig,
            {**EXPERTS, "num_experts": 4, "layer_types": ["linear_attention", "full_attention"]},
            "linear_attn.out_proj",
            "attention",
            id="qwen3.5-moe",
        ),
        pytest.param(
            Lfm2MoeConfig,
            {**EXPERTS, "num_experts": 4, "layer_types": ["conv", "full_attention"]},
            "conv.in_proj",
            "other",
            id="lfm2-moe",
        ),
        pytest.param(
            JetMoeConfig,
            {"num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 16},
            "self_attention.experts.input_linear",
            "attention",
            id="jetmoe",
        ),
    ],
)
def test_a_models_own_name_tells_nothing(
    config: Any, arguments: dict[str, Any], path: str, role: str
) -> None:
    assert in_layer(on_meta(config(**(TINY | arguments))), 0)[path] == role


def test_weights_and_axes_of_plain_modules() -> None:
    for module in (nn.Linear(8, 4), Conv1D(4, 8)):
        assert weight_parameters(module) == ["weight"]
    assert reduction_axis(nn.Linear(8, 4)) == -1
    assert reduction_axis(Conv1D(4, 8)) == -2


def test_experts_that_do_not_tell_their_layout_are_refused() -> None:
    """Llama 4 stores them transposed and has no attribute to say so: -1 would quantize the wrong axis."""
    model = on_meta(Llama4TextConfig(**TINY, intermediate_size_mlp=48, num_local_experts=4))
    experts = model.get_submodule("model.layers.0.feed_forward.experts")

    assert classify(model)["model.layers.0.feed_forward.experts"] == "mlp"
    assert weight_parameters(experts) == ["gate_up_proj", "down_proj"]
    with pytest.raises(ValueError, match=r"^Llama4TextExperts does not tell how it stores its experts"):
        reduction_axis(experts)
