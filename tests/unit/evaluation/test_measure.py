import dataclasses
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedModel

from mxcheck.evaluation.finite import NonFiniteLogitsError
from mxcheck.evaluation.logits import WholeLogits
from mxcheck.evaluation.measure import Measurement, evaluate
from mxcheck.evaluation.tokens import fingerprint
from mxcheck.models.conversion.convert import Conversion
from mxcheck.models.recipes.recipe import Recipe, recipe
from mxcheck.models.zoo.known_models import REFERENCE_MODELS, model_source
from mxcheck.models.zoo.load import LoadedModel

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

#: The same logits, and float64 sums of a few hundred terms in another order: a few 2^-53, with room.
FLOAT64 = 1e-12
#: Of products in fp32: another batch size may sum them in another order. 2^-24 on sums of 64 and 80 terms
#: of magnitude 10 and two layers of them; a misplaced row or token would move a loss by 0.1 and more.
FLOAT32 = 1e-4


def log_softmax(model: nn.Module, tokens: torch.Tensor) -> np.ndarray:
    """Log-probabilities of every next token, float64 [sequences, length - 1, vocabulary], in numpy alone."""
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits.numpy().astype(np.float64)
    shifted = logits - logits.max(-1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))[:, :-1]


def keep(model: nn.Module, tokens: torch.Tensor) -> Measurement:
    return evaluate(model, tokens, keep_log_probabilities=True)


class NextToken(nn.Module):
    """A model that knows the rule of `counted` and puts all its probability `off` tokens beside it."""

    def __init__(self, vocabulary: int, off: int = 0) -> None:
        super().__init__()
        successor = (3 * torch.arange(vocabulary) + 1 + off) % vocabulary
        self.table = nn.Parameter(100.0 * nn.functional.one_hot(successor, vocabulary))

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        assert not use_cache
        return SimpleNamespace(logits=self.table[input_ids])


@pytest.fixture
def counted() -> torch.Tensor:
    """Three sequences of ten tokens in which 3 t + 1 (mod 50) follows t, and never t itself."""
    rows = [torch.tensor([2, 7, 11])]
    for _ in range(9):
        rows.append((3 * rows[-1] + 1) % 50)
    return torch.stack(rows, dim=1)


def test_losses_and_entropies_equal_a_computation_in_numpy(
    tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor
) -> None:
    log_p = log_softmax(tiny_llama, random_tokens)
    sequence, position = np.indices(log_p.shape[:2])
    losses = -log_p[sequence, position, random_tokens.numpy()[:, 1:]]
    entropies = -(np.exp(log_p) * log_p).sum(-1)
    result = evaluate(tiny_llama, random_tokens)

    assert result.sequence_losses == pytest.approx(losses.mean(-1), rel=FLOAT64)
    assert result.sequence_entropies == pytest.approx(entropies.mean(-1), rel=FLOAT64)
    assert result.cross_entropy == pytest.approx(losses.mean(), rel=FLOAT64)
    assert result.entropy == pytest.approx(entropies.mean(), rel=FLOAT64)
    assert result.perplexity == pytest.approx(np.exp(losses.mean()), rel=FLOAT64)
    assert np.ptp(losses.mean(-1)) > 0.1, "sequences that differ, or their order could not be seen"


def test_distance_from_a_reference_equals_a_computation_in_numpy(
    tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor, converted: Convert
) -> None:
    log_p, reference = log_softmax(tiny_llama, random_tokens), keep(tiny_llama, random_tokens)
    converted(tiny_llama, recipe("mxfp4_e2m1", tier="B"))
    log_q = log_softmax(tiny_llama, random_tokens)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    result = evaluate(tiny_llama, random_tokens, reference=reference)

    # the terms of a KL cancel: what 2^-53 is relative to is the terms, of order 1, not their sum
    assert result.sequence_kl == pytest.approx(kl.mean(-1), rel=FLOAT64, abs=FLOAT64)
    assert result.kl == pytest.approx(kl.mean(), rel=FLOAT64, abs=FLOAT64)
    assert result.top1_agreement == (log_p.argmax(-1) == log_q.argmax(-1)).mean()
    assert 0 < result.top1_agreement < 1
    assert result.bit_equal is False
    sequence, position = np.indices(log_p.shape[:2])
    true = (sequence, position, random_tokens.numpy()[:, 1:])
    ratio = np.exp(log_q[true] - log_p[true])
    change = np.exp(log_q[true]) - np.exp(log_p[true])
    found = result.predictions
    assert found is not None
    assert found.sequence_k3 == pytest.approx((ratio - 1 - np.log(ratio)).mean(-1), rel=FLOAT64, abs=FLOAT64)
    assert found.sequence_entropies == result.sequence_entropies
    assert found.sequence_top1 == [*(log_p.argmax(-1) == log_q.argmax(-1)).mean(-1)]
    # 11 positions: two, and three times three
    parts = [kl[:, :2], kl[:, 2:5], kl[:, 5:8], kl[:, 8:]]
    assert found.kl_by_position == pytest.approx([part.mean() for part in parts], rel=1e-9, abs=FLOAT64)
    assert found.kl_percentiles["100"] == pytest.approx(kl.max(), rel=1e-9, abs=FLOAT64)
    assert found.kl_percentiles["50"] == pytest.approx(np.median(kl), rel=1e-9, abs=FLOAT64)
    assert found.probability_change == pytest.approx(change.mean(), abs=FLOAT64)
    assert found.probability_change_percentiles["0"] == pytest.approx(change.min(), abs=FLOAT64)
    # the other direction is another number, so the two cannot be confused
    assert (np.exp(log_q) * (log_q - log_p)).sum(-1).mean() != pytest.approx(kl.mean(), rel=1e-3)


@pytest.mark.parametrize("name", [name for name in REFERENCE_MODELS if model_source(name).tokens])
def test_a_model_is_at_distance_zero_from_itself(
    name: str,
    reference_model: Callable[[str], LoadedModel],
    tokens: Callable[[LoadedModel], torch.Tensor],
) -> None:
    loaded = reference_model(name)
    reference = keep(loaded.model, tokens(loaded))
    result = evaluate(loaded.model, tokens(loaded), reference=reference)

    assert result.bit_equal is True
    assert result.kl == 0.0
    assert result.sequence_kl == [0.0] * 4
    assert result.top1_agreement == 1.0
    assert result.sequence_losses == reference.sequence_losses
    assert result.predictions is not None
    assert result.predictions.sequence_k3 == [0.0] * 4
    assert set(result.predictions.probability_change_percentiles.values()) == {0.0}


def test_one_bit_of_one_weight_is_not_bit_equal(
    tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor
) -> None:
    reference = keep(tiny_llama, random_tokens)
    # a row of the output embedding is read at every position, whatever the tokens
    tiny_llama.lm_head.weight[5].view(torch.int32).bitwise_xor_(1)
    result = evaluate(tiny_llama, random_tokens, reference=reference)

    assert result.bit_equal is False
    assert abs(result.cross_entropy - reference.cross_entropy) < FLOAT32


def test_bit_equality_is_asked_of_every_batch(
    tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor
) -> None:
    random_tokens.clamp_(max=90)
    random_tokens[0, 5] = 95  # in the first of four batches only
    reference = keep(tiny_llama, random_tokens)
    tiny_llama.model.embed_tokens.weight[95] += 0.01
    result = evaluate(tiny_llama, random_tokens, reference=reference, batch_size=2)

    assert result.sequence_kl is not None
    assert result.sequence_kl[0] > 0
    assert result.sequence_kl[1:] == [0.0] * 6
    assert result.bit_equal is False


def test_a_reference_that_comes_out_otherwise_is_refused(
    tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor
) -> None:
    reference = keep(tiny_llama, random_tokens)
    losses = list(reference.sequence_losses)
    losses[3] = math.nextafter(losses[3], 0)
    other = dataclasses.replace(reference, sequence_losses=losses)
    message = (
        "logits came out otherwise when computed again .loss of sequence 3: .*; measure the reference again"
    )
    with pytest.raises(ValueError, match=message):
        evaluate(tiny_llama, random_tokens, reference=other)


def test_the_true_next_token_is_scored(counted: torch.Tensor) -> None:
    result = evaluate(NextToken(50), counted)

    # softmax of one logit of 100 among zeros: the others together weigh 49 exp(-100) = 2e-42
    assert result.cross_entropy == pytest.approx(0, abs=1e-40)
    assert result.perplexity == 1.0


@pytest.mark.parametrize("off", [1, 25])
def test_a_model_that_is_sure_and_wrong_is_not_scored_against_its_own_argmax(
    off: int, counted: torch.Tensor
) -> None:
    result = evaluate(NextToken(50, off=off), counted)

    assert result.sequence_losses == pytest.approx([100.0] * 3, rel=FLOAT64)
    assert result.entropy == pytest.approx(0, abs=1e-39)  # 49 tokens of exp(-100) each, times 100 nats


def test_every_token_but_the_first_is_scored(counted: torch.Tensor) -> None:
    first, last = counted.clone(), counted.clone()
    first[0, 0] = 49  # breaks the rule from the first token to the second
    last[0, -1] = (last[0, -1] + 1) % 50

    for broken in (first, last):
        # one of the nine scored tokens costs 100 nats
        assert evaluate(NextToken(50), broken).sequence_losses == pytest.approx([100 / 9, 0, 0], abs=1e-12)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batch_size_changes_nothing_material(
    batch_size: int, tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor
) -> None:
    reference = keep(tiny_llama, random_tokens)
    other = evaluate(tiny_llama, random_tokens, batch_size=batch_size, keep_log_probabilities=True)
    distance = evaluate(tiny_llama, random_tokens, reference=other, batch_size=batch_size)

    assert other.sequence_losses == pytest.approx(reference.sequence_losses, abs=FLOAT32)
    assert other.sequence_entropies == pytest.approx(reference.sequence_entropies, abs=FLOAT32)
    assert distance.kl == 0.0


def test_what_no_reference_was_given_for_is_none(
    tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor
) -> None:
    result = evaluate(tiny_llama, random_tokens)

    assert (result.kl, result.sequence_kl, result.top1_agreement, result.bit_equal) == (None,) * 4
    assert result.predictions is None
    assert result.logits is not None  # it may serve as reference itself
    assert result.metrics == {}


def test_kept_logits_are_those_of_every_scored_token(
    tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor
) -> None:
    logits = evaluate(tiny_llama, random_tokens, batch_size=2, keep_log_probabilities=True).logits

    assert isinstance(logits, WholeLogits)
    kept = torch.stack(list(logits.sequences))
    with torch.no_grad():
        whole = tiny_llama(input_ids=random_tokens, use_cache=False).logits
    np.testing.assert_allclose(kept.numpy(), whole[:, :-1].numpy(), atol=FLOAT32)
    assert torch.equal(logits.rows(6, slice(2, 5)), kept[6, 2:5])


def test_progress_hears_of_every_sequence(tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor) -> None:
    heard: list[int] = []
    evaluate(tiny_llama, random_tokens, batch_size=3, progress=heard.append)

    assert heard == [3, 3, 1]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        pytest.param(torch.zeros(4, dtype=torch.int64), r"got torch.int64 \[4\]", id="one-dimension"),
        pytest.param(torch.zeros(1, 2, 3, dtype=torch.int64), r"\[1, 2, 3\]", id="three-dimensions"),
        pytest.param(torch.zeros(0, 4, dtype=torch.int64), r"\[0, 4\]", id="no-sequence"),
        pytest.param(torch.zeros(4, 1, dtype=torch.int64), r"\[4, 1\]", id="nothing-to-score"),
        pytest.param(torch.zeros(4, 4, dtype=torch.int32), r"got torch.int32 \[4, 4\]", id="int32"),
        pytest.param(torch.zeros(4, 4), r"got torch.float32 \[4, 4\]", id="float"),
        pytest.param(torch.tensor([[0, 96]]), r"token 96 is outside .* vocabulary of 96", id="too-large"),
        pytest.param(torch.tensor([[0, -1]]), r"token -1 is outside .* vocabulary of 96", id="negative"),
    ],
)
def test_bad_tokens_are_refused(tokens: torch.Tensor, message: str, tiny_llama: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(tiny_llama, tokens)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        pytest.param(np.s_[:6], r"\(6 sequences of 12\) than these \(7 of 12\)", id="fewer-sequences"),
        pytest.param(np.s_[:, :10], r"\(7 sequences of 10\) than these \(7 of 12\)", id="shorter-sequences"),
    ],
)
def test_a_reference_of_other_tokens_is_refused(
    other: tuple[slice, ...], message: str, tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match="the reference was measured on other tokens " + message):
        evaluate(tiny_llama, random_tokens, reference=keep(tiny_llama, random_tokens[other]))


@pytest.mark.parametrize("position", [(0, 0), (3, 5), (6, 11)], ids=["first", "inner", "last"])
def test_one_other_token_is_other_tokens(
    position: tuple[int, int], tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor
) -> None:
    """At equal shape the figures would look sound, and be a distance between answers to two questions."""
    other = random_tokens.clone()
    other[position] = (other[position] + 1) % 96
    with pytest.raises(ValueError, match=r"measured on other tokens .*; measure both on the same tokens"):
        evaluate(tiny_llama, random_tokens, reference=keep(tiny_llama, other))


def test_the_same_tokens_in_another_order_are_other_tokens(
    tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match="measured on other tokens"):
        evaluate(tiny_llama, random_tokens, reference=keep(tiny_llama, random_tokens.flip(0)))


def test_a_measurement_says_on_which_tokens(counted: torch.Tensor) -> None:
    assert evaluate(NextToken(50), counted).tokens_fingerprint == fingerprint(counted)
    assert evaluate(NextToken(50), counted[:2]).tokens_fingerprint == fingerprint(counted[:2])


@pytest.mark.parametrize("vocabulary", [50, 53], ids=["smaller", "larger"])
def test_a_reference_with_another_vocabulary_is_refused(vocabulary: int, counted: torch.Tensor) -> None:
    with pytest.raises(
        ValueError, match=rf"the reference has a vocabulary of {vocabulary}, this model one of 51"
    ):
        evaluate(NextToken(51), counted, reference=keep(NextToken(vocabulary), counted))


def test_a_vocabulary_of_one_is_not_broadcast() -> None:
    tokens = torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="the reference has a vocabulary of 1, this model one of 2"):
        evaluate(NextToken(2), tokens, reference=keep(NextToken(1), tokens))


def test_a_measurement_serves_as_reference_unasked(
    tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor
) -> None:
    asked = evaluate(tiny_llama, random_tokens, reference=keep(tiny_llama, random_tokens))
    unasked = evaluate(tiny_llama, random_tokens, reference=evaluate(tiny_llama, random_tokens))
    assert dataclasses.asdict(unasked) == dataclasses.asdict(asked)
    assert unasked.bit_equal
    assert unasked.logits is None  # it has a reference itself: nothing of it is kept


def test_a_reference_without_log_probabilities_is_refused(
    tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor
) -> None:
    without = evaluate(tiny_llama, random_tokens, keep_log_probabilities=False)
    with pytest.raises(ValueError, match=r"told not to; evaluate it with keep_log_probabilities=True$"):
        evaluate(tiny_llama, random_tokens, reference=without)
    second = evaluate(tiny_llama, random_tokens, reference=keep(tiny_llama, random_tokens))
    with pytest.raises(
        ValueError, match=r"a reference of its own; evaluate it with keep_log_probabilities=True$"
    ):
        evaluate(tiny_llama, random_tokens, reference=second)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "inf"])
@pytest.mark.parametrize(
    ("culprit", "quantized"),
    [
        ("model.layers.0.self_attn.v_proj (Linear)", False),
        ("model.layers.1.mlp.up_proj (Linear)", False),
        ("model.layers.1.mlp.up_proj (Linear)", True),
        ("lm_head (Linear)", False),
    ],
)
def test_logits_that_are_not_finite_name_the_first_module(
    culprit: str,
    quantized: bool,
    value: float,
    tiny_llama: LlamaForCausalLM,
    random_tokens: torch.Tensor,
    converted: Convert,
) -> None:
    name = culprit.partition(" ")[0]
    tiny_llama.get_parameter(f"{name}.weight")[3, 4] = value
    if quantized:
        converted(tiny_llama, recipe("mxfp8_e4m3", tier="A"))
    message = "the first module to produce NaN or infinity is "
    with pytest.raises(NonFiniteLogitsError) as caught:
        evaluate(tiny_llama, random_tokens, batch_size=2)

    assert str(caught.value).endswith(message + culprit)
    assert not any(module._forward_hooks for module in tiny_llama.modules())


def test_a_later_batch_is_searched_for_the_module_too(
    tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor
) -> None:
    random_tokens[:6].clamp_(max=90)
    random_tokens[6, 5] = 95
    tiny_llama.model.embed_tokens.weight[95] = math.nan
    with pytest.raises(NonFiniteLogitsError, match=r"is model\.embed_tokens \(Embedding\)$"):
        evaluate(tiny_llama, random_tokens, batch_size=2)


def test_a_model_in_training_mode_is_scored_without_dropout(tiny_llama: LlamaForCausalLM) -> None:
    tokens = torch.arange(2, 34)[None]
    expected = evaluate(tiny_llama, tokens).cross_entropy
    for layer in tiny_llama.model.layers:
        layer.self_attn.attention_dropout = 0.5
    tiny_llama.train()
    tiny_llama.lm_head.eval()
    assert evaluate(tiny_llama, tokens).cross_entropy == expected
    assert tiny_llama.training
    assert not tiny_llama.lm_head.training


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number from 1 on, got 0"),
        ({"reference_cache": "x"}, "reference_cache must be a whole number from 0 on, got 'x'"),
        ({"reference_cache": -1}, "reference_cache must be a whole number from 0 on, got -1"),
    ],
)
def test_sizes_that_are_none_are_refused(
    given: dict[str, Any], line: str, tiny_llama: LlamaForCausalLM, random_tokens: torch.Tensor
) -> None:
    with pytest.raises(ValueError, match=f"^{line}$"):
        evaluate(tiny_llama, random_tokens, **given)
