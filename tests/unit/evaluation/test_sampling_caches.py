"""Sampled text is the evaluated model's, whatever its cache makes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForCausalLM as Auto
from transformers import (
    BertConfig,
    Gemma3Config,
    LlamaConfig,
    MambaConfig,
    OpenAIGPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    RecurrentGemmaConfig,
    RwkvConfig,
)

from mxcheck.evaluation import sampling
from mxcheck.evaluation.measure import evaluate
from mxcheck.evaluation.sampling import sample_tokens
from mxcheck.gate.statistics import differences, in_standard_errors
from mxcheck.gate.verdict import SELF_SAMPLED_Z

VOCABULARY, BOS, LENGTH = 96, 3, 24
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "bos_token_id": BOS,
    "eos_token_id": 7,
    "pad_token_id": 0,
}
_ATTENTION = {
    **_SIZES,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
_LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8}


def longrope(factor: float = 8.0) -> PreTrainedConfig:
    """Other frequencies from the ninth position on."""
    rope = {**_LONG, "long_factor": [factor] * 8, "original_max_position_embeddings": 8}
    return LlamaConfig(**_ATTENTION, rope_parameters=rope)


def phi3() -> PreTrainedConfig:
    """As published Phi-3 configurations write it."""
    rope = {**_LONG, "long_factor": [8.0] * 8}
    return Phi3Config(**_ATTENTION, original_max_position_embeddings=8, rope_parameters=rope)


def dynamic() -> PreTrainedConfig:
    """Other frequencies at each position from the ninth on."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 256.0}
    return LlamaConfig(**{**_ATTENTION, "max_position_embeddings": 8}, rope_parameters=rope)


def gemma3() -> PreTrainedConfig:
    """A text model inside of a multimodal one, which has the BOS and the vocabulary."""
    text = {**_ATTENTION, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    return Gemma3Config(
        text_config=text,
        vision_config={**vision, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=95,
        boi_token_index=94,
        eoi_token_index=93,
    )


def recurrent_gemma() -> PreTrainedConfig:
    own = {"intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1, "lru_width": 32}
    return RecurrentGemmaConfig(**{**_SIZES, "num_hidden_layers": 3}, **own, attention_window_size=8)


def built(config: PreTrainedConfig) -> PreTrainedModel:
    """A random model whose matrices are large enough for tokens to depend on those before them."""
    torch.manual_seed(0)
    model = Auto.from_config(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and "A_log" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval().requires_grad_(False)


def gap(model: PreTrainedModel, tokens: torch.Tensor) -> float:
    """What the gate's second step asks of a model and its own text, in standard errors."""
    measured = evaluate(model, tokens, batch_size=64)
    return in_standard_errors(differences(measured.sequence_losses, measured.sequence_entropies))


def sampled(model: PreTrainedModel) -> tuple[torch.Tensor, list[str], int]:
    """Tokens, what was told, and how many tokens the progress came to."""
    told: list[str] = []
    counts: list[int] = []
    tokens = sample_tokens(
        model,
        sequences=192,
        length=LENGTH,
        seed=0,
        batch_size=96,
        tell=told.append,
        progress=counts.append,
    )
    return tokens, told, sum(counts)


@pytest.mark.parametrize("config", [longrope, phi3, dynamic])
def test_frequencies_that_depend_on_the_length_are_those_of_the_evaluation(
    config: Callable[[], PreTrainedConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(config())
    tokens, told, count = sampled(model)

    assert len(told) == 1
    assert told[0].startswith(f"sampling without a cache: its logits after {LENGTH} tokens are other ones")
    assert count == 192 * (LENGTH - 1)
    assert abs(gap(model, tokens)) < SELF_SAMPLED_Z

    # And without the comparison, the gate's own second step is red for nothing.
    monkeypatch.setattr(sampling, "_difference", lambda *_: None)
    with_cache, told, _ = sampled(model)
    assert told == []
    assert gap(model, with_cache) > 2 * SELF_SAMPLED_Z


def test_the_cache_serves_up_to_the_length_where_frequencies_change() -> None:
    told: list[str] = []
    sample_tokens(built(longrope()), sequences=2, length=8, seed=0, tell=told.append)
    assert told == []


def test_frequencies_that_moved_tell_where_the_arithmetic_is_too_coarse_to() -> None:
    model = built(longrope(factor=1.001)).to(torch.bfloat16)
    told: list[str] = []
    sample_tokens(model, sequences=2, length=LENGTH, seed=0, tell=told.append)
    assert told == [
        "sampling without a cache: model.rotary_emb.inv_freq depends on the length of the sequence"
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rounding_alone_is_no_difference(dtype: torch.dtype) -> None:
    told: list[str] = []
    model = built(LlamaConfig(**_ATTENTION)).to(dtype)
    sample_tokens(model, sequences=8, length=LENGTH, seed=0, tell=told.append)
    assert told == []


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        pytest.param(gemma3, None, id="gemma3"),
        pytest.param(lambda: MambaConfig(**_SIZES, state_size=4), None, id="mamba"),
        pytest.param(
            lambda: RwkvConfig(**_SIZES, attention_hidden_size=32), "the model takes none", id="rwkv"
        ),
        pytest.param(recurrent_gemma, "the model returns none", id="recurrent-gemma"),
        pytest.param(
            lambda: OpenAIGPTConfig(
                vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=BOS
            ),
            "the model takes none",
            id="gpt",
        ),
    ],
)
def test_every_kind_of_model_gives_text_of_its_own(
    config: Callable[[], PreTrainedConfig], reason: str | None
) -> None:
    model = built(config())
    tokens, told, count = sampled(model)
    assert told == ([] if reason is None else [f"sampling without a cache: {reason}"])
    assert count == 192 * (LENGTH - 1)
    assert (tokens[:, 0] == BOS).all()
    assert abs(gap(model, tokens)) < SELF_SAMPLED_Z
    assert abs(gap(model, tokens[torch.arange(192)[:, None], torch.arange(LENGTH - 1, -1, -1)])) > 8


def test_a_cache_that_fails_is_told_and_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(LlamaConfig(**_ATTENTION))
    expected = sample_tokens(model, sequences=3, length=8, seed=0)
    real = type(model).forward

    def forward(
        self: PreTrainedModel, *args: object, past_key_values: object = None, **given: object
    ) -> object:
        if past_key_values is not None:
            raise ValueError("two\nlines")
        return real(self, *args, **given)

    monkeypatch.setattr(type(model), "forward", forward)
    told: list[str] = []
    tokens = sample_tokens(model, sequences=3, length=8, seed=0, tell=told.append)
    assert told == ["sampling without a cache: its cache fails at token 1: ValueError: two lines"]
    assert torch.equal(tokens, expected)


def test_a_model_that_sees_later_tokens_has_no_text_of_its_own() -> None:
    model = built(BertConfig(**_ATTENTION, is_decoder=False))
    with pytest.raises(ValueError, match="is no causal language model: its logits after the first token"):
        sample_tokens(model, sequences=2, length=8, seed=0)


@pytest.mark.parametrize("bos", [96, -1])
@pytest.mark.parametrize("config", [lambda: LlamaConfig(**_ATTENTION), gemma3], ids=["llama", "gemma3"])
def test_a_bos_outside_the_vocabulary_is_an_error(config: Callable[[], PreTrainedConfig], bos: int) -> None:
    model = built(config())
    model.config.get_text_config().bos_token_id = bos
    with pytest.raises(ValueError, match=r"bos_token_id is .*outside the vocabulary; set it .* 0 to 95$"):
        sample_tokens(model, sequences=1, length=4, seed=0)
