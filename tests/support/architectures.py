"""Twenty causal language models as data: their shapes, and a tiny random variant of each.

The full-size arguments are those of the published configurations, as far as they shape modules. A tiny
variant has two layers and 256 tokens and runs 64 tokens in milliseconds; what makes its architecture special
(fused projections, head sizes that no block divides, sliding windows, a dense layer before the experts) is
kept.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """One row. `parameters` (tied ones once) and `counts` are those of the full size; `counts` are the
    linear-like modules of tier A (mlp), of tier B (mlp and attention) and of all roles: head, routers and the
    rest too. All experts of a layer are one module."""

    config: str
    full: Mapping[str, Any]
    tiny: Mapping[str, Any]
    parameters: int
    counts: tuple[int, int, int]

    def configuration(self, arguments: Mapping[str, Any]) -> PreTrainedConfig:
        """A configuration of its own: models built from one object would switch their experts together."""
        return getattr(transformers, self.config)(**copy.deepcopy(dict(arguments)))


def _like_llama(
    hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        **more,
    }


_TOKENS = {"vocab_size": 256, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
_TINY = _like_llama(64, 96, 2, 4, 2, max_position_embeddings=128, vocabulary=256) | _TOKENS
_TINY_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
}

ARCHITECTURES: Mapping[str, Architecture] = {
    "tinystories-33M": Architecture(
        config="GPTNeoConfig",
        full={
            "hidden_size": 768,
            "num_layers": 4,
            "num_heads": 16,
            "attention_types": [[["global", "local"], 2]],
        },
        tiny={
            "hidden_size": 96,  # heads of 48, as at full size
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 16,
            "max_position_embeddings": 128,
            **_TOKENS,
        },
        parameters=68_514_048,
        counts=(8, 24, 25),
    ),
    "qwen1.5-0.5B": Architecture(
        config="Qwen2Config",
        full=_like_llama(1024, 2816, 24, 16, 16, 151936, tie_word_embeddings=True),
        tiny={**_TINY, "num_key_value_heads": 4, "tie_word_embeddings": True},
        parameters=463_987_712,
        counts=(72, 168, 169),
    ),
    "phi-1_5": Architecture(
        config="PhiConfig",
        full=_like_llama(2048, 8192, 24, 32, 32, 51200),
        tiny={**_TINY, "num_key_value_heads": 4},
        parameters=1_418_270_720,
        counts=(48, 144, 145),
    ),
    "llama-3.1-8b": Architecture(
        config="LlamaConfig",
        full=_like_llama(4096, 14336, 32, 32, 8, 128256),
        tiny=_TINY,
        parameters=8_030_261_248,
        counts=(96, 224, 225),
    ),
    "qwen2.5-7b": Architecture(
        config="Qwen2Config",
        full=_like_llama(3584, 18944, 28, 28, 4, 152064),
        tiny=_TINY,
        parameters=7_615_616_512,
        counts=(84, 196, 197),
    ),
    "qwen2.5-14b": Architecture(
        config="Qwen2Config",
        full=_like_llama(5120, 13824, 48, 40, 8, 152064),
        tiny={**_TINY, "num_key_value_heads": 1},
        parameters=14_770_033_664,
        counts=(144, 336, 337),
    ),
    "phi-3-medium-14b": Architecture(
        config="Phi3Config",
        full=_like_llama(5120, 17920, 40, 40, 10, 32064),
        tiny=_TINY,
        parameters=13_960_238_080,
        counts=(80, 160, 161),
    ),
    "mixtral-8x7b": Architecture(
        config="MixtralConfig",
        full=_like_llama(4096, 14336, 32, 32, 8, 32000, num_local_experts=8),
        tiny={**_TINY, "num_local_experts": 4, "num_experts_per_tok": 2},
        parameters=46_702_792_704,
        counts=(32, 160, 193),
    ),
    "mpt-30b": Architecture(
        config="MptConfig",
        full={"d_model": 7168, "n_heads": 64, "n_layers": 48, "vocab_size": 50432, "max_seq_len": 8192},
        tiny={"d_model": 224, "n_heads": 2, "n_layers": 2, "max_seq_len": 128, **_TOKENS},  # heads of 112
        parameters=29_957_200_896,
        counts=(96, 192, 193),
    ),
    "yi-34b": Architecture(
        config="LlamaConfig",
        full=_like_llama(7168, 20480, 60, 56, 8, 64000),
        tiny={**_TINY, "num_key_value_heads": 1},
        parameters=34_388_917_248,
        counts=(180, 420, 421),
    ),
    "deepseek-67b": Architecture(
        config="LlamaConfig",
        full=_like_llama(8192, 22016, 95, 64, 8, 102400),
        tiny={**_TINY, "num_attention_heads": 8, "num_key_value_heads": 1},
        parameters=67_425_001_472,
        # 95 layers of 3 mlp (gate, up, down) and 4 attention (q, k, v, o) projections, and the head
        counts=(285, 665, 666),
    ),
    "gpt2": Architecture(
        config="GPT2Config",
        full={"n_embd": 768, "n_layer": 12, "n_head": 12},
        tiny={"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, **_TOKENS},
        parameters=124_439_808,
        counts=(24, 48, 49),
    ),
    "opt-125m": Architecture(
        config="OPTConfig",
        full={"hidden_size": 768, "num_hidden_layers": 12, "ffn_dim": 3072, "num_attention_heads": 12},
        tiny={
            "hidden_size": 64,
            "word_embed_proj_dim": 64,
            "num_hidden_layers": 2,
            "ffn_dim": 96,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            **_TOKENS,
        },
        parameters=125_239_296,
        counts=(24, 72, 73),
    ),
    "gemma3-1b": Architecture(
        config="Gemma3TextConfig",
        full=_like_llama(1152, 6912, 26, 4, 1, 262144, head_dim=256, sliding_window=512),
        tiny={
            **_TINY,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        parameters=999_885_952,
        counts=(78, 182, 183),
    ),
    "qwen3-0.6b": Architecture(
        config="Qwen3Config",
        full=_like_llama(1024, 3072, 28, 16, 8, 151936, head_dim=128, tie_word_embeddings=True),
        tiny={**_TINY, "head_dim": 32, "tie_word_embeddings": True},
        parameters=596_049_920,
        counts=(84, 196, 197),
    ),
    "qwen3-moe-30b-a3b": Architecture(
        config="Qwen3MoeConfig",
        full={
            **_like_llama(2048, 6144, 48, 32, 4, 151936, head_dim=128),
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
        },
        tiny={**_TINY, **_TINY_EXPERTS, "head_dim": 32, "num_experts": 4},
        parameters=30_532_122_624,
        # 48 layers, each of one experts module, 4 attention (q, k, v, o) projections and a router; the head
        counts=(48, 240, 289),
    ),
    "falcon-7b": Architecture(
        config="FalconConfig",
        full={"hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "vocab_size": 65024},
        tiny={"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, **_TOKENS},
        parameters=6_921_720_704,
        counts=(64, 128, 129),
    ),
    "bloom-560m": Architecture(
        config="BloomConfig",
        full={"hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250880},
        tiny={"hidden_size": 64, "n_layer": 2, "n_head": 4, **_TOKENS},
        parameters=559_214_592,
        # 24 layers of 2 mlp (h_to_4h, 4h_to_h) and 2 attention (query_key_value, dense) projections; the head
        counts=(48, 96, 97),
    ),
    "gpt-oss-20b": Architecture(
        config="GptOssConfig",
        full=_like_llama(2880, 2880, 24, 64, 8, 201088, num_local_experts=32, num_experts_per_tok=4),
        tiny={
            **_TINY,
            "head_dim": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 16,
            "max_position_embeddings": 131072,  # YaRN's factor of 32 times the length before it
        },
        parameters=20_914_757_184,
        counts=(24, 120, 145),
    ),
    "deepseek-v2-lite": Architecture(
        config="DeepseekV2Config",
        full={
            **_like_llama(2048, 10944, 27, 16, 16, 102400, q_lora_rank=None, kv_lora_rank=512),
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "num_experts_per_tok": 6,
            "moe_intermediate_size": 1408,
            "first_k_dense_replace": 1,
        },
        tiny={
            **_TINY,
            **_TINY_EXPERTS,
            **_LATENT,
            "q_lora_rank": None,
            "n_routed_experts": 4,
            "n_shared_experts": 2,
            "first_k_dense_replace": 1,
        },
        parameters=15_706_484_224,
        counts=(107, 215, 242),
    ),
}


def full_on_meta(name: str) -> PreTrainedModel:
    """The model at its full size without storage: shapes and classes, no weights."""
    row = ARCHITECTURES[name]
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(row.configuration(row.full), dtype=torch.float32)


def tiny(name: str, seed: int = 0) -> PreTrainedModel:
    """A random model of that architecture: fp32, eager attention and experts, in eval mode, no gradients.

    Matrices, experts and biases are drawn with a standard deviation of 0.1, where transformers would draw
    0.02 and zeros: quantization would hardly show in the logits. `seed` fixes every weight and leaves
    torch's global generator alone.
    """
    row = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(
            row.configuration(row.tiny), dtype=torch.float32, attn_implementation="eager"
        )
        model.set_experts_implementation("eager")  # grouped_mm otherwise; nothing on a dense model
        for key, parameter in model.named_parameters():
            if parameter.dim() >= 2 or key.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)
