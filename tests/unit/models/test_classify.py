from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    DeepseekV3Config,
    FalconConfig,
    Gemma3TextConfig,
    GPTNeoConfig,
    LlamaConfig,
    MixtralConfig,
    MptConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from mxcheck.models.classify import classify, expert_parameters
from mxcheck.models.recipe import TIERS
from mxcheck.models.zoo import model_source

TOKENS = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **TOKENS}
LLAMA_LIKE = {**SHAPE, "intermediate_size": 48, "num_key_value_heads": 2}
DEEPSEEK = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "first_k_dense_replace": 1,
}
QWEN3_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "mlp_only_layers": [0]}
QWEN2_MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
NEO = {"hidden_size": 32, "num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 2}

QKVO = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"
GATED = "mlp.gate_proj mlp.up_proj mlp.down_proj"
# DeepSeek-V3: layer 0 is dense, layer 1 has routed and shared experts
LATENT = (
    "self_attn.q_a_proj self_attn.q_b_proj self_attn.kv_a_proj_with_mqa self_attn.kv_b_proj self_attn.o_proj"
)
SHARED = "mlp.shared_experts.gate_proj mlp.shared_experts.up_proj mlp.shared_experts.down_proj"
QKV_DENSE = "self_attention.query_key_value self_attention.dense"
DENSE_4H = "mlp.dense_h_to_4h mlp.dense_4h_to_h"

# configuration, path of the layer list, then what layer 0 and layer 1 hold: (attention, mlp)
ARCHITECTURES: dict[
    str, tuple[Callable[..., PreTrainedConfig], dict[str, Any], str, list[tuple[str, str]]]
] = {
    "llama": (LlamaConfig, LLAMA_LIKE, "model.layers", [(QKVO, GATED)] * 2),
    "qwen2": (Qwen2Config, LLAMA_LIKE, "model.layers", [(QKVO, GATED)] * 2),
    "gemma3": (Gemma3TextConfig, {**LLAMA_LIKE, "head_dim": 16}, "model.layers", [(QKVO, GATED)] * 2),
    "mixtral": (
        MixtralConfig,
        {**LLAMA_LIKE, "num_local_experts": 4},
        "model.layers",
        [(QKVO, "mlp.experts")] * 2,
    ),
    "qwen3-moe": (
        Qwen3MoeConfig,
        {**LLAMA_LIKE, **QWEN3_MOE},
        "model.layers",
        [(QKVO, GATED), (QKVO, "mlp.experts")],
    ),
    "deepseek-v3": (
        DeepseekV3Config,
        {**LLAMA_LIKE, **DEEPSEEK},
        "model.layers",
        [(LATENT, GATED), (LATENT, f"mlp.experts {SHARED}")],
    ),
    "gpt-neo": (
        GPTNeoConfig,
        {**NEO, **TOKENS},
        "transformer.h",
        [
            (
                "attn.attention.q_proj attn.attention.k_proj attn.attention.v_proj attn.attention.out_proj",
                "mlp.c_fc mlp.c_proj",
            )
        ]
        * 2,
    ),
    "phi": (
        PhiConfig,
        {**SHAPE, "intermediate_size": 48},
        "model.layers",
        [("self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.dense", "mlp.fc1 mlp.fc2")] * 2,
    ),
    "phi-3": (
        Phi3Config,
        LLAMA_LIKE,
        "model.layers",
        [("self_attn.qkv_proj self_attn.o_proj", "mlp.gate_up_proj mlp.down_proj")] * 2,
    ),
    "opt": (
        OPTConfig,
        {**SHAPE, "ffn_dim": 48, "word_embed_proj_dim": 32},
        "model.decoder.layers",
        [("self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.out_proj", "fc1 fc2")] * 2,
    ),
    "mpt": (
        MptConfig,
        {"d_model": 32, "n_heads": 2, "n_layers": 2, **TOKENS},
        "transformer.blocks",
        [("attn.Wqkv attn.out_proj", "ffn.up_proj ffn.down_proj")] * 2,
    ),
    "falcon": (FalconConfig, SHAPE, "transformer.h", [(QKV_DENSE, DENSE_4H)] * 2),
    "bloom": (
        BloomConfig,
        {"hidden_size": 32, "n_layer": 2, "n_head": 2, **TOKENS},
        "transformer.h",
        [(QKV_DENSE, DENSE_4H)] * 2,
    ),
}


def on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    """The model without storage: classification may look at no weight."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_module_gets_its_role(architecture: str) -> None:
    make, arguments, layer_list, layers = ARCHITECTURES[architecture]
    expected = {"lm_head": "lm_head"}
    for index, (attention, mlp) in enumerate(layers):
        for role, leaves in (("attention", attention), ("mlp", mlp)):
            expected |= {f"{layer_list}.{index}.{leaf}": role for leaf in leaves.split()}

    assert classify(on_meta(make(**arguments))) == expected


def test_linear_subclasses_count_as_linears() -> None:
    make, arguments, *_ = ARCHITECTURES["falcon"]
    model = on_meta(make(**arguments))
    classes = {type(model.get_submodule(name)) for name, role in classify(model).items() if role == "mlp"}

    assert all(issubclass(cls, nn.Linear) and cls is not nn.Linear for cls in classes)


def test_projections_outside_the_layers_are_other() -> None:
    roles = classify(on_meta(OPTConfig(**SHAPE, ffn_dim=48, word_embed_proj_dim=16)))

    assert roles["model.decoder.project_in"] == roles["model.decoder.project_out"] == "other"
    assert Counter(roles.values()) == {"attention": 8, "mlp": 4, "lm_head": 1, "other": 2}


class UnknownLayer(nn.Module):
    """A layer whose class and paths say nothing of what its linears are for."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Linear(8, 8)
        self.adapter = nn.Sequential(nn.Linear(8, 8))
        self.gate = nn.Linear(8, 4)
        self.fc1 = nn.Linear(8, 8)


def test_what_no_rule_places_is_other_and_not_guessed() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([UnknownLayer()]), "mlp": nn.Linear(8, 8)})

    assert classify(model) == {
        "layers.0.mixing": "other",
        "layers.0.adapter.0": "other",
        "layers.0.gate": "other",  # nothing says that there are as many experts as it has outputs
        "layers.0.fc1": "mlp",
        "mlp": "other",  # a word of the mlp's, but outside the layers
    }


class Config:
    """The one thing that classification reads of a configuration."""

    def __init__(self, **counts: int) -> None:
        self.__dict__.update(counts)


@pytest.mark.parametrize("leaf", ["gate", "router", "shared_expert_gate"])
@pytest.mark.parametrize(
    ("width", "config", "role"),
    [
        pytest.param(1, Config(), "router", id="one-shared-expert"),
        pytest.param(1, Config(num_experts=4), "router", id="shared-beside-many"),
        pytest.param(
            1,
            Config(num_experts=4, num_local_experts=4, n_routed_experts=4),
            "router",
            id="shared-beside-every-count",
        ),
        pytest.param(4, Config(num_experts=4), "router", id="num_experts"),
        pytest.param(4, Config(num_local_experts=4), "router", id="num_local_experts"),
        pytest.param(4, Config(n_routed_experts=4), "router", id="n_routed_experts"),
        pytest.param(4, Config(num_experts=8), "mlp", id="another-number"),
        pytest.param(4, Config(), "mlp", id="no-number"),
        pytest.param(4, None, "mlp", id="no-config"),
    ],
)
def test_a_gate_is_a_router_only_if_it_scores_experts(
    leaf: str, width: int, config: Config | None, role: str
) -> None:
    """A gated MLP may call a projection `gate` too, and that one is quantized."""
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"ffn": nn.ModuleDict()})])})
    model.layers[0]["ffn"][leaf] = nn.Linear(8, width)
    if config is not None:
        model.config = config

    assert classify(model) == {f"layers.0.ffn.{leaf}": role}


def test_qwen2_moe_gates_its_shared_expert() -> None:
    model = on_meta(Qwen2MoeConfig(**LLAMA_LIKE, **QWEN2_MOE))
    leaves = {
        **dict.fromkeys(QKVO.split(), "attention"),
        "mlp.experts": "mlp",
        "mlp.shared_expert.gate_proj": "mlp",
        "mlp.shared_expert.up_proj": "mlp",
        "mlp.shared_expert.down_proj": "mlp",
        "mlp.shared_expert_gate": "router",
    }

    assert model.model.layers[0].mlp.shared_expert_gate.out_features == 1
    assert classify(model) == {
        "lm_head": "lm_head",
        **{f"model.layers.{index}.{leaf}": role for index in range(2) for leaf, role in leaves.items()},
    }


def test_output_embedding_is_known_by_identity_not_by_name(tiny_llama: PreTrainedModel) -> None:
    tiny_llama.model.layers[0].mlp.lm_head = nn.Linear(8, 8)
    roles = classify(tiny_llama)

    assert roles["model.layers.0.mlp.lm_head"] == "mlp"
    assert roles["lm_head"] == "lm_head"


def test_expert_parameters_are_the_3d_weights_of_experts_classes() -> None:
    make, arguments, *_ = ARCHITECTURES["mixtral"]
    block = on_meta(make(**arguments)).model.layers[0].mlp

    assert sorted(expert_parameters(block.experts)) == ["down_proj", "gate_up_proj"]
    assert expert_parameters(block) == []
    assert expert_parameters(block.gate) == []


@pytest.mark.parametrize(
    ("name", "tier_a", "tier_b"), [("ref-llama", 12, 28), ("ref-neo", 8, 24), ("ref-moe", 3, 15)]
)
def test_modules_of_the_reference_models(name: str, tier_a: int, tier_b: int) -> None:
    roles = classify(on_meta(AutoConfig.from_pretrained(model_source(name).location)))
    count = {tier: sum(role in TIERS[tier] for role in roles.values()) for tier in TIERS}

    assert count == {"A": tier_a, "B": tier_b}
    assert Counter(roles.values())["lm_head"] == 1
    assert set(roles.values()) == {"attention", "mlp", "lm_head"}
