"""A causal language model of a few thousand numbers, all of whose figures can be computed by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

#: Size of the vocabulary; widths of the hidden states and of the MLP.
VOCABULARY, WIDTH, INNER = 11, 48, 80


class ToyAttention(nn.Module):
    """A token's update from the token before it."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        before = torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1]
        return torch.tanh(self.q_proj(before))


class ToyMLP(nn.Module):
    """Two linear modules."""

    def __init__(self) -> None:
        super().__init__()
        self.up_proj = nn.Linear(WIDTH, INNER, bias=False)
        self.down_proj = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(torch.tanh(self.up_proj(x)))
        return out


class ToyLayer(nn.Module):
    """Attention and MLP, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = ToyAttention()
        self.mlp = ToyMLP()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(x)
        out: Tensor = x + self.mlp(x)
        return out


class ToyDecoder(nn.Module):
    """An embedding and one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList([ToyLayer()])

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutput:
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            x = layer(x)
        return BaseModelOutput(last_hidden_state=x)


class ToyForCausalLM(PreTrainedModel):
    """The decoder, and a head with the embedding's weight, or its own."""

    config_class = PretrainedConfig

    def __init__(self, *, tied: bool) -> None:
        settings = {"vocab_size": VOCABULARY, "tie_word_embeddings": tied}
        super().__init__(PretrainedConfig.from_dict(settings))
        self.model = ToyDecoder()
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        if tied:
            self.lm_head.weight = self.model.embed_tokens.weight

    def get_decoder(self) -> nn.Module:
        decoder: nn.Module = self.model
        return decoder

    def get_input_embeddings(self) -> nn.Module:
        embedding: nn.Module = self.model.embed_tokens
        return embedding

    def get_output_embeddings(self) -> nn.Module:
        head: nn.Module = self.lm_head
        return head

    def forward(self, input_ids: Tensor, logits_to_keep: int | Tensor = 0, **_: Any) -> CausalLMOutput:
        hidden = self.model(input_ids=input_ids).last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutput(logits=self.lm_head(hidden[:, kept]))


def toy_model(seed: int, *, tied: bool = True, dtype: torch.dtype = torch.float64) -> ToyForCausalLM:
    """Return a model with weights drawn from `seed`, on the CPU, whatever the defaults of this process."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        model = ToyForCausalLM(tied=tied)
    drawn: dict[int, nn.Parameter] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in drawn:
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64, device="cpu")
            scale = parameter.shape[-1] ** -0.5
            drawn[id(parameter)] = nn.Parameter((scale * values).to(dtype), requires_grad=False)
        owner, _, key = name.rpartition(".")
        setattr(model.get_submodule(owner), key, drawn[id(parameter)])
    model.train(False)
    return model
