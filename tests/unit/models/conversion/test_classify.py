from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, full_on_meta, tiny
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from mxcheck.models.conversion.classify import classify, expert_parameters, reduction_axis, weight_parameters
from mxcheck.models.zoo.known_models import model_source

QKVO = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"
GATED = "mlp.gate_proj mlp.up_proj mlp.down_proj"
SHARED = "mlp.shared_experts.gate_proj mlp.shared_experts.up_proj mlp.shared_experts.down_proj"
LLAMA = ("model.layers", {"attention": QKVO, "mlp": GATED})
EXPERTS = ("model.layers", {"attention": QKVO, "mlp": "mlp.experts", "router": "mlp.gate"})
BLOOM = (
    "transformer.h",
    {
        "attention": "self_attention.query_key_value self_attention.dense",
        "mlp": "mlp.dense_h_to_4h mlp.dense_4h_to_h",
    },
)
LATENT = "self_attn.q_proj self_attn.kv_a_proj_with_mqa self_attn.kv_b_proj self_attn.o_proj"

#: Where a model's layers are, and what each of them holds by role.
LAYERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "tinystories-33M": (
        "transformer.h",
        {
            "attention": "attn.attention.q_proj attn.attention.k_proj attn.attention.v_proj "
            "attn.attention.out_proj",
            "mlp": "mlp.c_fc mlp.c_proj",
        },
    ),
    "qwen1.5-0.5B": LLAMA,
    "phi-1_5": (
        "model.layers",
        {
            "attention": "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.dense",
            "mlp": "mlp.fc1 mlp.fc2",
        },
    ),
    "llama-3.1-8b": LLAMA,
    "qwen2.5-7b": LLAMA,
    "qwen2.5-14b": LLAMA,
    "phi-3-medium-14b": (
        "model.layers",
        {"attention": "self_attn.qkv_proj self_attn.o_proj", "mlp": "mlp.gate_up_proj mlp.down_proj"},
    ),
    "mixtral-8x7b": EXPERTS,
    "mpt-30b": (
        "transformer.blocks",
        {"attention": "attn.Wqkv attn.out_proj", "mlp": "ffn.up_proj ffn.down_proj"},
    ),
    "yi-34b": LLAMA,
    "deepseek-67b": LLAMA,
    "gpt2": ("transformer.h", {"attention": "attn.c_attn attn.c_proj", "mlp": "mlp.c_fc mlp.c_proj"}),
    "opt-125m": (
        "model.decoder.layers",
        {
            "attention": "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.out_proj",
            "mlp": "fc1 fc2",
        },
    ),
    "gemma3-1b": LLAMA,
    "qwen3-0.6b": LLAMA,
    "qwen3-moe-30b-a3b": EXPERTS,
    "falcon-7b": BLOOM,
    "bloom-560m": BLOOM,
    "gpt-oss-20b": (
        "model.layers",
        {"attention": QKVO, "mlp": "mlp.experts", "router": "mlp.router"},
    ),
    # the layers after the first, which is dense
    "deepseek-v2-lite": (
        "model.layers",
        {"attention": LATENT, "mlp": f"mlp.experts {SHARED}", "router": "mlp.gate"},
    ),
}
DENSE_FIRST = {"deepseek-v2-lite": {"attention": LATENT, "mlp": GATED}}


def layer_roles(layer_list: str, index: int, holds: Mapping[str, str]) -> dict[str, str]:
    return {f"{layer_list}.{index}.{path}": role for role, paths in holds.items() for path in paths.split()}


def on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    """The model without storage: classification may look at no weight."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("build", [pytest.param(full_on_meta, id="full"), pytest.param(tiny, id="tiny")])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_module_gets_its_role(name: str, build: Any) -> None:
    """The whole dictionary: no module is missing, and none is there that this page does not name."""
    model = build(name)
    layer_list, holds = LAYERS[name]
    expected = {"lm_head": "lm_head"}
    for index in range(len(model.get_submodule(layer_list))):
        dense = DENSE_FIRST.get(name, holds) if index == 0 else holds
        expected |= layer_roles(layer_list, index, dense)

    assert classify(model) == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_counts_and_parameters_at_full_size(name: str) -> None:
    row = ARCHITECTURES[name]
    model = full_on_meta(name)
    count = Counter(classify(model).values())

    assert (count["mlp"], count["mlp"] + count["attention"], count.total()) == row.counts
    assert sum(parameter.numel() for parameter in model.parameters()) == row.parameters


def test_the_published_counts_of_tier_a() -> None:
    names = ("tinystories-33M", "llama-3.1-8b", "qwen2.5-14b")

    assert [ARCHITECTURES[name].counts[0] for name in names] == [8, 96, 144]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_matrix_escapes_classification(name: str) -> None:
    """Whatever has two axes or more is a weight that some role covers, an embedding, or an expert's bias."""
    model = full_on_meta(name)
    covered = {
        f"{module}.{weight}"
        for module in classify(model)
        for weight in weight_parameters(model.get_submodule(module))
    }
    embeddings = {
        f"{module}.weight" for module, value in model.named_modules() if isinstance(value, nn.Embedding)
    }
    matrices = {key for key, value in model.named_parameters(remove_duplicate=False) if value.dim() >= 2}
    rest = {key.rpartition(".")[2] for key in matrices - covered - embeddings}

    assert covered <= matrices
    assert rest == ({"gate_up_proj_bias", "down_proj_bias"} if name == "gpt-oss-20b" else set())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_reduction_axis_is_the_one_that_the_product_sums_over(name: str) -> None:
    """An input that is zero at index 0 silences the weights at index 0 of that axis, and of no other."""
    model = tiny(name)
    for path in classify(model):
        module = model.get_submodule(path)
        weight = module.get_parameter(weight_parameters(module)[0])
        inputs = torch.ones(4, weight.shape[reduction_axis(module)])
        inputs[:, 0] = 0
        # experts: token i to expert i, with weight 1
        arguments = (torch.arange(4).unsqueeze(-1), torch.ones(4, 1)) if expert_parameters(module) else ()
        before = first_tensor(module(inputs, *arguments))
        weight.select(reduction_axis(module), 0).add_(1e3)
        assert torch.equal(first_tensor(module(inputs, *arguments)), before), path
        weight.select(-3 - reduction_axis(module), 0).add_(1e3)
        assert not torch.equal(first_tensor(module(inputs, *arguments)), before), path


def first_tensor(output: Any) -> torch.Tensor:
    """A router returns its logits first, then what it chose."""
    return output if isinstance(output, torch.Tensor) else output[0]


@pytest.mark.parametrize("name", ["mixtral-8x7b", "qwen3-moe-30b-a3b", "gpt-oss-20b", "deepseek-v2-lite"])
def test_expert_parameters_are_the_3d_weights_and_no_biases(name: str) -> None:
    model = tiny(name)
    experts = model.get_submodule("model.layers.1.mlp.experts")
    axis = reduction_axis(experts)

    assert expert_parameters(experts) == weight_parameters(experts) == ["gate_up_proj", "down_proj"]
    assert axis == (-2 if name == "gpt-oss-20b" else -1)
    assert experts.get_parameter("gate_up_proj").shape[axis] == model.config.hidden_size == 64
    assert experts.get_parameter("down_proj").shape[axis] in (48, 96)  # the experts' intermediate size
    for path in ("model.layers.1.mlp", "model.layers.1.self_attn.q_proj"):
        assert expert_parameters(model.get_submodule(path)) == []


@pytest.mark.parametrize(
    ("name", "mlp", "attention", "router"),
    [("ref-llama", 12, 16, 0), ("ref-neo", 8, 16, 0), ("ref-moe", 3, 12, 3)],
)
def test_modules_of_the_reference_models(name: str, mlp: int, attention: int, router: int) -> None:
    roles = classify(on_meta(AutoConfig.from_pretrained(model_source(name).location)))

    assert Counter(roles.values()) == Counter(mlp=mlp, attention=attention, router=router, lm_head=1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tiny_variants_run_and_are_their_own(name: str) -> None:
    before = torch.get_rng_state()
    model, same, other = tiny(name), tiny(name), tiny(name, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    tokens = torch.arange(3, 131).reshape(2, 64)
    logits = model(tokens).logits

    assert logits.shape == (2, 64, 256)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert logits.std() > 0.5
    assert torch.equal(same(tokens).logits, logits)
    assert not torch.equal(other(tokens).logits, logits)
    assert model.config is not same.config
    assert model.config._attn_implementation == model.config._experts_implementation == "eager"
    assert not model.training


@pytest.mark.parametrize(("name", "size"), [("tinystories-33M", 48), ("mpt-30b", 112)])
def test_head_sizes_that_no_block_divides_are_kept(name: str, size: int) -> None:
    row = ARCHITECTURES[name]
    for config in (row.configuration(row.full), row.configuration(row.tiny)):
        assert config.hidden_size // config.num_attention_heads == size
