"""The figures over single tokens against plain loops, and that estimates of the KL agree unless misled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sample_record import build_record
from transformers import PreTrainedModel

from mxcheck.evaluation import token_figures
from mxcheck.evaluation.measure import Measurement, evaluate
from mxcheck.evaluation.prediction_figures import ByToken, predictions
from mxcheck.evaluation.tokens import load_tokens
from mxcheck.gate.drift import entropy_drift, top1_held
from mxcheck.gate.figures import check_figures
from mxcheck.gate.predictions import Predictions, check_estimates
from mxcheck.models.conversion.convert import Conversion
from mxcheck.models.recipes.recipe import Recipe, recipe
from mxcheck.models.zoo.load import LoadedModel

Convert = Callable[[PreTrainedModel, Recipe], Conversion]
Losses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SEQUENCES, POSITIONS = 5, 11


@pytest.fixture
def by_token() -> dict[str, ByToken]:
    draw = np.random.default_rng(3)
    reference = draw.gamma(2.0, 1.0, (SEQUENCES, POSITIONS))
    losses = np.maximum(reference + draw.normal(0.0, 0.3, reference.shape), 0.0)
    return {"losses": losses, "reference_losses": reference, "kl": draw.gamma(0.5, 0.1, reference.shape)}


def figures(by_token: dict[str, ByToken]) -> Predictions:
    count = len(by_token["kl"])
    return predictions(**by_token, sequence_entropies=[2.0] * count, sequence_top1=[0.9] * count)


def test_figures_equal_plain_loops(by_token: dict[str, ByToken]) -> None:
    found = figures(by_token)
    pairs = list(zip(by_token["losses"].tolist(), by_token["reference_losses"].tolist(), strict=True))
    k3 = [
        [math.exp(b - a) - 1 - (b - a) for a, b in zip(losses, reference, strict=True)]
        for losses, reference in pairs
    ]
    changes = sorted(
        math.exp(-a) - math.exp(-b) for one in pairs for a, b in zip(one[0], one[1], strict=True)
    )

    assert found.sequence_k3 == pytest.approx([sum(row) / POSITIONS for row in k3], rel=1e-12)
    assert found.k3 == pytest.approx(sum(map(sum, k3)) / SEQUENCES / POSITIONS, rel=1e-12)
    assert found.probability_change == pytest.approx(sum(changes) / len(changes), rel=1e-12)
    assert found.probability_change_rms == pytest.approx(
        math.sqrt(sum(x * x for x in changes) / len(changes)), rel=1e-12
    )
    # 55 values: the median is the 28th, the 25th percentile halfway between the 14th and the 15th
    percentiles = found.probability_change_percentiles
    assert (percentiles["0"], percentiles["50"], percentiles["100"]) == (
        changes[0],
        changes[27],
        changes[-1],
    )
    assert percentiles["25"] == pytest.approx((changes[13] + changes[14]) / 2, rel=1e-12)
    kl = sorted(by_token["kl"].ravel().tolist())
    assert (found.kl_percentiles["50"], found.kl_percentiles["100"]) == (kl[27], kl[-1])
    # at 0.9 * 54 = 48.6
    assert found.kl_percentiles["90"] == pytest.approx(0.4 * kl[48] + 0.6 * kl[49], rel=1e-12)
    assert (found.sequence_entropies, found.sequence_top1) == ([2.0] * SEQUENCES, [0.9] * SEQUENCES)


def test_parts_of_the_sequence_are_in_order_and_leave_out_nothing(by_token: dict[str, ByToken]) -> None:
    by_token["kl"] = np.tile(np.arange(POSITIONS, dtype=np.float64), (SEQUENCES, 1))
    # 11 positions: two, and three times three
    assert figures(by_token).kl_by_position == [0.5, 3.0, 6.0, 9.0]


@pytest.mark.parametrize(("positions", "parts"), [(1, 1), (3, 3), (4, 4), (5, 4)])
def test_a_sequence_shorter_than_its_parts(by_token: dict[str, ByToken], positions: int, parts: int) -> None:
    found = figures({name: values[:, :positions] for name, values in by_token.items()})
    assert len(found.kl_by_position) == parts


def test_k3_of_a_tiny_change_is_half_its_square(by_token: dict[str, ByToken]) -> None:
    """exp(x) - 1 - x, literally, would be rounding alone: 2^-53 is 2,000 times 1e-9 squared, halved."""
    by_token["losses"] = by_token["reference_losses"] - 1e-9
    assert figures(by_token).k3 == pytest.approx(5e-19, rel=0.5)
    by_token["losses"] = by_token["reference_losses"]
    assert figures(by_token).k3 == 0.0


def test_a_reference_that_held_the_token_impossible_is_infinite(by_token: dict[str, ByToken]) -> None:
    by_token["reference_losses"][2, 3] = 1e4
    found = figures(by_token)
    assert [math.isinf(value) for value in found.sequence_k3] == [False, False, True, False, False]


# A model on the reference's own text: the estimates agree, unless it is scored otherwise than the reference


@pytest.fixture(scope="module")
def ref_llama(reference_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return reference_model("ref-llama")


@pytest.fixture(scope="module")
def sampled(ref_llama: LoadedModel) -> torch.Tensor:
    """64 sequences of 256 tokens, sampled from the model."""
    assert ref_llama.source.tokens is not None
    return load_tokens(ref_llama.source.tokens)


@pytest.fixture(scope="module")
def reference(ref_llama: LoadedModel, sampled: torch.Tensor) -> Measurement:
    return evaluate(ref_llama.model, sampled, keep_log_probabilities=True)


def estimates(reference: Measurement, result: Measurement) -> dict[str, Any]:
    assert result.predictions is not None
    return {
        "sequence_k3": result.predictions.sequence_k3,
        "losses": result.sequence_losses,
        "reference_losses": reference.sequence_losses,
    }


def shifted(losses: Losses) -> Losses:
    """Scores every position by the token after the next one."""
    return lambda log_p, targets: losses(log_p, targets.roll(-1))


def by_argmax(losses: Losses) -> Losses:
    """Scores every position by the token that is ranked first."""
    return lambda log_p, _targets: losses(log_p, log_p.argmax(-1))


def warm(losses: Losses) -> Losses:
    """Divides log-probabilities by a temperature, and does not normalize them again."""
    return lambda log_p, targets: losses(log_p / 1.05, targets)


def test_estimates_agree_and_each_is_the_measured_one(
    reference: Measurement, ref_llama: LoadedModel, sampled: torch.Tensor, converted: Convert
) -> None:
    converted(ref_llama.model, recipe("mxfp4_e2m1", tier="B"))
    result = evaluate(ref_llama.model, sampled, reference=reference)
    found = estimates(reference, result)

    assert check_estimates(**found)[0]
    assert check_estimates(**found, sequence_kl=result.sequence_kl)[0]
    assert result.predictions is not None
    assert result.predictions.k3 == pytest.approx(result.kl, abs=5 * result.predictions.k3_error)
    assert result.predictions.sequence_entropies == result.sequence_entropies
    record = build_record(
        predictions=result.predictions,
        absent=dict.fromkeys(("sublayers", "counters"), "this test asks for neither"),
        bit_equal=False,
        cross_entropy=result.cross_entropy,
        perplexity=result.perplexity,
        entropy=result.entropy,
        kl=result.kl,
        sequence_kl=result.sequence_kl,
        scored_tokens=sampled.shape[0] * (sampled.shape[1] - 1),
        sequence_losses=result.sequence_losses,
        top1_agreement=result.top1_agreement,
    )
    check_figures(record)
    with pytest.raises(ValueError, match="mean of its parts by position"):
        check_figures(
            replace(record, kl=result.kl * 1.01, sequence_kl=[kl * 1.01 for kl in result.sequence_kl])
        )


#: The fault, whether the reference is scored by it too, and whether it is seen without the exact KL.
FAULTS = [
    pytest.param(shifted, True, "mxint8", False, id="both-shifted-mxint8"),
    pytest.param(shifted, True, "fp8_e4m3", True, id="both-shifted-fp8"),
    pytest.param(by_argmax, True, "fp8_e4m3", False, id="both-argmax-fp8"),
    pytest.param(shifted, False, "mxint8", False, id="model-shifted-mxint8"),
    pytest.param(by_argmax, False, "fp4_e2m1", False, id="model-argmax-fp4"),
    pytest.param(warm, False, "mxint8", True, id="not-normalized-mxint8"),
    pytest.param(warm, False, "fp4_e2m1", True, id="not-normalized-fp4"),
]


@pytest.mark.parametrize(("fault", "both", "precision", "alone"), FAULTS)
def test_wrong_scoring_is_seen(
    fault: Callable[[Losses], Losses],
    both: bool,
    precision: str,
    alone: bool,
    reference: Measurement,
    ref_llama: LoadedModel,
    sampled: torch.Tensor,
    converted: Convert,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses = token_figures._losses
    if both:
        monkeypatch.setattr(token_figures, "_losses", fault(losses))
        reference = evaluate(ref_llama.model, sampled, keep_log_probabilities=True)
    else:
        figures = token_figures._figures
        monkeypatch.setattr(
            token_figures,
            "_figures",
            lambda log_p, targets, spare: (
                figures(log_p, targets, spare) | {"loss": fault(losses)(log_p, targets)}
            ),
        )
    converted(ref_llama.model, recipe(precision, tier="B"))
    result = evaluate(ref_llama.model, sampled, reference=reference)

    found = estimates(reference, result)
    assert not check_estimates(**found, sequence_kl=result.sequence_kl)[0]
    assert check_estimates(**found)[0] is not alone


# What entropies and top-1 agreement are held for


def test_a_temperature_and_a_looser_top1_are_seen_on_any_machine(
    ref_llama: LoadedModel,
    sampled: torch.Tensor,
    converted: Convert,
    request: pytest.FixtureRequest,
) -> None:
    def in_top5(log_q: torch.Tensor, _targets: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
        return (log_q.topk(5, -1).indices == log_p.argmax(-1, keepdim=True)).any(-1).double()

    few = sampled[:8]
    reference = evaluate(ref_llama.model, few, keep_log_probabilities=True)
    converted(ref_llama.model, recipe("mxfp4_e2m1", tier="B"))
    accepted = evaluate(ref_llama.model, few, reference=reference, metrics={"in_top5": in_top5})
    head = ref_llama.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _module, _args, logits: logits / 1.01)
    request.addfinalizer(hook.remove)
    warm_model = evaluate(ref_llama.model, few, reference=reference)

    assert accepted.kl is not None
    count = few.shape[0] * (few.shape[1] - 1)
    for result, within in ((accepted, True), (warm_model, False)):
        found = entropy_drift(
            result.sequence_entropies,
            accepted.sequence_entropies,
            same_arithmetic=False,
            reference=reference.sequence_entropies,
            kl=accepted.kl,
            scored_tokens=count,
        )
        assert found.within is within
    top1, top5 = accepted.top1_agreement, float(np.mean(accepted.metrics["in_top5"]))
    assert top1 is not None
    assert top1_held(top1, top1, same_arithmetic=False, scored_tokens=count)[0]
    assert not top1_held(top5, top1, same_arithmetic=False, scored_tokens=count)[0]
