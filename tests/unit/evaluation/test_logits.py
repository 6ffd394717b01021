"""Logits in chunks of positions, and a reference whose logits are computed again."""

from __future__ import annotations

import copy
import dataclasses
import gc
import math
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace

import pytest
import torch
from architectures import ARCHITECTURES, tiny
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from mxcheck.evaluation import logits as module
from mxcheck.evaluation.finite import NonFiniteLogitsError
from mxcheck.evaluation.logits import HeadLogits, WholeLogits, chunks, decoder_of, passes
from mxcheck.evaluation.measure import Measurement, evaluate
from mxcheck.models.conversion.convert import Conversion, convert
from mxcheck.models.recipes.recipe import Recipe, recipe

Convert = Callable[[PreTrainedModel, Recipe], Conversion]

#: fp32 products whose rows come in other numbers may sum in another order: 2^-24 on logits of order 10.
FLOAT32 = 1e-4

_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "attn_implementation": "eager",
}
#: What follows the output embedding is large enough to be missed.
_BEHIND_THE_HEAD = {
    "soft-capping": lambda: Gemma2Config(**_SHAPE, head_dim=16, final_logit_softcapping=2.0),
    "logit-scale": lambda: CohereConfig(**_SHAPE, logit_scale=3.0),
    "logits-scaling": lambda: GraniteConfig(**_SHAPE, logits_scaling=0.25),
}


def model_of(name: str) -> PreTrainedModel:
    if name not in _BEHIND_THE_HEAD:
        return tiny(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(_BEHIND_THE_HEAD[name](), dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)


@pytest.fixture
def text() -> torch.Tensor:
    """Three sequences of 24 tokens of a vocabulary of 256."""
    return torch.randint(3, 256, (3, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every vocabulary is a large one: chunks of 7 rows of 256 tokens."""
    monkeypatch.setattr(module, "SMALL", 0)
    monkeypatch.setattr(module, "CHUNK", 7 * 256)


def keep(model: nn.Module, tokens: torch.Tensor, batch_size: int = 8) -> Measurement:
    """A reference whose logits are computed again each time, where they are many."""
    return evaluate(model, tokens, keep_log_probabilities=True, batch_size=batch_size, reference_cache=0)


def held_whole(reference: Measurement) -> Measurement:
    """The same reference with its logits as they are now."""
    assert isinstance(reference.logits, HeadLogits)
    with torch.inference_mode():
        sequences = [
            torch.cat([reference.logits.rows(index, rows) for rows in chunks(len(hidden), 256)])
            for index, hidden in enumerate(reference.logits.sequences)
        ]
    return dataclasses.replace(reference, logits=WholeLogits(sequences=sequences))


def figures(measurement: Measurement) -> dict[str, object]:
    return {
        field.name: getattr(measurement, field.name)
        for field in dataclasses.fields(measurement)
        if field.name not in ("logits", "not_kept")
    }


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("name", [*ARCHITECTURES, *_BEHIND_THE_HEAD])
def test_chunks_are_the_models_own_logits(name: str, text: torch.Tensor) -> None:
    model = model_of(name)
    with torch.inference_mode():
        whole = model(input_ids=text, use_cache=False).logits[:, :-1]
        ((batch, logits),) = passes(model, text, 8)
        assert isinstance(logits, HeadLogits)
        for index in range(len(batch)):
            parts = [logits.rows(index, rows) for rows in chunks(23, 256)]
            assert [len(part) for part in parts] == [7, 7, 7, 2]
            torch.testing.assert_close(torch.cat(parts), whole[index], atol=FLOAT32, rtol=0)
    assert whole.std() > 0.1, "logits that differ, or rows that are mixed up could not be seen"
    decoder = decoder_of(model)
    assert decoder is not None
    assert "forward" not in vars(decoder)
    assert not decoder._forward_hooks


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    "changed", [recipe("bf16"), recipe("mxfp4_e2m1", tier="linears")], ids=["bf16", "head"]
)
@pytest.mark.parametrize(
    "name",
    [
        "llama-3.1-8b",
        "gpt2",
        "gemma3-1b",
        "mpt-30b",
        "opt-125m",
        "qwen3-0.6b",
        "mixtral-8x7b",
        *_BEHIND_THE_HEAD,
    ],
)
def test_a_reference_computed_again_is_the_one_kept_whole(
    name: str, changed: Recipe, text: torch.Tensor, converted: Convert
) -> None:
    """GPT-2 and Qwen3 tie the output embedding to the input's, which the conversion then leaves behind."""
    model = model_of(name)
    reference = keep(model, text)
    whole = held_whole(reference)
    conversion = converted(model, changed)
    again = evaluate(model, text, reference=reference)

    assert figures(again) == figures(evaluate(model, text, reference=whole))
    assert again.bit_equal is False
    assert again.kl is not None
    assert again.kl > 0
    conversion.undo()
    assert evaluate(model, text, reference=reference).bit_equal is True


#: Of one sequence of 23 positions, in fp32.
SEQUENCE = 23 * 256 * 4


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    ("room", "sequences"),
    [(0, []), (SEQUENCE - 1, []), (SEQUENCE, [0]), (3 * SEQUENCE - 1, [0, 1]), (2**29, [0, 1, 2])],
)
def test_as_many_sequences_are_cached_as_fit_and_change_no_bit(
    room: int, sequences: list[int], text: torch.Tensor, converted: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llama-3.1-8b")
    plain = keep(model, text)
    cached = evaluate(model, text, keep_log_probabilities=True, reference_cache=room)
    assert isinstance(cached.logits, HeadLogits)
    assert [*cached.logits.cached] == sequences
    assert figures(cached) == figures(plain)

    converted(model, recipe("mxfp4_e2m1", tier="A"))
    expected = figures(evaluate(model, text, reference=plain))
    computed: list[nn.Module] = []
    answering = module._answering

    def counted(decoder: nn.Module, answer: object) -> AbstractContextManager[None]:
        computed.append(decoder)
        return answering(decoder, answer)

    monkeypatch.setattr(module, "_answering", counted)
    assert figures(evaluate(model, text, reference=cached)) == expected
    of_the_reference = [one for one in computed if one is cached.logits.decoder]
    assert len(of_the_reference) == 4 * (3 - len(sequences)), "a sequence has four chunks"
    assert len(computed) == len(of_the_reference) + 4 * 3


@pytest.mark.usefixtures("large")
def test_a_reference_outlives_its_model(text: torch.Tensor) -> None:
    """All that it holds is the head."""
    model = tiny("llama-3.1-8b")
    reference, other, decoder = keep(model, text), copy.deepcopy(model), weakref.ref(model.model)
    del model
    gc.collect()

    assert decoder() is None
    assert evaluate(other, text, reference=reference).bit_equal is True


@pytest.mark.usefixtures("large")
def test_a_reference_shares_the_heads_storage(text: torch.Tensor) -> None:
    model = tiny("llama-3.1-8b")
    reference = keep(model, text)

    assert isinstance(reference.logits, HeadLogits)
    assert reference.logits.model.lm_head.weight.data_ptr() == model.lm_head.weight.data_ptr()
    assert [list(hidden.shape) for hidden in reference.logits.sequences] == [[23, 64]] * 3
    assert {hidden.device.type for hidden in reference.logits.sequences} == {"cpu"}


@pytest.mark.usefixtures("large")
def test_an_output_embedding_overwritten_in_place_is_seen(text: torch.Tensor) -> None:
    model = tiny("llama-3.1-8b")
    reference = keep(model, text)
    model.lm_head.weight[5] += 0.5
    with pytest.raises(ValueError, match="its output embedding was overwritten") as caught:
        evaluate(model, text, reference=reference)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("batch_size", [1, 2])
def test_batch_size_changes_no_bit(batch_size: int, text: torch.Tensor) -> None:
    model = tiny("llama-3.1-8b")
    reference = keep(model, text)

    assert figures(keep(model, text, batch_size)) == figures(reference)
    assert evaluate(model, text, reference=reference, batch_size=batch_size).bit_equal is True


def test_chunks_of_rows_change_no_bit(monkeypatch: pytest.MonkeyPatch, text: torch.Tensor) -> None:
    """Of whole logits: the sums are by row."""
    model = tiny("llama-3.1-8b")
    reference = keep(model, text)
    monkeypatch.setattr(module, "CHUNK", 7 * 256)

    assert figures(keep(model, text)) == figures(reference)


def test_tokens_and_vocabulary_decide_what_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama-3.1-8b")
    text = torch.zeros(3, 24, dtype=torch.int64)
    for limit, kind in ((3 * 24 * 256, WholeLogits), (3 * 24 * 256 - 1, HeadLogits)):
        monkeypatch.setattr(module, "SMALL", limit)
        with torch.inference_mode():
            assert {type(logits) for _, logits in passes(model, text, 1)} == {kind}


@pytest.mark.parametrize("rows", [1, 5, 12])
def test_chunks_cover_every_row_once(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 99)
    for vocabulary in (9, 20, 99, 100, 1000):
        parts = list(chunks(rows, vocabulary))
        assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
        assert all(
            (part.stop - part.start) * vocabulary <= 99 or part.stop - part.start == 1 for part in parts
        )


class OnlyWhole(LlamaForCausalLM):
    """Gives no rows: its forward takes no `logits_to_keep`."""

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:  # type: ignore[override]
        self.seen.append(len(input_ids))
        return SimpleNamespace(logits=super().forward(input_ids=input_ids, use_cache=use_cache).logits)


def only_whole() -> OnlyWhole:
    model = OnlyWhole(tiny("llama-3.1-8b").config).eval().requires_grad_(False)
    model.seen = []
    return model


def test_whole_logits_go_through_in_passes_that_are_small(
    monkeypatch: pytest.MonkeyPatch, text: torch.Tensor
) -> None:
    model, per_sequence = only_whole(), 24 * 256
    expected = evaluate(model, text)
    for limit, batches in ((3 * per_sequence, [3]), (2 * per_sequence, [2, 1]), (1, [1, 1, 1])):
        model.seen.clear()
        monkeypatch.setattr(module, "SMALL", limit)
        assert evaluate(model, text).sequence_losses == pytest.approx(expected.sequence_losses, abs=FLOAT32)
        assert model.seen == batches


def test_too_many_logits_that_come_only_whole_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, text: torch.Tensor
) -> None:
    monkeypatch.setattr(module, "SMALL", 2 * 24 * 256)
    message = (
        r"^3 sequences of 24 tokens over a vocabulary of 256 are too many log-probabilities to keep "
        r"\(0.0001373 GiB, allowed 9.155e-05\), and OnlyWhole cannot compute .*; take fewer or shorter "
        r"sequences$"
    )
    with pytest.raises(ValueError, match=message):
        keep(only_whole(), text)
    assert keep(only_whole(), text[:2]).logits is not None


class Twice(LlamaForCausalLM):
    """Runs its decoder twice, so its output is not what the head gets."""

    def forward(self, input_ids: torch.Tensor, logits_to_keep: int = 0, **more: object) -> object:  # type: ignore[override]
        self.model(input_ids=input_ids)
        return super().forward(input_ids=input_ids, logits_to_keep=logits_to_keep, **more)


@pytest.mark.usefixtures("large")
def test_a_decoder_that_runs_twice_is_refused(text: torch.Tensor) -> None:
    model = Twice(tiny("llama-3.1-8b").config).eval()
    with pytest.raises(ValueError, match=r"Twice does not call its decoder \(LlamaModel\) once") as caught:
        evaluate(model, text)
    assert "\n" not in str(caught.value)
    assert not model.model._forward_hooks


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "inf"])
@pytest.mark.parametrize(
    "culprit", ["model.layers.0.self_attn.v_proj", "model.layers.1.mlp.up_proj", "lm_head"]
)
def test_chunks_that_are_not_finite_name_the_first_module(
    culprit: str, value: float, text: torch.Tensor
) -> None:
    model = tiny("llama-3.1-8b")
    model.get_parameter(f"{culprit}.weight")[3, 4] = value
    with pytest.raises(NonFiniteLogitsError) as caught:
        evaluate(model, text, batch_size=2)

    assert str(caught.value).endswith(f"the first module to produce NaN or infinity is {culprit} (Linear)")
    assert not any(one._forward_hooks or "forward" in vars(one) for one in model.modules())


@pytest.mark.usefixtures("large")
def test_a_later_chunk_of_a_later_sequence_is_searched(text: torch.Tensor) -> None:
    text.clamp_(max=250)
    text[2, 20] = 255
    model = tiny("llama-3.1-8b")
    model.model.embed_tokens.weight[255] = math.nan
    with pytest.raises(NonFiniteLogitsError, match=r"is model\.embed_tokens \(Embedding\)$"):
        evaluate(model, text, batch_size=2)


@pytest.mark.usefixtures("large")
def test_a_head_that_overflows_at_one_position_is_named(text: torch.Tensor) -> None:
    """The search asks for the logits of the rows that were at fault, not of all and not of the last."""
    model = tiny("llama-3.1-8b")
    hidden = model.model(input_ids=text[1:2], use_cache=False).last_hidden_state[0, 8]
    model.lm_head.weight[3] = 1.3 * (hidden * (3e38 / hidden.square().sum()))  # fp32 ends at 3.4e38
    with torch.inference_mode():
        whole = model(input_ids=text, use_cache=False).logits
    assert (~torch.isfinite(whole)).nonzero().tolist() == [[1, 8, 3]]
    with pytest.raises(NonFiniteLogitsError, match=r"is lm_head \(Linear\)$"):
        evaluate(model, text)


@pytest.mark.usefixtures("large")
def test_a_forward_of_the_decoders_own_comes_back(text: torch.Tensor) -> None:
    """Libraries that spread a model over devices put one there."""
    model = tiny("llama-3.1-8b")
    before, calls = model.model.forward, []

    def forward(*args: object, **kwargs: object) -> object:
        calls.append(1)
        return before(*args, **kwargs)

    model.model.forward = forward
    expected = convert(model, recipe("fp32"))
    result = evaluate(model, text, batch_size=3)
    expected.undo()

    assert calls == [1]
    assert model.model.forward is forward
    del model.model.forward
    assert figures(evaluate(model, text)) == figures(result)


@pytest.mark.usefixtures("large")
def test_what_is_kept_unasked_has_a_bound(text: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama-3.1-8b")
    size = 3 * 23 * 64 * 4  # sequences, positions, width, bytes
    monkeypatch.setattr(module, "KEPT_BYTES", size)
    within = evaluate(model, text)
    assert within.logits is not None
    assert within.not_kept == ""
    assert evaluate(model, text, reference=within).bit_equal

    monkeypatch.setattr(module, "KEPT_BYTES", size - 1)
    beyond = evaluate(model, text)
    assert beyond.logits is None
    assert figures(beyond) == figures(within)
    with pytest.raises(
        ValueError,
        match=r"keeps no log-probabilities: the decoder's output for 3 sequences of 24 tokens takes .* GiB "
        r"of host memory, .* evaluate the reference with keep_log_probabilities=True, or take fewer",
    ) as caught:
        evaluate(model, text, reference=beyond)
    assert "\n" not in str(caught.value)
    assert evaluate(model, text, reference=keep(model, text)).bit_equal


@pytest.mark.usefixtures("large")
def test_logits_that_cannot_be_kept_are_measured_all_the_same(text: torch.Tensor) -> None:
    model = model_of("llama-3.1-8b")
    model.get_decoder = lambda: model  # one that computes nothing again
    found = evaluate(model, text)
    assert found.logits is None
    with pytest.raises(ValueError, match=r"too many log-probabilities to keep .* cannot compute them again"):
        evaluate(model, text, reference=found)
