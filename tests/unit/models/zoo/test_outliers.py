from collections.abc import Callable

import pytest
import torch
from transformers import GPTNeoConfig, GPTNeoForCausalLM, LlamaForCausalLM, PreTrainedModel

from mxcheck.models.zoo.load import LoadedModel, weights_fingerprint
from mxcheck.models.zoo.outliers import CHANNELS, FACTOR, add_outliers

ReferenceModel = Callable[[str], LoadedModel]
Tokens = Callable[[LoadedModel], torch.Tensor]

NORMS = [
    *(
        f"model.layers.{i}.{norm}"
        for i in range(4)
        for norm in ("input_layernorm", "post_attention_layernorm")
    ),
    "model.norm",
]


def run(model: PreTrainedModel, ids: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The logits, and the output of every norm."""
    outputs: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, name=name: outputs.__setitem__(name, output)
        )
        for name in NORMS
    ]
    try:
        with torch.no_grad():
            return model(input_ids=ids, use_cache=False).logits, outputs
    finally:
        for handle in handles:
            handle.remove()


def test_outliers_change_activations_and_weights_but_no_bit_of_the_logits(
    reference_model: ReferenceModel, tokens: Tokens
) -> None:
    plain, outlier = reference_model("ref-llama"), reference_model("outlier-llama")
    expected, ordinary = run(plain.model, tokens(plain))
    result, spread = run(outlier.model, tokens(plain))

    assert torch.equal(result, expected)
    assert plain.weights_fingerprint != outlier.weights_fingerprint
    rest = [c for c in range(128) if c not in CHANNELS]
    for norm in NORMS:
        # a power of two moves no significand: exactly 16 times, channel by channel
        assert torch.equal(spread[norm][..., CHANNELS], FACTOR * ordinary[norm][..., CHANNELS])
        assert torch.equal(spread[norm][..., rest], ordinary[norm][..., rest])


@pytest.mark.parametrize("norm", NORMS)
def test_a_block_of_32_neighbours_now_has_one_channel_far_above_its_median(
    norm: str, reference_model: ReferenceModel, tokens: Tokens
) -> None:
    def ratio(name: str) -> float:
        amax = run(reference_model(name).model, tokens(reference_model(name)))[1][norm].abs().amax((0, 1))
        return float((amax[list(CHANNELS)] / amax.reshape(4, 32).median(1).values).mean())

    # Every block of 32 holds one of the four channels. Its median may be another channel now, hence not
    # exactly 16; half of that is far above what any ordinary channel has.
    assert sorted(channel // 32 for channel in CHANNELS) == [0, 1, 2, 3]
    assert ratio("outlier-llama") > FACTOR / 2 * ratio("ref-llama")


def test_embeddings_and_what_reads_no_norm_keep_their_weights(reference_model: ReferenceModel) -> None:
    plain = dict(reference_model("ref-llama").model.named_parameters())
    outlier = dict(reference_model("outlier-llama").model.named_parameters())
    same = {name for name in plain if torch.equal(plain[name], outlier[name])}

    assert same == {
        "model.embed_tokens.weight",
        *(
            f"model.layers.{i}.{name}.weight"
            for i in range(4)
            for name in ("self_attn.o_proj", "mlp.down_proj")
        ),
    }


@pytest.mark.parametrize("factor", [3.0, 0.0, -16.0, 15.999, float("inf"), float("nan")])
def test_a_factor_that_would_round_is_refused(factor: float, tiny_llama: LlamaForCausalLM) -> None:
    before = weights_fingerprint(tiny_llama)
    with pytest.raises(ValueError, match="must be a power of two"):
        add_outliers(tiny_llama, channels=(5,), factor=factor)

    assert weights_fingerprint(tiny_llama) == before


def test_tied_embeddings_are_refused(tiny_llama: LlamaForCausalLM) -> None:
    tiny_llama.config.tie_word_embeddings = True
    before = weights_fingerprint(tiny_llama)
    with pytest.raises(ValueError, match="need untied embeddings"):
        add_outliers(tiny_llama, channels=(5,))

    assert weights_fingerprint(tiny_llama) == before


def test_other_architectures_are_refused() -> None:
    config = GPTNeoConfig(
        vocab_size=64,
        hidden_size=32,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    with pytest.raises(ValueError, match="Llama models, got GPTNeoForCausalLM"):
        add_outliers(GPTNeoForCausalLM(config))
