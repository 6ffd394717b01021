"""Insert activation outliers into a trained model without changing its function.

Large language models carry a few channels whose activations are tens of times larger than the rest (Dettmers
et al., LLM.int8(), 2022), and these determine which block formats work. A small model has none, so they are
inserted: some channels of each norm's weight are multiplied by a power of two, and the matching columns of
the linears that read the norm's output are divided by it. In fp32 every product stays the same, so the logits
are bit-equal; only the distribution within a block of 32 neighbours changes.
"""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM, PreTrainedModel

#: Channels of each norm that become outliers, spread over different blocks of 32.
CHANNELS = (5, 37, 75, 110)
#: 2^4: sixteen times the neighbours, the order of magnitude reported for models of 7B parameters and more.
FACTOR = 16.0


def add_outliers(
    model: PreTrainedModel, *, channels: tuple[int, ...] = CHANNELS, factor: float = FACTOR
) -> None:
    """Rescale `channels` of every norm of a Llama model in place, and the columns that read them.

    Raises ValueError for another architecture, for a factor that is no power of two, and where the output
    embedding is tied (its columns cannot be divided without changing the input embedding).
    """
    if not isinstance(model, LlamaForCausalLM):
        raise ValueError(f"outliers are built into Llama models, got {type(model).__name__}")
    if model.config.tie_word_embeddings:
        raise ValueError("outliers need untied embeddings, got tie_word_embeddings=True")
    if torch.frexp(torch.tensor(factor)).mantissa != 0.5:
        raise ValueError(f"outlier factor must be a power of two so that fp32 stays exact, got {factor}")
    index = torch.tensor(channels)
    pairs = [(model.model.norm, [model.lm_head])]
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        pairs.append((layer.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj]))
        pairs.append((layer.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj]))
    with torch.no_grad():
        for norm, readers in pairs:
            norm.weight[index] *= factor
            for reader in readers:
                reader.weight[:, index] /= factor
