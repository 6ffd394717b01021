"""Evaluation text sampled from the model that is evaluated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from mxcheck.models.load import positions

__all__ = ["sample_tokens"]


def sample_tokens(
    model: PreTrainedModel,
    *,
    sequences: int,
    length: int,
    seed: int,
    batch_size: int = 32,
    progress: Callable[[int], object] | None = None,
) -> torch.Tensor:
    """Sample token sequences from the model's own distribution.

    Every sequence starts with `config.bos_token_id`; each of its other `length - 1` tokens is drawn from
    softmax(logits) at temperature 1 over the whole vocabulary. Nothing is suppressed, no top-k or top-p
    applies, and an end-of-sequence token is a token like any other: the sequence goes on after it.

    Why text of the model's own: let p be this model and q the same model quantized. On text sampled from p,
    E[-log p] is the entropy of p, and E[-log q] - E[-log p] is KL(p || q), in nats a token. So the
    reference's cross-entropy equals its entropy, and the expected rise of the cross-entropy equals the KL
    divergence: but for sampling noise, quantization can only raise the loss. Neither holds on other text.

    Args:
        model: a causal language model that supports a key-value cache; it is put into eval mode for the call.
        sequences: number of sequences, at least 1.
        length: tokens a sequence, the first one (BOS) included; from 1 to the model's number of positions.
        seed: of the uniform numbers, which are drawn on the CPU for all sequences at once. The result is
            deterministic on one machine; other batch sizes, threads or instruction sets change the logits'
            last bits only, and so hardly ever a token.
        batch_size: sequences that go through the model together.
        progress: called with the number of tokens just sampled (`tqdm.update` fits).

    Returns:
        Token ids, int64 [sequences, length], on the CPU.
    """
    for name, value in (("sequences", sequences), ("length", length), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    bos = model.config.bos_token_id
    if bos is None:
        raise ValueError(
            f"{type(model).__name__} has no BOS token to start from: config.bos_token_id is None; set it to "
            f"a token id from 0 to {model.config.vocab_size - 1}"
        )
    limit = positions(model.config.get_text_config())
    if limit is not None and length > limit:
        raise ValueError(
            f"length must be at most the model's {limit} positions, got {length}; "
            f"give --length {limit} or less"
        )

    # `model.generate` is no use here: it stops at EOS, or masks EOS with min_new_tokens, fills unset options
    # (top_k, EOS ids) from the model's generation_config, and draws from the global random state.
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(sequences, length - 1, dtype=torch.float64, generator=generator)
    tokens = torch.full((sequences, length), bos, dtype=torch.int64)
    was_training = model.training
    model.train(False)
    try:
        for start in range(0, sequences, batch_size):
            rows = slice(start, start + batch_size)
            _continue(model, tokens[rows], uniforms[rows], progress)
    finally:
        model.train(was_training)
    return tokens


@torch.inference_mode()
def _continue(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    uniforms: torch.Tensor,
    progress: Callable[[int], object] | None,
) -> None:
    """Fill columns 1.. of `tokens` [rows, length] in place, one token a step, with the key-value cache."""
    cache = None
    for column in range(1, tokens.shape[1]):
        newest = tokens[:, column - 1 : column].to(model.device)
        output = model(input_ids=newest, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        if cache is None:
            raise ValueError(f"{type(model).__name__} returned no key-value cache; sampling needs one")
        tokens[:, column] = _draw(output.logits[:, -1].cpu(), uniforms[:, column - 1])
        if progress is not None:
            progress(len(tokens))


def _draw(logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """A token id for each row of `logits` [rows, vocabulary], by inverting the CDF in float64."""
    cumulated = logits.double().softmax(dim=-1).cumsum(dim=-1)
    if not torch.isfinite(cumulated).all():
        raise ValueError("cannot sample: the model's logits are not finite; check its weights")
    # right=True: the first token whose cumulated probability exceeds the target, so one of probability zero
    # is never drawn. Scaling by the last column undoes the rounding of a sum that is not exactly 1.
    targets = uniforms[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, targets, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
