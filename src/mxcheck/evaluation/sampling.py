"""Evaluation text sampled from the model that is evaluated."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from mxcheck.evaluation.logits import SMALL, vocabulary_of
from mxcheck.files.printed import told
from mxcheck.models.zoo.load import positions

__all__ = ["sample_tokens"]


#: Names of a cache among a forward's arguments and results: keys and values, or the states of a state-space
#: model.
_CACHES = ("past_key_values", "cache_params")

#: How far the logits after the last token may differ with and without the cache: standard deviation of the
#: difference, in standard deviations of the logits. Measured on the reference models: 5e-7 in fp32, 6e-4 in
#: fp16, 4e-3 in bf16. Differences below a 16-bit bound are still detected by rotary frequencies that changed.
_SAME = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
_SAME_FP32 = 1e-4

#: Number of sequences that are compared.
_COMPARED = 4

#: Errors in the forward of a model that cannot use its own cache (out-of-memory errors pass through).
_FAILED_STEP = (ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError)


def sample_tokens(
    model: PreTrainedModel,
    *,
    sequences: int,
    length: int,
    seed: int,
    batch_size: int = 32,
    progress: Callable[[int], object] | None = None,
    tell: Callable[[str], object] | None = None,
) -> torch.Tensor:
    """Sample token sequences from the model's own distribution.

    Every sequence starts with `config.bos_token_id`; each of its other `length - 1` tokens is drawn from
    softmax(logits) at temperature 1 over the whole vocabulary. Nothing is suppressed, no top-k or top-p
    applies, and an end-of-sequence token is a token like any other: the sequence goes on after it.

    Why the model's own text: let p be this model and q the same model quantized. On text sampled from p,
    E[-log p] is the entropy of p, and E[-log q] - E[-log p] is KL(p || q), in nats per token. So the
    reference's cross-entropy equals its entropy, and the expected rise of the cross-entropy equals the KL
    divergence: except for sampling noise, quantization can only raise the loss. Neither holds on other text.

    The text must come from the model as it is evaluated: all of a sequence in one pass. A cache may give
    another model: keys that were rotated when the sequence was shorter, where frequencies depend on its
    length (longrope, dynamic NTK). So the first batch is sampled with the cache, and its last logits are
    compared with those of one pass over the whole. If they differ (or there is no cache, or it fails), every
    token is drawn from a pass over all `length` positions, with later ones filled with BOS: at least `length`
    / 2 times the work. For a model whose frequencies depend on the length, such text is its own at that
    length alone.

    Args:
        model: a causal language model; put into eval mode for the call.
        sequences: number of sequences, at least 1.
        length: tokens per sequence, including the first one (BOS); from 1 to the model's number of positions.
        seed: seed of the uniform numbers, which are drawn on the CPU for all sequences at once. The result is
            deterministic on one machine; other batch sizes, threads or instruction sets change only the last
            bits of logits, and so hardly ever a token.
        batch_size: sequences per pass.
        progress: called with the number of tokens just sampled (`tqdm.update` fits); a negative number takes
            back a batch that is sampled again without the cache.
        tell: called with the reason, in one line, if tokens are sampled without a cache.

    Returns:
        Token ids, int64 [sequences, length], on the CPU.

    Raises ValueError, in one line, for sizes that are not allowed, a model without a BOS in its vocabulary,
    logits that are not finite, and a model whose logits depend on later tokens.
    """
    for name, value in (("sequences", sequences), ("length", length), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    bos = _bos(model)
    limit = positions(model.config.get_text_config())
    if limit is not None and length > limit:
        raise ValueError(
            f"length must be at most the model's {limit} positions, got {length}; "
            f"give --length {limit} or less"
        )

    # `model.generate` does not fit: it stops at EOS, or masks EOS with min_new_tokens, fills unset options
    # (top_k, EOS ids) from the model's generation_config, and draws from the global random state.
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(sequences, length - 1, dtype=torch.float64, generator=generator)
    tokens = torch.full((sequences, length), bos, dtype=torch.int64)
    advance = progress or (lambda _: None)
    was_training = model.training
    model.train(False)
    try:
        reason = _sample_with_cache(model, tokens, uniforms, batch_size, advance)
        if reason is not None:
            if tell is not None:
                tell(f"sampling without a cache: {reason}")
            tokens[:, 1:] = bos
            batch_size = _rows_at_once(model, batch_size, length)
            for start in range(0, sequences, batch_size):
                rows = slice(start, start + batch_size)
                _fill_whole(model, tokens[rows], uniforms[rows], advance)
    finally:
        model.train(was_training)
    return tokens


def _bos(model: PreTrainedModel) -> int:
    """Return the token that a sequence starts with, by the configuration (of the text model, where the model
    has several parts)."""
    kind, text = type(model).__name__, model.config.get_text_config()
    embedding = model.get_input_embeddings()
    vocabulary = getattr(embedding, "num_embeddings", None) or int(text.vocab_size)
    bos = getattr(model.config, "bos_token_id", None)
    bos = getattr(text, "bos_token_id", None) if bos is None else bos
    if bos is None:
        raise ValueError(
            f"{kind} has no BOS token to start from: config.bos_token_id is None; set it to "
            f"a token id from 0 to {vocabulary - 1}"
        )
    if not isinstance(bos, int) or not 0 <= bos < vocabulary:
        raise ValueError(
            f"{kind} cannot start from its BOS token: config.bos_token_id is {bos!r}, outside the "
            f"vocabulary; set it to a token id from 0 to {vocabulary - 1}"
        )
    return bos


def _cache_name(model: PreTrainedModel) -> str | None:
    """Return the name of the cache in the model's forward; None if it takes none."""
    parameters = inspect.signature(type(model).forward).parameters
    return next((name for name in _CACHES if name in parameters), None)


def _sample_with_cache(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    uniforms: torch.Tensor,
    batch_size: int,
    progress: Callable[[int], object],
) -> str | None:
    """Fill columns 1.. of `tokens` with the cache. Returns None; or, after the first batch, why the cache
    cannot be used: the batch is then taken back from `progress`."""
    name = _cache_name(model)
    if name is None:
        return "the model takes none"
    for start in range(0, len(tokens), batch_size):
        rows, told = slice(start, start + batch_size), list[int]()

        def count(number: int, told: list[int] = told) -> None:
            told.append(number)
            progress(number)

        reason = _fill_with_cache(model, name, tokens[rows], uniforms[rows], count, compare=start == 0)
        if reason is not None:
            progress(-sum(told))
            return reason
    return None


@torch.inference_mode()
def _fill_with_cache(
    model: PreTrainedModel,
    name: str,
    tokens: torch.Tensor,
    uniforms: torch.Tensor,
    progress: Callable[[int], object],
    *,
    compare: bool,
) -> str | None:
    """Fill columns 1.. of `tokens` [rows, length] in place, one token per step, with the cache called `name`.
    With `compare`, returns why the cache cannot be used, else None."""
    cache, frequencies = None, None
    for column in range(tokens.shape[1] if compare else tokens.shape[1] - 1):
        newest = tokens[:, column : column + 1].to(model.device)
        try:
            output = model(input_ids=newest, use_cache=True, **{name: cache})
        except _FAILED_STEP as error:
            if not compare:
                raise
            return f"its cache fails at token {column}: {type(error).__name__}: {told(error)}"
        cache = getattr(output, name, None)
        if cache is None:
            return "the model returns none"
        frequencies = _frequencies(model) if frequencies is None else frequencies
        last = output.logits[:, -1]
        if column < tokens.shape[1] - 1:
            tokens[:, column + 1] = _draw(last.cpu(), uniforms[:, column])
            progress(len(tokens))
    return _difference(model, tokens, last, frequencies or {}) if compare else None


def _difference(
    model: PreTrainedModel, tokens: torch.Tensor, cached: torch.Tensor, frequencies: dict[str, torch.Tensor]
) -> str | None:
    """Return how the cache's logits [rows, vocabulary] after the last token differ from those of a pass over
    all tokens; None if they do not. `frequencies`: the rotary ones after the first token."""
    for row in range(min(len(tokens), _COMPARED)):
        whole = _logits_at(model, tokens[row : row + 1], tokens.shape[1] - 1)[0].double()
        apart = float((cached[row].double() - whole).std() / whole.std())
        if not apart <= _SAME.get(model.dtype, _SAME_FP32):
            return (
                f"its logits after {tokens.shape[1]} tokens are other ones with it, by {apart:.2g} of their "
                f"standard deviation"
            )
    moved = [
        name
        for name, value in _frequencies(model).items()
        if name in frequencies and not torch.equal(value, frequencies[name])
    ]
    return f"{moved[0]} depends on the length of the sequence" if moved else None


def _frequencies(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Copy the frequencies of rotary embeddings, as the last pass left them."""
    return {name: value.clone() for name, value in model.named_buffers() if name.endswith("inv_freq")}


@torch.inference_mode()
def _fill_whole(
    model: PreTrainedModel, tokens: torch.Tensor, uniforms: torch.Tensor, progress: Callable[[int], object]
) -> None:
    """Fill columns 1.. of `tokens` [rows, length] in place, each from a pass over all columns: frequencies
    that depend on the length are then those of the evaluation, and later columns are masked."""
    first = None
    for column in range(1, tokens.shape[1]):
        logits = _logits_at(model, tokens, column - 1)
        first = logits if first is None else first
        tokens[:, column] = _draw(logits.cpu(), uniforms[:, column - 1])
        progress(len(tokens))
    if first is None:
        return
    again = _logits_at(model, tokens, 0)
    if not float((again - first).double().std()) <= 1e-2 * float(first.double().std()):
        raise ValueError(
            f"{type(model).__name__} is no causal language model: its logits after the first token depend on "
            f"the tokens that follow; it has no text of its own to sample"
        )


def _logits_at(model: PreTrainedModel, tokens: torch.Tensor, position: int) -> torch.Tensor:
    """Return the logits [rows, vocabulary] at a position, from a pass over tokens [rows, length] without a
    cache."""
    ids = tokens.to(model.device)
    if _keeps_logits(model):
        kept = torch.tensor([position], device=model.device)
        logits: torch.Tensor = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits
        return logits[:, -1]
    logits = model(input_ids=ids, use_cache=False).logits
    return logits[:, position]


def _keeps_logits(model: PreTrainedModel) -> bool:
    return "logits_to_keep" in inspect.signature(type(model).forward).parameters


def _rows_at_once(model: PreTrainedModel, batch_size: int, length: int) -> int:
    """Return the number of sequences per pass for a model that returns all of their logits."""
    if _keeps_logits(model):
        return batch_size
    return max(1, min(batch_size, SMALL // (length * max(1, vocabulary_of(model)))))


def _draw(logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draw a token id for each row of `logits` [rows, vocabulary], by inverting the CDF in float64."""
    cumulated = logits.double().softmax(dim=-1).cumsum(dim=-1)
    if not torch.isfinite(cumulated).all():
        raise ValueError("cannot sample: the model's logits are not finite; check its weights")
    # right=True: the first token whose cumulative probability exceeds the target, so one of probability zero
    # is never drawn. Scaling by the last column corrects a sum that rounding left unequal to 1.
    targets = uniforms[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, targets, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)
