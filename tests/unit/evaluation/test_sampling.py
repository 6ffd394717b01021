import pytest
import torch
from transformers import (
    GenerationConfig,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from mxcheck.evaluation.sampling import sample_tokens

VOCABULARY, BOS, EOS = 96, 3, 7  # more than 50 tokens: 50 is the usual default of top_k


def tiny_llama() -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=BOS,
        eos_token_id=EOS,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def tiny_neo() -> PreTrainedModel:
    config = GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=2,
        window_size=4,
        max_position_embeddings=32,
        bos_token_id=BOS,
        eos_token_id=EOS,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    return GPTNeoForCausalLM(config)


@torch.inference_mode()
def log_probabilities(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Of the next token at each position, in one pass without a cache."""
    model.eval()
    return model(input_ids=tokens, use_cache=False).logits.double().log_softmax(dim=-1)


def entropy_gap(model: PreTrainedModel, tokens: torch.Tensor) -> float:
    """Mean cross-entropy less mean entropy, in standard errors over the sequences."""
    log_p = log_probabilities(model, tokens)[:, :-1]
    cross = -log_p.gather(-1, tokens[:, 1:, None]).squeeze(-1)
    gap = (cross + (log_p.exp() * log_p).sum(dim=-1)).mean(dim=1)
    return float(gap.mean() / (gap.std() / len(gap) ** 0.5))


def test_every_sequence_starts_with_bos_and_has_the_asked_length():
    tokens = sample_tokens(tiny_llama(), sequences=5, length=9, seed=0, batch_size=2)
    assert tokens.shape == (5, 9)
    assert tokens.dtype == torch.int64
    assert (tokens[:, 0] == BOS).all()
    assert int(tokens.min()) >= 0
    assert int(tokens.max()) < VOCABULARY
    assert not tokens.is_inference()
    assert len(tokens[:, 1:].unique(dim=0)) == 5  # no two batches share their random numbers


def test_the_seed_alone_decides():
    model = tiny_llama()
    first = sample_tokens(model, sequences=6, length=12, seed=1)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(sample_tokens(model, sequences=6, length=12, seed=1), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(sample_tokens(model, sequences=6, length=12, seed=1, batch_size=4), first)
    assert not torch.equal(sample_tokens(model, sequences=6, length=12, seed=2), first)


def test_first_tokens_follow_the_softmax_whatever_the_generation_config_says():
    model = tiny_llama()
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=50, temperature=0.5, bos_token_id=BOS, eos_token_id=EOS, suppress_tokens=[11]
    )
    count = 20_000
    tokens = sample_tokens(model, sequences=count, length=2, seed=0, batch_size=4096)
    probabilities = log_probabilities(model, torch.tensor([[BOS]]))[0, 0].exp()
    # What a filter would remove must carry weight, or this test could not see the filter.
    assert probabilities.sort(descending=True).values[50:].sum() > 0.05
    assert min(probabilities[EOS], probabilities[11], probabilities[BOS]) * count > 20
    observed = tokens[:, 1].bincount(minlength=VOCABULARY)
    statistic = float(((observed - count * probabilities) ** 2 / (count * probabilities)).sum())
    freedom = VOCABULARY - 1
    assert abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5
    # One rare token more or less moves the statistic too little: ask for these by name.
    assert min(observed[EOS], observed[11], observed[BOS]) > 0


@pytest.mark.parametrize("build", [tiny_llama, tiny_neo])
def test_later_tokens_follow_the_model_given_all_before_them(build):
    model = build()
    tokens = sample_tokens(model, sequences=512, length=24, seed=0, batch_size=256)
    assert abs(entropy_gap(model, tokens)) < 4
    # The same measure does see tokens that are the model's own but stand in another order.
    shuffled = torch.cat([tokens[:, :1], tokens[:, 1:].flip(1)], dim=1)
    assert abs(entropy_gap(model, shuffled)) > 20


def test_a_sequence_goes_on_after_eos():
    tokens = sample_tokens(tiny_llama(), sequences=256, length=24, seed=0)
    followers = tokens[:, 1:][tokens[:, :-1] == EOS]
    assert len(followers) > 20
    assert len(followers.unique()) > 5


def test_the_mode_of_the_model_is_kept_and_dropout_is_off():
    model = tiny_neo()
    expected = sample_tokens(model, sequences=4, length=8, seed=0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.9
    model.train()
    assert torch.equal(sample_tokens(model, sequences=4, length=8, seed=0), expected)
    assert model.training


def test_progress_adds_up_to_the_sampled_tokens():
    steps: list[int] = []
    sample_tokens(tiny_llama(), sequences=5, length=9, seed=0, batch_size=2, progress=steps.append)
    assert sum(steps) == 5 * 8


def test_no_bos_is_an_error():
    model = tiny_llama()
    model.config.bos_token_id = None
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has no BOS token.*bos_token_id is None"):
        sample_tokens(model, sequences=1, length=4, seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequences": 0}, "sequences must be at least 1, got 0"),
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"length": 33}, "length must be at most the model's 32 positions, got 33"),
    ],
    ids=["sequences", "length", "batch_size", "positions"],
)
def test_impossible_sizes_are_errors(change, message):
    with pytest.raises(ValueError, match=message):
        sample_tokens(tiny_llama(), **{"sequences": 1, "length": 4, "seed": 0, **change})


def test_logits_that_are_not_finite_are_an_error():
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        sample_tokens(model, sequences=1, length=4, seed=0)
