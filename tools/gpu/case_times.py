"""Where the time of a case goes: each step's seconds over those of the bare forward passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import mxcheck
from gpu import seen_lines
from mxcheck.evaluation.layer_states import reference_states
from mxcheck.evaluation.sublayer_errors import sublayer_errors
from mxcheck.evaluation.tokens import load_tokens
from mxcheck.models.conversion.probe import digests

_PRECISION, _TIER, _TOGETHER = "fp8_e4m3", "B", 8
#: Of a made-up Llama whose products are as large as a real one's: it says nothing of accuracy.
_MADE = {False: (2048, 5632, 8, 32000), True: (64, 160, 2, 256)}  # width, MLP, layers, vocabulary
_TEXT = {False: (16, 1024), True: (2, 32)}  # sequences, tokens of each


def measure(device: str, *, short: bool) -> tuple[dict[str, Any], list[str]]:
    """Seconds and shares of each step, of a reference model and of a made-up one of real width."""
    loaded, seconds = _timed(lambda: mxcheck.load("ref-llama", device=device), device)
    assert loaded.source.tokens is not None
    tokens = load_tokens(loaded.source.tokens)
    seen_lines.stop()  # what follows is timed
    rows = [_row("ref-llama", loaded.model, tokens[:2, :32] if short else tokens, device, {"load": seconds})]
    model, seconds = _timed(lambda: _made(device, short=short), device)
    tokens = torch.randint(0, _MADE[short][3], _TEXT[short], generator=torch.Generator().manual_seed(1))
    rows.append(_row("made-up Llama", model, tokens, device, {}))
    return {"precision": _PRECISION, "tier": _TIER, "cases": rows}, []


def _made(device: str, *, short: bool) -> PreTrainedModel:
    width, mlp, layers, vocabulary = _MADE[short]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=width // 64 if width > 64 else 2,
        max_position_embeddings=2048,
        attn_implementation="eager",  # type: ignore[call-arg]  # taken by the base class
    )
    torch.manual_seed(1)
    with torch.device(device):
        model: PreTrainedModel = LlamaForCausalLM(config)
    torch.nn.Module.to(model, torch.bfloat16)
    model.eval().requires_grad_(False)
    return model


def _row(
    name: str, model: PreTrainedModel, tokens: Tensor, device: str, seconds: dict[str, float]
) -> dict[str, Any]:
    """The steps of a case, in its order. The first forward passes warm up and are not counted."""

    def forward() -> None:
        with torch.inference_mode():
            for start in range(0, len(tokens), _TOGETHER):
                model(input_ids=tokens[start : start + _TOGETHER].to(device), use_cache=False)

    def evaluate(**words: Any) -> Any:
        return mxcheck.evaluate(model, tokens, batch_size=_TOGETHER, **words)

    forward()
    spent = dict(seconds)
    _, spent["bare forward"] = _timed(forward, device)
    reference, spent["reference measured"] = _timed(lambda: evaluate(keep_log_probabilities=True), device)
    states = reference_states(model, tokens)
    made = mxcheck.recipe(_PRECISION, tier=_TIER)
    conversion, spent["convert"] = _timed(lambda: mxcheck.convert(model, made), device)
    with _undone(conversion):
        forward()
        _, spent["forward, converted"] = _timed(forward, device)
        _, measured = _timed(lambda: evaluate(reference=reference), device)
        spent["metrics"] = measured - spent["forward, converted"]
        _, spent["digests"] = _timed(lambda: digests(conversion), device)
        _, spent["layer pass"] = _timed(lambda: sublayer_errors(conversion, states), device)
    bare = spent["bare forward"]
    return {
        "model": name,
        "tokens": tokens.numel(),
        "parameters": sum(value.numel() for value in model.parameters()),
        "bare_seconds": bare,
        "over_bare": {step: value / bare for step, value in spent.items()},
    }


def _timed(call: Callable[[], Any], device: str) -> tuple[Any, float]:
    """Its result and its seconds, with what the device has left to do at both ends."""
    _wait(device)
    began = time.perf_counter()
    result = call()
    _wait(device)
    return result, time.perf_counter() - began


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


@contextmanager
def _undone(conversion: mxcheck.Conversion) -> Iterator[None]:
    try:
        yield
    finally:
        conversion.undo()
