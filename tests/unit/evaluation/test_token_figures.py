"""Figures of positions, against the plain way: everything in float64 at once, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM

from mxcheck.evaluation import token_figures
from mxcheck.evaluation.measure import evaluate
from mxcheck.evaluation.token_figures import NotFiniteError, TokenFigures

#: Sums of a few thousand float64 terms of order 1 in another order, with room.
FLOAT64 = 1e-10
ROWS = 23


@pytest.fixture(params=[5, 1_024, 40_001])
def vocabulary(request: pytest.FixtureRequest) -> int:
    """Much smaller than a tile, of its order, and an odd one."""
    found: int = request.param
    return found


def rows(vocabulary: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Logits as a model gives them: some tokens far more likely than the rest."""
    generator = torch.Generator().manual_seed(seed)
    return (4 * torch.randn(ROWS, vocabulary, generator=generator) - 3).to(dtype)


def targets(vocabulary: int) -> Tensor:
    return torch.randint(vocabulary, (ROWS,), generator=torch.Generator().manual_seed(9))


def of(*given: Any) -> dict[str, list[float]]:
    return TokenFigures(given[0].shape[-1], torch.device("cpu")).of(*given)


def plainly(logits: Tensor, true: Tensor, reference: Tensor) -> dict[str, np.ndarray]:
    log_p, log_r = (
        wide
        - wide.max(-1, keepdims=True)
        - np.log(np.exp(wide - wide.max(-1, keepdims=True)).sum(-1))[:, None]
        for wide in (one.double().numpy() for one in (logits, reference))
    )
    row, column = np.arange(ROWS), true.numpy()
    return {
        "loss": -log_p[row, column],
        "entropy": -(np.exp(log_p) * log_p).sum(-1),
        "reference_loss": -log_r[row, column],
        "kl": (np.exp(log_r) * (log_r - log_p)).sum(-1),
        "top1_agreement": (log_p.argmax(-1) == log_r.argmax(-1)).astype(np.float64),
        "bit_equal": (log_p == log_r).all(-1).astype(np.float64),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_figures_are_those_of_a_plain_computation(vocabulary: int, dtype: torch.dtype) -> None:
    reference, true = rows(vocabulary, 1, dtype), targets(vocabulary)
    logits = reference.clone()
    logits[1::2] += 0.3 * rows(vocabulary, 2, dtype)[1::2]  # every second row stays
    expected = plainly(logits, true, reference)
    found = of(logits, true, reference)

    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values.tolist(), abs=FLOAT64, rel=0), name
    assert found["bit_equal"] == [1.0, 0.0] * (ROWS // 2) + [1.0]
    assert found["kl"][::2] == [0.0] * (ROWS // 2 + 1)
    assert vocabulary < 100 or 0 < sum(found["top1_agreement"]) < ROWS


def test_a_row_s_figures_are_its_own(vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the other rows of a call nor the size of a tile change a bit."""
    logits, reference, true = rows(vocabulary, 1), rows(vocabulary, 2), targets(vocabulary)
    together = of(logits, true, reference)
    alone = [of(logits[i : i + 1], true[i : i + 1], reference[i : i + 1]) for i in range(ROWS)]

    assert together == {name: [one[name][0] for one in alone] for name in together}
    monkeypatch.setattr(token_figures, "_TILE", 3 * vocabulary)
    assert of(logits, true, reference) == together


def test_one_bit_of_one_logit_is_not_bit_equal(vocabulary: int) -> None:
    reference, true = rows(vocabulary, 1), targets(vocabulary)
    logits = reference.clone()
    least = int(logits[7].argmin())  # where its KL may round to 0
    logits[7, least].view(torch.int32).bitwise_xor_(1)

    assert of(logits, true, reference)["bit_equal"] == [*[1.0] * 7, 0.0, *[1.0] * (ROWS - 8)]


def test_the_first_of_equal_logits_is_the_likeliest(vocabulary: int) -> None:
    logits = torch.zeros(ROWS, vocabulary)
    logits[:, [1, 3]] = 1.0
    reference = logits.clone()
    reference[0, 1] = 0.5

    agreement = of(logits, targets(vocabulary), reference)["top1_agreement"]
    assert agreement == [0.0, *[1.0] * (ROWS - 1)]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_is_refused(vocabulary: int, value: float) -> None:
    logits = rows(vocabulary, 1)
    logits[-1, 2] = value
    of(logits[:-1], targets(vocabulary)[:-1])
    with pytest.raises(NotFiniteError):
        of(logits, targets(vocabulary))


class LargestOfFloat64(TorchDispatchMode):
    """Notes how many elements the largest float64 tensor has that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, Tensor) and one.dtype == torch.float64:
                self.numel = max(self.numel, one.numel())
        return result


def test_no_float64_tensor_holds_all_logits(
    tiny_llama: LlamaForCausalLM, random_tokens: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = tiny_llama.config.vocab_size
    monkeypatch.setattr(token_figures, "_TILE", 2 * vocabulary)
    with LargestOfFloat64() as seen:
        reference = evaluate(tiny_llama, random_tokens, keep_log_probabilities=True)
        evaluate(tiny_llama, random_tokens, reference=reference)

    assert 0 < seen.numel <= 3 * 2 * vocabulary < random_tokens.numel() * vocabulary
    with LargestOfFloat64() as seen, torch.no_grad():
        tiny_llama(input_ids=random_tokens).logits.double()
    assert seen.numel == random_tokens.numel() * vocabulary, "so the trap can snap"
